package main

import (
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/dockerfile"
)

// stepFlags are the flags about what every RUN of a build gets, as they were typed.
type stepFlags struct {
	hosts, allow  []string
	deviceFolders []string
	network       string
	limits        limitFlags
}

func (f *stepFlags) add(set *pflag.FlagSet) {
	set.StringArrayVar(&f.hosts, "add-host", nil, "line of /etc/hosts for steps, as `NAME:IP`, where IP may be host-gateway: this machine (repeatable)")
	set.StringVar(&f.network, "network", "default", "network of steps that do not say: `default` (the host's), host, none or bridge (a private one)")
	set.StringArrayVar(&f.allow, "allow", nil, "`right` that steps may ask for: network.host, security.insecure, device or device=NAME[,alias=OTHER] (repeatable)")
	set.StringArrayVar(&f.deviceFolders, "cdi-spec-dir", []string{"/etc/cdi", "/var/run/cdi"}, "`folder` of CDI specifications for RUN --device (repeatable)")
	f.limits.add(set, "a step")
}

// decide turns the flags into values.
func (f *stepFlags) decide() (builder.SandboxOptions, error) {
	var opt builder.SandboxOptions
	if err := f.limits.decide(&opt); err != nil {
		return opt, err
	}
	for _, h := range f.hosts {
		line, err := f.parseHost(h)
		if err != nil {
			return opt, err
		}
		opt.ExtraHosts = append(opt.ExtraHosts, line)
	}
	switch opt.Network = dockerfile.Network(f.network); opt.Network {
	case dockerfile.NetworkDefault, dockerfile.NetworkNone, builder.NetworkBridge:
	case dockerfile.NetworkHost:
		opt.AllowHostNetwork = true // who says it for all steps allows it to each, as in docker
	case "":
		opt.Network = dockerfile.NetworkDefault
	default:
		return opt, usagef("invalid --network %q: it is default, host, none or bridge", f.network)
	}
	opt.DeviceFolders = f.deviceFolders
	for _, a := range f.allow {
		right, value, valued := strings.Cut(a, "=")
		switch {
		case a == "network.host":
			opt.AllowHostNetwork = true
		case a == "security.insecure":
			opt.AllowInsecure = true
		case right == "device" && (!valued || value != ""):
			if err := opt.Devices.Add(value); err != nil {
				return opt, usagef("invalid --allow %q: %w", a, err)
			}
		default:
			return opt, usagef("invalid --allow %q: it is network.host, security.insecure, device or device=NAME", a)
		}
	}
	return opt, nil
}

// parseHost turns NAME:IP or NAME=IP into a line of /etc/hosts. The IP may be host-gateway, by which a step reaches this machine.
func (f *stepFlags) parseHost(value string) (string, error) {
	name, ip, ok := strings.Cut(value, "=")
	if !ok {
		name, ip, ok = strings.Cut(value, ":")
	}
	if !ok || name == "" || strings.ContainsAny(name, " \t\n#") {
		return "", usagef("invalid --add-host %q: it is NAME:IP", value)
	}
	if ip == "host-gateway" {
		if n := dockerfile.Network(f.network); n != dockerfile.NetworkDefault && n != dockerfile.NetworkHost && n != "" {
			return "", usagef("invalid --add-host %q: with --network %s steps do not reach this machine: use --network host", value, n)
		}
		ip = "127.0.0.1" // the network is the same
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]"))
	if err != nil || addr.Zone() != "" {
		return "", usagef("invalid --add-host %q: %q is not an IP address", value, ip)
	}
	return addr.String() + "\t" + name, nil
}
