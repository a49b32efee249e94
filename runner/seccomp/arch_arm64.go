package seccomp

import "golang.org/x/sys/unix"

const (
	goarch = "arm64"
	loWord = 0 // offset of the low word of an argument: little endian
)

// Architectures are the ABIs of the machine.
func Architectures() []Architecture {
	return []Architecture{
		{Audit: unix.AUDIT_ARCH_AARCH64, Calls: nativeCalls[:]},
		{Audit: unix.AUDIT_ARCH_ARM, Calls: compatCalls[:], extra: []Call{
			{0xf0001, "breakpoint"}, {0xf0002, "cacheflush"}, {0xf0005, "set_tls"},
		}},
	}
}
