package supervisor

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/seccomp"
	"github.com/strake-build/strake/runner/seccomp/seccomptest"
)

func insns(t *testing.T, filter func(uint64) ([]byte, error)) []unix.SockFilter {
	t.Helper()
	data, err := filter(seccomp.Capabilities)
	if err != nil {
		t.Fatal(err)
	}
	p := seccomp.Program(data)
	return unsafe.Slice(p.Filter, p.Len)
}

// The filter with devices is the usual one but for the calls that make devices, and becomes it for kernels without listeners.
func TestDeviceFilter(t *testing.T) {
	usual, with := insns(t, func(caps uint64) ([]byte, error) { return seccomp.Filter(caps) }), insns(t, func(caps uint64) ([]byte, error) { return Filter(caps, Devices) })
	plain := seccomp.WithoutNotify(&unix.SockFprog{Len: uint16(len(with)), Filter: &with[0]})
	if plain == nil {
		t.Fatal("the filter reports nothing")
	}
	without := unsafe.Slice(plain.Filter, plain.Len)
	if p := seccomp.WithoutNotify(&unix.SockFprog{Len: uint16(len(usual)), Filter: &usual[0]}); p != nil {
		t.Error("the usual filter reports something")
	}
	modes := []uint64{0, 0o644, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK | 0o6777, unix.S_IFDIR, 1<<16 | unix.S_IFCHR | 0o600, 1 << 13 << 32}
	devs := []uint64{0, 1, 0x103, 1 << 31, 1 << 32, 1<<64 - 1}
	r := rand.New(rand.NewPCG(3, 4))
	for _, a := range seccomp.Architectures() {
		for nr := range uint32(600) {
			for range 20 {
				d := seccomptest.Data{NR: nr, Arch: a.Audit}
				for i := range d.Args {
					if d.Args[i] = devs[r.IntN(len(devs))]; r.IntN(2) == 0 {
						d.Args[i] = modes[r.IntN(len(modes))]
					}
				}
				want := seccomptest.Execute(t, usual, d)
				if got := seccomptest.Execute(t, without, d); got != want {
					t.Fatalf("without a listener, %+v: got %#x, want %#x", d, got, want)
				}
				arg := slices.Index([]string{"", "mknod", "mknodat"}, nameOf(a, nr))
				if arg > 0 {
					mode, dev := d.Args[arg]&unix.S_IFMT, d.Args[arg+1]
					if mode == unix.S_IFBLK || mode == unix.S_IFCHR && dev != 0 {
						want = unix.SECCOMP_RET_USER_NOTIF
					}
				}
				if got := seccomptest.Execute(t, with, d); got != want {
					t.Fatalf("%+v: got %#x, want %#x", d, got, want)
				}
			}
		}
	}
}

func nameOf(a seccomp.Architecture, nr uint32) string {
	if i := slices.IndexFunc(a.Calls, func(c seccomp.Call) bool { return c.Number == nr }); i >= 0 {
		return a.Calls[i].Name
	}
	return ""
}

func TestNodeCall(t *testing.T) {
	for _, arch := range seccomp.Architectures() {
		number := func(name string) int32 {
			i := slices.IndexFunc(arch.Calls, func(c seccomp.Call) bool { return c.Name == name })
			if i < 0 {
				return -1
			}
			return int32(arch.Calls[i].Number)
		}
		dev := unix.Mkdev(259, 0x12345)
		for _, c := range []struct {
			name string
			args [6]uint64
			want nodeArgs
			kind string
		}{
			{"mknod", [6]uint64{7, unix.S_IFCHR | 0o640, 0x103}, nodeArgs{unix.AT_FDCWD, 7, unix.S_IFCHR | 0o640, 1, 3}, "char-1-3"},
			{"mknodat", [6]uint64{5, 7, 1<<40 | unix.S_IFBLK, 1<<32 | dev}, nodeArgs{5, 7, unix.S_IFBLK, 259, 0x12345}, "block-259-74565"},
			{"mknodat", [6]uint64{0xffffff9c, 7, unix.S_IFBLK, 0}, nodeArgs{unix.AT_FDCWD, 7, unix.S_IFBLK, 0, 0}, "block-0-0"},
			{"mknodat", [6]uint64{0xffffff9c, 7, unix.S_IFCHR, 1 << 32}, nodeArgs{}, ""}, // a whiteout, for the kernel
			{"mknodat", [6]uint64{0xffffff9c, 7, unix.S_IFIFO, 1}, nodeArgs{}, ""},
			{"read", [6]uint64{7, unix.S_IFCHR | 0o640, 0x103}, nodeArgs{}, ""},
		} {
			nr := number(c.name)
			if nr < 0 {
				continue
			}
			got, ok := nodeCall(&request{notification: notification{args: c.args}, served: served{name: nameOf(arch, uint32(nr))}})
			if ok != (c.kind != "") || ok && (got != c.want || got.kind() != c.kind) {
				t.Errorf("%s %v on %#x: got %+v, %v", c.name, c.args, arch.Audit, got, ok)
			}
		}
	}
	s := &Supervisor{}
	if _, err := (&request{notification: notification{arch: unix.AUDIT_ARCH_S390X}, s: s}).answer(); !errors.Is(err, errKernel) {
		t.Errorf("a call of an unknown architecture: %v", err)
	}
}

// The structures are read as the kernel writes them.
func TestNotificationLayout(t *testing.T) {
	if s := unsafe.Sizeof(notification{}); s != 80 {
		t.Errorf("a notification has %d bytes", s)
	}
	if s := unsafe.Sizeof(response{}); s != 24 {
		t.Errorf("a response has %d bytes", s)
	}
	raw := make([]byte, 80)
	for i := range raw {
		raw[i] = byte(i)
	}
	n := (*notification)(unsafe.Pointer(&raw[0]))
	if n.pid != binary.NativeEndian.Uint32(raw[8:]) || uint32(n.nr) != binary.NativeEndian.Uint32(raw[16:]) ||
		n.arch != binary.NativeEndian.Uint32(raw[20:]) || n.args[0] != binary.NativeEndian.Uint64(raw[32:]) {
		t.Errorf("got %+v", n)
	}
}

const statusText = "Name:\tsh\nUmask:\t0027\nTgid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nCapPrm:\t00\nCapEff:\t00000000a80425fb\n"

func TestParseStatus(t *testing.T) {
	var c caller
	want := caller{uid: 4, gid: 8, groups: []uint32{9, 10}, caps: seccomp.Capabilities, umask: 0o27}
	if err := c.parseStatus(statusText); err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, %v", c, err)
	}
	if c.mayMake() {
		t.Error("a caller in another user namespace may make devices")
	}
	for _, bad := range []string{"", "Uid:\t1\nUmask:\t0\n", statusText[:len(statusText)-20], "Umask:\t9\n" + statusText} {
		if err := new(caller).parseStatus(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add(statusText)
	f.Fuzz(func(t *testing.T, text string) {
		var c caller
		if err := c.parseStatus(text); err == nil && (c.uid < 0 || c.gid < 0 || c.umask < 0) {
			t.Errorf("got %+v", c)
		}
	})
}
