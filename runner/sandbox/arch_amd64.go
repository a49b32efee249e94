package sandbox

import "golang.org/x/sys/unix"

const (
	goarch = "amd64"
	loWord = 0 // offset of the low word of an argument: little endian
)

// architectures are the ABIs of the machine. The x32 ABI shares the native one's audit number and has numbers
// above all known ones.
func architectures() []architecture {
	return []architecture{
		{audit: unix.AUDIT_ARCH_X86_64, calls: nativeCalls[:]},
		{audit: unix.AUDIT_ARCH_I386, calls: compatCalls[:]},
	}
}
