package runner

import "golang.org/x/sys/unix"

// x32 marks a call of the x32 ABI.
const x32 = 0x40000000

// forbiddenHere are calls of this architecture that must not work: input and output of the machine, and the x32 ABI around the filter.
func forbiddenHere() []call {
	return []call{
		{"iopl", unix.SYS_IOPL, [6]uintptr{3}, nil},
		{"ioperm", unix.SYS_IOPERM, [6]uintptr{0, 1, 1}, nil},
		{"x32 unshare", x32 + unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}, nil},
		{"x32 keyctl", x32 + unix.SYS_KEYCTL, [6]uintptr{unix.KEYCTL_GET_KEYRING_ID}, nil},
		{"x32 bpf", x32 + unix.SYS_BPF, [6]uintptr{}, nil},
	}
}
