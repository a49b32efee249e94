package seccomp

import "golang.org/x/sys/unix"

const (
	goarch = "amd64"
	loWord = 0 // offset of the low word of an argument: little endian
)

// Architectures are the ABIs of the machine. The x32 ABI shares the native one's audit number and has numbers
// above all known ones.
func Architectures() []Architecture {
	return []Architecture{
		{Audit: unix.AUDIT_ARCH_X86_64, Calls: nativeCalls[:]},
		{Audit: unix.AUDIT_ARCH_I386, Calls: compatCalls[:]},
	}
}
