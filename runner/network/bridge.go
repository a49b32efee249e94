package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// bridge is the interface that all boxes of root share.
const bridge = "strake0"

// portPrefix begins the names of its ports; the last byte of the box's address follows.
const portPrefix = "strk"

const ethernetMTU = 1500

// host is what Bridge needs of the machine.
type host struct {
	routes, nft *socket
	pool        *pool
	port        string // of the box; empty until there is one
}

// openHost opens it; if there is no pool, and make is false, it is nil.
func openHost(dir string, make bool) (*host, error) {
	p, err := openPool(dir, make)
	if p == nil || err != nil {
		return nil, err
	}
	h := &host{pool: p}
	if h.routes, err = openSocket(unix.NETLINK_ROUTE); err != nil {
		p.close()
		return nil, err
	}
	if h.nft, err = openSocket(unix.NETLINK_NETFILTER); err != nil {
		h.routes.close()
		p.close()
		return nil, err
	}
	return h, nil
}

func (h *host) close() error {
	h.routes.close()
	h.nft.close()
	return h.pool.close()
}

// Bridge makes a network whose packets leave with this machine's address. It needs CAP_NET_ADMIN. dir is where all strakes of
// this machine find each other (/run/strake); it is made if it is missing. The bridge goes with the last box.
func Bridge(ctx context.Context, dir string) (*Network, error) {
	resolver, forward, err := hostResolver(resolvConf, systemdResolv)
	if err != nil {
		return nil, fmt.Errorf("finding the resolver: %w", err)
	}
	ns, err := newNamespace(ctx, forward)
	if err != nil {
		return nil, privilege(err)
	}
	n := &Network{NS: ns.file, closers: []io.Closer{closer(func() error { ns.close(); return nil })}}
	h, err := openHost(dir, true)
	if err != nil {
		n.Close()
		return nil, err
	}
	n.closers = append(n.closers, closer(h.leave))
	if n.Address, err = h.join(ns, resolver); err != nil {
		return nil, errors.Join(privilege(err), n.Close())
	}
	n.Resolver = resolver.with(resolver.reachable()...)
	if forward {
		ns.dns.serve(ctx, resolver.servers)
		n.Resolver = resolver.with(forwarder())
	}
	return n, nil
}

// privilege says what is missing to who may not.
func privilege(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: a private network needs CAP_NET_ADMIN and a writable /proc/sys (in a container: --privileged): use --network host", err)
	}
	return err
}

// join makes ns a port of the bridge, and the bridge if it is not there.
func (h *host) join(ns *namespace, r resolver) (netip.Addr, error) {
	var none netip.Addr
	if err := h.pool.lock(); err != nil {
		return none, fmt.Errorf("locking the network: %w", err)
	}
	defer h.pool.unlock()
	number, err := h.pool.take()
	if err != nil {
		return none, err
	}
	at, subnet, err := h.ensure(r)
	if err != nil {
		return none, err
	}
	name := fmt.Sprintf("%s%d", portPrefix, number)
	if err := h.routes.remove(name); err != nil { // of a box that was killed
		return none, err
	}
	own, gateway := hostAddress(subnet, number), hostAddress(subnet, 1)
	if err := h.routes.addVeth(name, at.index, ns.file.Fd(), mac(own), at.mtu); err != nil {
		return none, err
	}
	if err := noIPv6(name); err != nil {
		return none, err
	}
	all, err := h.routes.links()
	if err != nil {
		return none, err
	}
	h.port = name
	port := find(all, name)
	if all, err = ns.routes.links(); err != nil {
		return none, err
	}
	eth := find(all, inside)
	if port == nil || eth == nil {
		return none, errors.New("the interface of the box is gone")
	}
	for _, f := range []func() error{
		func() error { return h.routes.isolate(port.index) },
		func() error { return h.routes.up(port.index) },
		func() error { return ns.routes.address(eth.index, netip.PrefixFrom(own, subnet.Bits())) },
		func() error { return ns.routes.up(eth.index) },
		func() error { return ns.routes.defaultRoute(eth.index, gateway) },
	} {
		if err := f(); err != nil {
			return none, err
		}
	}
	return own, nil
}

