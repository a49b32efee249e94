package seccomp

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

const insnSize = 8 // bytes of a struct sock_filter

// Program returns what Filter or Open made as seccomp(2) takes it, nil if it is empty.
func Program(filter []byte) *unix.SockFprog {
	insns := make([]unix.SockFilter, 0, len(filter)/insnSize)
	for ; len(filter) >= insnSize; filter = filter[insnSize:] {
		insns = append(insns, unix.SockFilter{
			Code: binary.NativeEndian.Uint16(filter), Jt: filter[2], Jf: filter[3], K: binary.NativeEndian.Uint32(filter[4:]),
		})
	}
	if len(insns) == 0 {
		return nil
	}
	return &unix.SockFprog{Len: uint16(len(insns)), Filter: &insns[0]}
}

// WithoutNotify returns the program that allows what prog reports to a listener; nil if that is nothing.
func WithoutNotify(prog *unix.SockFprog) *unix.SockFprog {
	if prog == nil {
		return nil
	}
	insns := slices.Clone(unsafe.Slice(prog.Filter, prog.Len))
	found := false
	for i := range insns {
		if insns[i].Code == unix.BPF_RET|unix.BPF_K && insns[i].K == unix.SECCOMP_RET_USER_NOTIF {
			insns[i].K, found = unix.SECCOMP_RET_ALLOW, true
		}
	}
	if !found {
		return nil
	}
	return &unix.SockFprog{Len: prog.Len, Filter: &insns[0]}
}
