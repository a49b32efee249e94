package seccomp

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/seccomp/seccomptest"
)

// reference says what a profile means, rule by rule, with nothing of the compiler in it but the reading of JSON.
func reference(p *profile, arch string, arches []Architecture, caps uint64, d seccomptest.Data) uint32 {
	for _, a := range arches {
		if a.Audit != d.Arch {
			continue
		}
		all := append(slices.Clone(a.Calls), a.extra...)
		var names []string
		for _, c := range all {
			if c.Number == d.NR {
				names = append(names, c.Name)
			}
		}
		if names == nil && d.NR > a.Calls[len(a.Calls)-1].Number {
			return enosys
		}
		for _, s := range p.Syscalls {
			skip := len(s.Includes.Arches) > 0 && !slices.Contains(s.Includes.Arches, arch) || slices.Contains(s.Excludes.Arches, arch)
			for i, c := range capNames() {
				has := caps>>i&1 == 1
				skip = skip || slices.Contains(s.Includes.Caps, c) && !has || slices.Contains(s.Excludes.Caps, c) && has
			}
			if skip || !slices.ContainsFunc(s.Names, func(n string) bool { return slices.Contains(names, n) }) {
				continue
			}
			ok := true
			for _, x := range s.Args {
				ok = ok && holds(x, d.Args[x.Index])
			}
			if !ok {
				continue
			}
			if s.Action == "SCMP_ACT_ALLOW" {
				return unix.SECCOMP_RET_ALLOW
			}
			return unix.SECCOMP_RET_ERRNO | uint32(*s.ErrnoRet)
		}
		return unix.SECCOMP_RET_ERRNO | uint32(*p.DefaultErrnoRet)
	}
	return unix.SECCOMP_RET_KILL_PROCESS
}

func holds(a argument, v uint64) bool {
	switch a.Op {
	case "SCMP_CMP_EQ":
		return v == a.Value
	case "SCMP_CMP_NE":
		return v != a.Value
	case "SCMP_CMP_MASKED_EQ":
		return v&a.Value == a.ValueTwo
	case "SCMP_CMP_GT":
		return v > a.Value
	case "SCMP_CMP_GE":
		return v >= a.Value
	case "SCMP_CMP_LT":
		return v < a.Value
	case "SCMP_CMP_LE":
		return v <= a.Value
	}
	panic(a.Op)
}

func parsed(t testing.TB) *profile {
	t.Helper()
	var p profile
	if err := json.Unmarshal(defaultProfile, &p); err != nil {
		t.Fatal(err)
	}
	return &p
}

// values are arguments at which something could change.
func values(r *rand.Rand) uint64 {
	edges := []uint64{0, 1, 8, 37, 38, 39, 40, 41, 0x20000, 0x20008, 0xffffffff, 0x7e020000, 0x02000000, 0x10000000, 1 << 32, 1<<32 | 40, 1<<63 | 8}
	if r.IntN(4) == 0 {
		return r.Uint64() >> r.IntN(64)
	}
	return edges[r.IntN(len(edges))]
}

func TestFilterAgainstReference(t *testing.T) {
	p := parsed(t)
	r := rand.New(rand.NewPCG(1, 2))
	for _, caps := range []uint64{Capabilities, 0, 1<<41 - 1} {
		prog, err := compile(p, Architectures(), caps)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		check := func(d seccomptest.Data) {
			n++
			if got, want := seccomptest.Execute(t, prog, d), reference(p, goarch, Architectures(), caps, d); got != want {
				t.Fatalf("%+v with %x: got %#x, want %#x", d, caps, got, want)
			}
		}
		for _, a := range Architectures() {
			for nr := range uint32(700) {
				for range 8 {
					check(seccomptest.Data{NR: nr, Arch: a.Audit, Args: [6]uint64{values(r), values(r), values(r), values(r), values(r), values(r)}})
				}
			}
			for _, nr := range []uint32{0x0f0001, 0x0f0002, 0x0f0003, 0x0f0005, 1 << 30, 1<<30 | 1, 1<<31 - 1, 1<<32 - 1} {
				check(seccomptest.Data{NR: nr, Arch: a.Audit})
			}
		}
		check(seccomptest.Data{NR: 1, Arch: unix.AUDIT_ARCH_S390X})
		t.Logf("caps %x: %d instructions, %d cases", caps, len(prog), n)
	}
}

// What everybody knows about Docker's profile.
func TestFilterByName(t *testing.T) {
	prog, err := compile(parsed(t), Architectures(), Capabilities)
	if err != nil {
		t.Fatal(err)
	}
	native := Architectures()[0]
	number := func(name string) uint32 {
		i := slices.IndexFunc(native.Calls, func(c Call) bool { return c.Name == name })
		if i < 0 {
			t.Fatalf("no call %s", name)
		}
		return native.Calls[i].Number
	}
	eperm := unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	for _, c := range []struct {
		name string
		arg  uint64
		want uint32
	}{
		{"read", 0, unix.SECCOMP_RET_ALLOW},
		{"execve", 0, unix.SECCOMP_RET_ALLOW},
		{"chroot", 0, unix.SECCOMP_RET_ALLOW},
		{"mount", 0, eperm},
		{"unshare", 0, eperm},
		{"bpf", 0, eperm},
		{"keyctl", 0, eperm},
		{"kexec_load", 0, eperm},
		{"clone", unix.CLONE_VM, unix.SECCOMP_RET_ALLOW},
		{"clone", unix.CLONE_NEWUSER, eperm},
		{"clone3", 0, enosys},
		{"socket", unix.AF_INET, unix.SECCOMP_RET_ALLOW},
		{"socket", unix.AF_VSOCK, eperm},
		{"socket", unix.AF_ALG, eperm},
		{"personality", 8, unix.SECCOMP_RET_ALLOW},
		{"personality", 0x40000, eperm},
	} {
		if got := seccomptest.Execute(t, prog, seccomptest.Data{NR: number(c.name), Arch: native.Audit, Args: [6]uint64{c.arg}}); got != c.want {
			t.Errorf("%s(%#x): got %#x, want %#x", c.name, c.arg, got, c.want)
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(uint8(1), uint64(38), uint64(0), uint64(37), uint64(1)<<32, uint32(2))
	ops := []string{"SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_GT", "SCMP_CMP_GE", "SCMP_CMP_LT", "SCMP_CMP_LE"}
	f.Fuzz(func(t *testing.T, op uint8, value, two, a, b uint64, nr uint32) {
		p := parsed(t)
		name := Architectures()[0].Calls[3].Name
		rules := []argument{
			{Index: 0, Value: value, ValueTwo: two, Op: ops[int(op)%len(ops)]},
			{Index: 1, Value: two, ValueTwo: value, Op: ops[int(op/7)%len(ops)]},
		}
		p.Syscalls = p.Syscalls[:1]
		p.Syscalls[0].Names, p.Syscalls[0].Args = []string{name}, rules
		prog, err := compile(p, Architectures(), Capabilities)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []uint32{nr, Architectures()[0].Calls[3].Number} {
			d := seccomptest.Data{NR: n, Arch: Architectures()[0].Audit, Args: [6]uint64{a, b}}
			if got, want := seccomptest.Execute(t, prog, d), reference(p, goarch, Architectures(), Capabilities, d); got != want {
				t.Fatalf("%+v: got %#x, want %#x", d, got, want)
			}
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	for b.Loop() {
		if _, err := Filter(Capabilities); err != nil {
			b.Fatal(err)
		}
	}
}