// ensure makes the bridge and what goes with it, or what of that is missing.
func (h *host) ensure(r resolver) (at link, subnet netip.Prefix, err error) {
	st, err := h.pool.read()
	if err != nil {
		return at, subnet, err
	}
	all, err := h.routes.links()
	if err != nil {
		return at, subnet, err
	}
	routes, err := h.routes.routes()
	if err != nil {
		return at, subnet, err
	}
	found := find(all, bridge)
	if found != nil && !st.Subnet.IsValid() {
		if found.kind != "bridge" || slices.ContainsFunc(all, func(l link) bool { return l.master == found.index }) {
			return at, subnet, fmt.Errorf("the interface %s is in use by somebody else: remove it with «ip link delete %s»", bridge, bridge)
		}
		if err := h.routes.remove(bridge); err != nil {
			return at, subnet, err
		}
		found = nil
	}
	if !st.Subnet.IsValid() {
		if st.Subnet, err = freeSubnet(routes, r.servers); err != nil {
			return at, subnet, err
		}
	}
	st.Opened = append(st.Opened, closed(all, routes, st.Opened)...)
	allow := found == nil && !st.Allowed && forwardDropped()
	st.Allowed = st.Allowed || allow
	if err := h.pool.write(st); err != nil { // before anything is changed, so that it can be undone
		return at, subnet, err
	}
	if found == nil {
		if found, err = h.makeBridge(st.Subnet, uplinkMTU(all, routes)); err != nil {
			return at, subnet, err
		}
	}
	if err := h.nft.masquerade(st.Subnet, st.Opened); err != nil {
		return at, subnet, err
	}
	if allow {
		if err := allowForward(); err != nil {
			return at, subnet, err
		}
	}
	for _, name := range append([]string{bridge}, st.Opened...) {
		if err := setForwarding(name, "1"); err != nil && (name == bridge || !errors.Is(err, os.ErrNotExist)) {
			return at, subnet, fmt.Errorf("turning forwarding on: %w", err)
		}
	}
	return *found, st.Subnet, nil
}

func (h *host) makeBridge(subnet netip.Prefix, mtu uint32) (*link, error) {
	own := hostAddress(subnet, 1)
	if err := h.routes.addBridge(bridge, mac(own), mtu); err != nil {
		return nil, err
	}
	// What a box sends must not configure the host, as a router's advertisement could.
	if err := noIPv6(bridge); err != nil {
		return nil, err
	}
	if err := writeSys("net/ipv4/conf", bridge, "rp_filter", "1"); err != nil {
		return nil, fmt.Errorf("filtering forged addresses: %w", err)
	}
	all, err := h.routes.links()
	if err != nil {
		return nil, err
	}
	found := find(all, bridge)
	if found == nil {
		return nil, fmt.Errorf("the bridge %s is gone", bridge)
	}
	if err := h.routes.address(found.index, netip.PrefixFrom(own, subnet.Bits())); err != nil {
		return nil, err
	}
	return found, h.routes.up(found.index)
}

// leave takes the box off the bridge, and removes that if it was the last one.
func (h *host) leave() error {
	var portErr error
	if h.port != "" {
		portErr = h.routes.remove(h.port)
	}
	err := h.pool.lock()
	if err == nil {
		err = h.sweep()
	}
	return errors.Join(portErr, err, h.close())
}

