package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"

	"golang.org/x/sys/unix"
)

// The addresses in a network of User: those that slirp4netns has always had.
func userSubnet() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 2, 0}), 24) }

// The last bytes of the addresses in it.
const (
	userGateway = 2
	userDNS     = 3 // answers as the resolvers of this machine do
	userBox     = 100
)

// tun is the device that both programs need.
const tun = "/dev/net/tun"

// User makes a network whose packets a program of this user carries: slirp4netns, or pasta. It needs no rights on this machine, but
// a user namespace that this process is root in.
func User(ctx context.Context) (*Network, error) {
	program, err := findCarrier()
	if err != nil {
		return nil, err
	}
	resolver, _, err := hostResolver(resolvConf)
	if err != nil {
		return nil, fmt.Errorf("finding the resolver: %w", err)
	}
	ns, err := newNamespace(ctx, false)
	if err != nil {
		return nil, err
	}
	subnet := userSubnet()
	n := &Network{
		NS: ns.file, Address: hostAddress(subnet, userBox), Resolver: resolver.with(hostAddress(subnet, userDNS)),
		closers: []io.Closer{closer(func() error { ns.close(); return nil })},
	}
	c, err := program.start(ctx, ns)
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	n.closers = append(n.closers, c)
	return n, nil
}

// carrier is a program that carries packets between a namespace and this machine's sockets.
type carrier struct {
	path string
	// args get it going in the network namespace that is its descriptor nsFD, in the foreground.
	args []string
	// ready says whether it writes to readyFD when it is, and ends when exitFD does. Otherwise the interface comes up when it is ready, and a
	// signal ends it.
	ready bool
}

// The descriptors of a carrier.
const (
	nsFD    = 3
	readyFD = 4
	exitFD  = 5
)

// findCarrier finds one that can work here.
func findCarrier() (*carrier, error) {
	c, err := findProgram()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(tun, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("%s is missing, which %s needs: modprobe tun (in a container: --device %s), or use --network host", tun, c.path, tun)
	case err != nil:
		return nil, fmt.Errorf("opening %s, which %s needs: %w: chmod 666 %s, or use --network host", tun, c.path, err, tun)
	}
	unix.Close(fd)
	return c, nil
}

func findProgram() (*carrier, error) {
	subnet := userSubnet()
	ns := fmt.Sprintf("/proc/self/fd/%d", nsFD)
	if path, err := exec.LookPath("slirp4netns"); err == nil {
		return &carrier{path: path, ready: true, args: []string{
			"--configure", "--mtu=65520", "--disable-host-loopback", "--enable-seccomp", "--cidr=" + subnet.String(),
			fmt.Sprintf("--ready-fd=%d", readyFD), fmt.Sprintf("--exit-fd=%d", exitFD), "--netns-type=path", ns, inside,
		}}, nil
	}
	if path, err := exec.LookPath("pasta"); err == nil {
		gateway := hostAddress(subnet, userGateway).String()
		return &carrier{path: path, args: []string{
			"--foreground", "--quiet", "--runas", "0:0", "--config-net", "--ipv4-only", "--no-map-gw", "--ns-ifname", inside,
			"--address", hostAddress(subnet, userBox).String(), "--netmask", "24", "--gateway", gateway,
			"--dns-forward", hostAddress(subnet, userDNS).String(), "--tcp-ports", "none", "--udp-ports", "none",
			"--tcp-ns", "none", "--udp-ns", "none", "--netns", ns,
		}}, nil
	}
	return nil, errors.New("a private network in user mode needs slirp4netns or pasta: install slirp4netns or passt, or use --network host")
}
