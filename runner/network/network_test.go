package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHostResolver(t *testing.T) {
	dir := t.TempDir()
	file := func(name, data string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	stub := file("stub", "# systemd\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch a.b\n")
	real4 := file("real", "nameserver fe80::1%eth0\nnameserver 192.0.2.1\nnameserver ::ffff:192.0.2.2\nsearch x\n")
	six := file("six", "nameserver 2001:db8::1\n; no\nnameserver\nnameserver what\n")
	for _, c := range []struct {
		files   []string
		servers string
		forward bool
	}{
		{[]string{real4, stub}, "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch x\n", false},
		{[]string{stub, real4}, "nameserver 192.0.2.1\nnameserver 192.0.2.2\noptions edns0 trust-ad\nsearch a.b\n", false},
		{[]string{stub, filepath.Join(dir, "none")}, "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch a.b\n", true},
		{[]string{six, stub}, "nameserver 2001:db8::1\n", true},
		{[]string{filepath.Join(dir, "none")}, "nameserver 127.0.0.1\n", true},
	} {
		r, forward, err := hostResolver(c.files...)
		servers := r.servers
		if !forward {
			servers = r.reachable()
		}
		if got := string(r.with(servers...)); err != nil || forward != c.forward || got != c.servers {
			t.Errorf("%v: %q, %v, %v", c.files, got, forward, err)
		}
	}
}

func TestFreeSubnet(t *testing.T) {
	p := netip.MustParsePrefix
	all := []route{{to: p("0.0.0.0/0")}}
	for _, c := range []struct {
		add     string
		servers []netip.Addr
		want    string
	}{
		{"192.0.2.0/24", nil, "10.213.0.0/24"},
		{"10.213.0.128/25", nil, "10.213.1.0/24"},
		{"10.213.7.0/24", []netip.Addr{netip.MustParseAddr("10.213.1.9")}, "10.213.2.0/24"},
		{"10.0.0.0/8", nil, "172.30.0.0/24"},
		{"172.16.0.0/12", nil, "192.168.0.0/24"},
		{"192.168.0.0/16", nil, ""},
	} {
		all = append(all, route{to: p(c.add)})
		got, err := freeSubnet(all, c.servers)
		if c.want == "" {
			if err == nil {
				t.Errorf("%s: %v is no error", c.add, got)
			}
		} else if err != nil || got.String() != c.want {
			t.Errorf("%s: %v, %v", c.add, got, err)
		}
	}
}

// Addresses are taken once, whoever takes them, and are free when the file is closed.
func TestPool(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "strake")
	if p, err := openPool(dir, false); p != nil || err != nil {
		t.Fatalf("%v, %v", p, err)
	}
	var pools []*pool
	for want := byte(firstHost); want < 10; want++ {
		p, err := openPool(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		pools = append(pools, p)
		if n, err := p.take(); err != nil || n != want {
			t.Errorf("took %d, %v", n, err)
		}
		if others, err := p.others(); err != nil || others != (want > firstHost) {
			t.Errorf("others: %v, %v", others, err)
		}
	}
	st := state{Subnet: netip.MustParsePrefix("10.213.0.0/24"), Opened: []string{"eth0"}}
	if err := pools[0].write(st); err != nil {
		t.Fatal(err)
	}
	if got, err := pools[1].read(); err != nil || got.Subnet != st.Subnet || !slices.Equal(got.Opened, st.Opened) {
		t.Errorf("%+v, %v", got, err)
	}
	pools[3].close()
	p, err := openPool(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := p.take(); err != nil || n != firstHost+3 {
		t.Errorf("took %d, %v", n, err)
	}
	for _, q := range append(pools, p) {
		q.close()
	}
	if p, err = openPool(dir, false); err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if others, err := p.others(); err != nil || others {
		t.Errorf("others: %v, %v", others, err)
	}
	if err := p.write(state{}); err != nil {
		t.Fatal(err)
	}
	if got, err := p.read(); err != nil || got.Subnet.IsValid() {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAnswers(t *testing.T) {
	failed := func(code int32, flags uint16, tail []byte) []byte {
		body := binary.NativeEndian.AppendUint32(nil, uint32(code))
		body = append(body, make([]byte, unix.SizeofNlMsghdr)...)
		binary.NativeEndian.PutUint32(body[4:], unix.SizeofNlMsghdr)
		m := newMessage(unix.NLMSG_ERROR, flags, append(body, tail...))
		binary.NativeEndian.PutUint32(m.data, uint32(len(m.data)))
		binary.NativeEndian.PutUint32(m.data[8:], 1)
		return m.data
	}
	waiting := map[uint32]bool{1: true}
	if err := answers(failed(0, 0, nil), waiting, nil); err != nil || len(waiting) != 0 {
		t.Errorf("an acknowledgement: %v, %v", err, waiting)
	}
	said := newMessage(0, 0, nil).text(unix.NLMSGERR_ATTR_MSG, "no such thing").data[unix.SizeofNlMsghdr:]
	err := answers(failed(-int32(unix.ENOENT), unix.NLM_F_ACK_TLVS, said), map[uint32]bool{1: true}, nil)
	if !errors.Is(err, unix.ENOENT) || err.Error() != "no such file or directory (no such thing)" {
		t.Errorf("an error: %v", err)
	}
	if err := answers(failed(-int32(unix.ENOENT), 0, nil), map[uint32]bool{2: true}, nil); err != nil {
		t.Errorf("another's error: %v", err)
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add(newMessage(unix.RTM_NEWLINK, 0, ifInfo(0, 1, 0)).text(unix.IFLA_IFNAME, "x").nest(unix.IFLA_LINKINFO).end().data)
	f.Fuzz(func(_ *testing.T, data []byte) {
		_ = answers(bytes.Clone(data), map[uint32]bool{0: true, 1: true}, func(_ uint16, body []byte) {
			if len(body) >= unix.SizeofIfInfomsg {
				parseLink(body)
			}
		})
		parseResolver(string(data))
	})
}