// sweep removes the bridge and all that goes with it, ports of killed boxes among it, if there is no other box. The pool is locked.
func (h *host) sweep() error {
	busy, err := h.pool.others()
	if err != nil {
		return err
	}
	if busy {
		return nil
	}
	st, err := h.pool.read()
	if err != nil || !st.Subnet.IsValid() {
		return err
	}
	all, err := h.routes.links()
	if err != nil {
		return err
	}
	var errs []error
	if b := find(all, bridge); b != nil {
		for _, l := range all {
			if l.master == b.index && strings.HasPrefix(l.name, portPrefix) {
				errs = append(errs, h.routes.remove(l.name))
			}
		}
		errs = append(errs, h.routes.remove(bridge))
	}
	for _, name := range st.Opened {
		if err := setForwarding(name, "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("turning forwarding off: %w", err))
		}
	}
	if st.Allowed {
		denyForward()
	}
	if errs = append(errs, h.nft.removeTable()); errors.Join(errs...) != nil {
		return fmt.Errorf("removing the bridge: %w", errors.Join(errs...))
	}
	return h.pool.write(state{})
}

// Sweep removes what killed processes have left of a bridge, if there is anything and nobody uses it.
func Sweep(dir string) error {
	h, err := openHost(dir, false)
	if h == nil || err != nil {
		return err
	}
	if st, err := h.pool.read(); err != nil || !st.Subnet.IsValid() {
		return errors.Join(err, h.close())
	}
	return h.leave()
}

// freeSubnet finds a subnet that no route and no resolver is in.
func freeSubnet(routes []route, servers []netip.Addr) (netip.Prefix, error) {
	for i := range 3 * 256 {
		third := byte(i)
		p := netip.PrefixFrom([]netip.Addr{
			netip.AddrFrom4([4]byte{10, 213, third, 0}), netip.AddrFrom4([4]byte{172, 30, third, 0}), netip.AddrFrom4([4]byte{192, 168, third, 0}),
		}[i/256], 24)
		taken := slices.ContainsFunc(routes, func(r route) bool { return r.to.Bits() > 0 && r.to.Overlaps(p) })
		if !taken && !slices.ContainsFunc(servers, p.Contains) {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("no subnet is free for the bridge: all of 10.213.0.0/16, 172.30.0.0/16 and 192.168.0.0/16 has routes: use --network host")
}

func hostAddress(subnet netip.Prefix, n byte) netip.Addr {
	a := subnet.Addr().As4()
	a[3] = n
	return netip.AddrFrom4(a)
}

// mac is a locally administered hardware address made of an IP address, as Docker has it.
func mac(a netip.Addr) []byte { return append([]byte{0x02, 0x42}, a.AsSlice()...) }

// closed are the interfaces with routes that do not forward.
func closed(all []link, routes []route, opened []string) (out []string) {
	for _, l := range all {
		if l.name == bridge || l.name == "lo" || slices.Contains(opened, l.name) {
			continue
		}
		if !slices.ContainsFunc(routes, func(r route) bool { return r.link == l.index }) {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", l.name, "forwarding"))
		if err == nil && strings.TrimSpace(string(data)) == "0" {
			out = append(out, l.name)
		}
	}
	return out
}

// uplinkMTU is the size of packets that the way out takes.
func uplinkMTU(all []link, routes []route) uint32 {
	mtu := uint32(ethernetMTU)
	for _, r := range routes {
		for _, l := range all {
			if r.to.Bits() == 0 && l.index == r.link && l.name != "lo" && l.mtu > 0 && l.mtu < mtu {
				mtu = l.mtu
			}
		}
	}
	return mtu
}

func setForwarding(name, value string) error {
	return writeSys("net/ipv4/conf", name, "forwarding", value)
}

// noIPv6 keeps IPv6 off an interface of the host.
func noIPv6(name string) error {
	err := writeSys("net/ipv6/conf", name, "disable_ipv6", "1")
	if err != nil && !errors.Is(err, os.ErrNotExist) { // the kernel has none
		return fmt.Errorf("turning IPv6 off: %w", err)
	}
	return nil
}

// writeSys writes a setting of an interface. It is read first: what is right already needs no right to change it.
func writeSys(folder, name, key, value string) error {
	file := filepath.Join("/proc/sys", folder, name, key)
	data, err := os.ReadFile(file)
	if err == nil && strings.TrimSpace(string(data)) == value {
		return nil
	}
	return os.WriteFile(file, []byte(value), 0)
}
