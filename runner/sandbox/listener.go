package sandbox

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/seccomp"
)

// handover is the message by which the child passes the listener of its filter to the init; all but the descriptor
// is filled in before the fork.
type handover struct {
	plain *unix.SockFprog // what to load if there can be no listener; nil if none is wanted
	msg   unix.Msghdr
	iov   unix.Iovec
	oob   struct {
		hdr unix.Cmsghdr
		fd  int32
		_   int32
	}
}

// prepare fills in all but the descriptor, before the fork: the child can allocate nothing.
func (h *handover) prepare(prog *unix.SockFprog, state *stepState) {
	h.plain = seccomp.WithoutNotify(prog)
	h.iov.Base = (*byte)(unsafe.Pointer(state))
	h.iov.SetLen(int(unsafe.Sizeof(*state)))
	h.msg.Iov = &h.iov
	h.msg.SetIovlen(1)
	h.msg.Control = (*byte)(unsafe.Pointer(&h.oob))
	h.msg.SetControllen(int(unsafe.Sizeof(h.oob)))
	h.oob.hdr.Level, h.oob.hdr.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
	h.oob.hdr.SetLen(unix.CmsgLen(4))
}

// listen loads the filter with a listener and sends that to the init. False means that the kernel has none (before
// 5.0), or that strake itself is in a box that has one already; then nothing is loaded, and the error says why.
//
//go:norace
//go:nosplit
func (s *step) listen() (bool, syscall.Errno) {
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	// A signal must not interrupt a call that is being served (5.19).
	fd, _, e := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(s.filter)))
	if e != 0 {
		fd, _, e = syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(s.filter)))
	}
	if e != 0 {
		return false, e
	}
	s.hand.oob.fd = int32(fd)
	_, _, e = syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(s.sock), uintptr(unsafe.Pointer(&s.hand.msg)), unix.MSG_NOSIGNAL)
	return true, e
}

// receive reads a message of the child into buf, and takes the listener that may come with it.
func (s *step) receive(buf []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(s.sockInit, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || oobn == 0 {
		return n, err
	}
	fds, err := parseRights(oob[:oobn])
	if err == nil && len(fds) == 1 {
		s.listener = fds[0]
	}
	return n, err
}
