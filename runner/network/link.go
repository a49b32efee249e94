package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// link is a network interface.
type link struct {
	index, master int
	mtu           uint32
	name, kind    string
}

const create = unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_EXCL

// ifInfo is a struct ifinfomsg.
func ifInfo(family byte, index int, flags uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	b[0] = family
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], flags) // which of them to change
	return b
}

// links lists the interfaces.
func (s *socket) links() ([]link, error) {
	var all []link
	err := s.do(func(kind uint16, data []byte) {
		if kind == unix.RTM_NEWLINK && len(data) >= unix.SizeofIfInfomsg {
			all = append(all, parseLink(data))
		}
	}, newMessage(unix.RTM_GETLINK, unix.NLM_F_DUMP, ifInfo(unix.AF_UNSPEC, 0, 0)))
	if err != nil {
		return nil, fmt.Errorf("listing the network interfaces: %w", err)
	}
	return all, nil
}

func parseLink(data []byte) link {
	l := link{index: int(binary.NativeEndian.Uint32(data[4:]))}
	for kind, value := range attributes(data[unix.SizeofIfInfomsg:]) {
		switch {
		case kind == unix.IFLA_IFNAME:
			l.name = cString(value)
		case kind == unix.IFLA_MASTER && len(value) == 4:
			l.master = int(binary.NativeEndian.Uint32(value))
		case kind == unix.IFLA_MTU && len(value) == 4:
			l.mtu = binary.NativeEndian.Uint32(value)
		case kind == unix.IFLA_LINKINFO:
			for k, v := range attributes(value) {
				if k == unix.IFLA_INFO_KIND {
					l.kind = cString(v)
				}
			}
		}
	}
	return l
}

// find returns the interface called name, or nil.
func find(all []link, name string) *link {
	for i := range all {
		if all[i].name == name {
			return &all[i]
		}
	}
	return nil
}

// addBridge makes a bridge; it is down.
func (s *socket) addBridge(name string, mac []byte, mtu uint32) error {
	m := newMessage(unix.RTM_NEWLINK, create, ifInfo(unix.AF_UNSPEC, 0, 0)).text(unix.IFLA_IFNAME, name)
	m.attr(unix.IFLA_ADDRESS, mac).number(unix.IFLA_MTU, mtu)
	m.nest(unix.IFLA_LINKINFO).text(unix.IFLA_INFO_KIND, "bridge").end()
	if err := s.do(nil, m); err != nil {
		return fmt.Errorf("making the bridge %s: %w", name, err)
	}
	return nil
}

// addVeth makes a pair of interfaces: name here, a port of master, and eth0 in the namespace ns. Both are down.
func (s *socket) addVeth(name string, master int, ns uintptr, mac []byte, mtu uint32) error {
	const peer = 1 // VETH_INFO_PEER
	m := newMessage(unix.RTM_NEWLINK, create, ifInfo(unix.AF_UNSPEC, 0, 0)).text(unix.IFLA_IFNAME, name)
	m.number(unix.IFLA_MTU, mtu).number(unix.IFLA_MASTER, uint32(master))
	m.nest(unix.IFLA_LINKINFO).text(unix.IFLA_INFO_KIND, "veth").nest(unix.IFLA_INFO_DATA).nest(peer, ifInfo(unix.AF_UNSPEC, 0, 0)...)
	m.text(unix.IFLA_IFNAME, inside).number(unix.IFLA_NET_NS_FD, uint32(ns)).number(unix.IFLA_MTU, mtu).attr(unix.IFLA_ADDRESS, mac)
	if err := s.do(nil, m.end().end().end()); err != nil {
		return fmt.Errorf("making the interface %s: %w", name, err)
	}
	return nil
}

// isolate keeps the ports of a bridge that it was done to from talking to each other.
func (s *socket) isolate(port int) error {
	const isolated = 33 // IFLA_BRPORT_ISOLATED
	m := newMessage(unix.RTM_SETLINK, unix.NLM_F_ACK, ifInfo(unix.AF_BRIDGE, port, 0))
	if err := s.do(nil, m.nest(unix.IFLA_PROTINFO).attr(isolated, []byte{1}).end()); err != nil {
		return fmt.Errorf("isolating a port of the bridge: %w", err)
	}
	return nil
}

// up brings an interface up.
func (s *socket) up(index int) error {
	if err := s.do(nil, newMessage(unix.RTM_NEWLINK, unix.NLM_F_ACK, ifInfo(unix.AF_UNSPEC, index, unix.IFF_UP))); err != nil {
		return fmt.Errorf("bringing an interface up: %w", err)
	}
	return nil
}

// remove removes an interface, if it is there.
func (s *socket) remove(name string) error {
	m := newMessage(unix.RTM_DELLINK, unix.NLM_F_ACK, ifInfo(unix.AF_UNSPEC, 0, 0)).text(unix.IFLA_IFNAME, name)
	if err := s.do(nil, m); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing the interface %s: %w", name, err)
	}
	return nil
}

// address gives an interface an IPv4 address, and with it a route to its subnet.
func (s *socket) address(index int, p netip.Prefix) error {
	ip := p.Addr().AsSlice()
	body := make([]byte, unix.SizeofIfAddrmsg)
	body[0], body[1] = unix.AF_INET, byte(p.Bits())
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	m := newMessage(unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
	if err := s.do(nil, m.attr(unix.IFA_LOCAL, ip).attr(unix.IFA_ADDRESS, ip)); err != nil {
		return fmt.Errorf("giving an interface the address %v: %w", p, err)
	}
	return nil
}

// defaultRoute sends all that has no other way to gateway.
func (s *socket) defaultRoute(index int, gateway netip.Addr) error {
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[4], body[5], body[6], body[7] = unix.AF_INET, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	m := newMessage(unix.RTM_NEWROUTE, create, body).attr(unix.RTA_GATEWAY, gateway.AsSlice()).number(unix.RTA_OIF, uint32(index))
	if err := s.do(nil, m); err != nil {
		return fmt.Errorf("making the default route: %w", err)
	}
	return nil
}

// route is where packets to an IPv4 destination go; the default route has 0.0.0.0/0.
type route struct {
	to   netip.Prefix
	link int // index of the interface; 0 if there is none, or more than one
}

// routes lists those of all tables.
func (s *socket) routes() ([]route, error) {
	body := make([]byte, unix.SizeofRtMsg)
	body[0] = unix.AF_INET
	var all []route
	err := s.do(func(kind uint16, data []byte) {
		if kind != unix.RTM_NEWROUTE || len(data) < unix.SizeofRtMsg {
			return
		}
		r := route{to: netip.PrefixFrom(netip.IPv4Unspecified(), int(data[1]))}
		for k, v := range attributes(data[unix.SizeofRtMsg:]) {
			switch {
			case k == unix.RTA_DST && len(v) == 4:
				r.to = netip.PrefixFrom(netip.AddrFrom4([4]byte(v)), int(data[1]))
			case k == unix.RTA_OIF && len(v) == 4:
				r.link = int(binary.NativeEndian.Uint32(v))
			}
		}
		all = append(all, r)
	}, newMessage(unix.RTM_GETROUTE, unix.NLM_F_DUMP, body))
	if err != nil {
		return nil, fmt.Errorf("listing the routes: %w", err)
	}
	return all, nil
}
