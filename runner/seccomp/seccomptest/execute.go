// Package seccomptest runs seccomp programs in tests.
package seccomptest

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Data is struct seccomp_data, as far as programs look at it.
type Data struct {
	NR, Arch uint32 // number of the call, and AUDIT_ARCH_… of its ABI
	Args     [6]uint64
}

func (d Data) word(offset uint32) uint32 {
	switch {
	case offset == 0:
		return d.NR
	case offset == 4:
		return d.Arch
	case offset >= 16 && offset < 64:
		return uint32(d.Args[(offset-16)/8] >> (8 * (offset % 8)))
	}
	panic("a load of something unknown")
}

// Execute runs a program as the kernel does, and returns its value (SECCOMP_RET_…).
func Execute(t testing.TB, prog []unix.SockFilter, d Data) uint32 {
	t.Helper()
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		i := prog[pc]
		cond := false
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = d.word(i.K)
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= i.K
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			cond = acc == i.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			cond = acc > i.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			cond = acc >= i.K
		default:
			t.Fatalf("unknown instruction %#x", i.Code)
		}
		if cond {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
	t.Fatal("the program has no end")
	return 0
}
