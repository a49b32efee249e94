package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Capabilities is Docker's default set: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
// net_bind_service, net_raw, sys_chroot, mknod, audit_write and setfcap.
const Capabilities uint64 = 0x00000000a80425fb

// confine gives up, for the calling thread and all that it starts, what a step must not have.
// Preconditions: the goroutine is locked to its thread; the thread has CAP_SYS_ADMIN and CAP_SETPCAP.
func confine(filter []byte) error {
	// A session keyring of its own: strake's belongs to the user. Where keys are not built in, there is none to hide.
	_, _ = unix.KeyctlJoinSessionKeyring("strake")
	for c := range 64 {
		if Capabilities&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			if errors.Is(err, unix.EINVAL) {
				break // past the last capability that the kernel knows
			}
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("dropping ambient capabilities: %w", err)
	}
	// The filter goes in while CAP_SYS_ADMIN is there: without it no_new_privs would be needed, and sudo would not work.
	if err := loadFilter(filter); err != nil {
		return err
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	lo, hi := uint32(Capabilities&0xffffffff), uint32(Capabilities>>32)
	data := [2]unix.CapUserData{{Effective: lo, Permitted: lo}, {Effective: hi, Permitted: hi}}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("setting capabilities: %w", err)
	}
	return nil
}

const insnSize = 8 // bytes of a struct sock_filter

// loadFilter loads a seccomp program for the calling thread.
func loadFilter(filter []byte) error {
	insns := make([]unix.SockFilter, 0, len(filter)/insnSize)
	for ; len(filter) >= insnSize; filter = filter[insnSize:] {
		insns = append(insns, unix.SockFilter{
			Code: binary.NativeEndian.Uint16(filter), Jt: filter[2], Jf: filter[3], K: binary.NativeEndian.Uint32(filter[4:]),
		})
	}
	if len(insns) == 0 {
		return fmt.Errorf("loading the seccomp filter: it is empty")
	}
	prog := unix.SockFprog{Len: uint16(len(insns)), Filter: &insns[0]}
	// SPEC_ALLOW, as in runc: the filter is no reason to slow the step down.
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return fmt.Errorf("loading the seccomp filter: %w", e)
	}
	return nil
}
