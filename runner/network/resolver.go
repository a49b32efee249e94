package network

import (
	"errors"
	"net/netip"
	"os"
	"strings"
)

// The files that say who resolves names on this machine. The second is systemd's: what its own resolver on 127.0.0.53 asks.
const (
	resolvConf    = "/etc/resolv.conf"
	systemdResolv = "/run/systemd/resolve/resolv.conf"
)

// resolver is a resolv.conf(5).
type resolver struct {
	servers []netip.Addr
	rest    []string // all other lines
}

func parseResolver(data string) (r resolver) {
	for line := range strings.Lines(data) {
		line = strings.TrimRight(line, "\r\n")
		f := strings.Fields(line)
		if len(f) == 0 || strings.ContainsAny(f[0][:1], "#;") {
			continue
		}
		if f[0] != "nameserver" {
			r.rest = append(r.rest, line)
			continue
		}
		if len(f) > 1 {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				r.servers = append(r.servers, a.Unmap())
			}
		}
	}
	return r
}

// reachable are the servers that a box can ask itself: by IPv4, and not on this machine's loopback.
func (r resolver) reachable() (out []netip.Addr) {
	for _, a := range r.servers {
		if a.Is4() && !a.IsLoopback() && !a.IsUnspecified() {
			out = append(out, a)
		}
	}
	return out
}

// with returns the resolv.conf of a box that asks servers.
func (r resolver) with(servers ...netip.Addr) []byte {
	var b strings.Builder
	for _, a := range servers {
		b.WriteString("nameserver " + a.String() + "\n")
	}
	for _, l := range r.rest {
		b.WriteString(l + "\n")
	}
	return []byte(b.String())
}

// hostResolver reads the resolvers of this machine. If a box can ask none of them, forward is true: then strake asks for it.
func hostResolver(files ...string) (r resolver, forward bool, err error) {
	for i, file := range files {
		data, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return r, false, err
		}
		found := parseResolver(string(data))
		if i == 0 {
			r = found
		}
		if len(found.reachable()) > 0 {
			if i > 0 { // the search list of the first one holds as well
				found.rest = r.rest
			}
			return found, false, nil
		}
	}
	if len(r.servers) == 0 { // as the C library has it
		r.servers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return r, true, nil
}
