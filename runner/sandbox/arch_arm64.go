package sandbox

import "golang.org/x/sys/unix"

const (
	goarch = "arm64"
	loWord = 0 // offset of the low word of an argument: little endian
)

// architectures are the ABIs of the machine.
func architectures() []architecture {
	return []architecture{
		{audit: unix.AUDIT_ARCH_AARCH64, calls: nativeCalls[:]},
		{audit: unix.AUDIT_ARCH_ARM, calls: compatCalls[:], extra: []call{
			{0xf0001, "breakpoint"}, {0xf0002, "cacheflush"}, {0xf0005, "set_tls"},
		}},
	}
}
