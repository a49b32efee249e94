package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/seccomp"
	"github.com/strake-build/strake/runner/supervisor"
)

// step is all that the step's process needs between its birth and its execve. It is made before the fork, because
// the child is a copy of one thread of a Go program: it may make system calls, but neither allocate nor grow its stack.
//
// The step is pid 1 of a pid namespace of its own, as in a container: the init is not in sight there, and the end of the step
// is the end of all that it started. A proc file system shows the namespace of who mounts it, so the
// child must mount /proc itself; the init does the rest (masks), and only then lets it go on.
type step struct {
	sock     int // the child's end of a stream: state out, one byte to go on in
	sockInit int // the init's end

	path      *byte
	argv, env []*byte
	oldProc   bool // the init's /proc is mounted
	shared    bool // no pid namespace, and nothing to mount
	oneID     bool // who is not for the kernel to know
	console   int  // to be the controlling terminal and standard input, output and error; -1 for none

	drop      uint64 // capabilities to be dropped from the bounding set
	capHeader unix.CapUserHeader
	capData   [2]unix.CapUserData
	filter    *unix.SockFprog // nil for none
	hand      handover
	listener  int  // of the filter, once the init has it; -1 for none
	rules     int  // Landlock rules; -1 for none
	weak      bool // without CAP_SYS_ADMIN, filters and rules can be had only with no_new_privs
	limits    []limit
	who       identity

	source, fsName, none, procDir, keyring *byte
	allSignals, oldSignals                 uint64
	deflt                                  [4]uint64 // struct sigaction: SIG_DFL
	state                                  stepState
	goOn                                   byte
}

// limit is a resource limit, as setrlimit takes it.
type limit struct {
	resource int
	value    unix.Rlimit
}

// stepState is what the child tells the init: what it has done, or at what it failed.
type stepState struct {
	stage, errno uint32
}

// The stages of the child. It tells the init when it has reached stageProc, and when it fails.
const (
	stageProc uint32 = iota
	stageWait
	stageSession
	stageTerminal
	stageLimits
	stageConfine
	stageCapabilities
	stageFilter
	stageUser
	stageExec
)

func stageName(stage uint32) string {
	return [...]string{
		"mounting /proc", "waiting for the init", "making a session", "taking the terminal", "setting the resource limits",
		"confining the process", "dropping capabilities", "loading the seccomp filter", "becoming the user", "exec",
	}[stage]
}

// newStep prepares the step.
// Preconditions: the box is set up, the working directory entered.
func (b *box) newStep(path string) (*step, error) {
	s := &step{
		console: -1, listener: -1, rules: -1, oldProc: b.UserNS, shared: b.SharedPID, oneID: b.OneID, who: *b.who, allSignals: ^uint64(0),
		capHeader: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3},
	}
	caps := seccomp.Capabilities
	if b.Insecure {
		all, err := effective()
		if err != nil {
			return nil, err
		}
		caps = all
	}
	filter := b.Filter
	if b.who.UID != 0 && len(b.UserFilter) > 0 {
		filter = b.UserFilter
	}
	if s.filter = seccomp.Program(filter); s.filter == nil && !b.Insecure {
		return nil, errors.New("the seccomp filter is empty")
	}
	if b.Chroot {
		have, err := effective()
		if err != nil {
			return nil, err
		}
		caps &= have &^ chrootDropped
	}
	s.hand.prepare(s.filter, &s.state)
	s.drop = ^caps
	lo, hi := uint32(caps&0xffffffff), uint32(caps>>32)
	s.capData = [2]unix.CapUserData{{Effective: lo, Permitted: lo}, {Effective: hi, Permitted: hi}}
	if b.console != nil {
		s.console = int(b.console.Fd())
	}
	var err error
	if s.argv, err = syscall.SlicePtrFromStrings(b.Args); err != nil {
		return nil, &startError{126, b.Args[0], fmt.Errorf("exec %s: an argument contains a zero byte: %w", path, err)}
	}
	if s.env, err = syscall.SlicePtrFromStrings(b.Env); err != nil {
		return nil, &startError{126, b.Args[0], fmt.Errorf("exec %s: the environment contains a zero byte: %w", path, err)}
	}
	for p, text := range map[**byte]string{&s.path: path, &s.source: "source", &s.fsName: "proc", &s.none: "", &s.procDir: "/proc", &s.keyring: "strake"} {
		if *p, err = syscall.BytePtrFromString(text); err != nil {
			return nil, &startError{126, b.Args[0], err}
		}
	}
	if s.limits, err = b.resourceLimits(); err != nil {
		return nil, err
	}
	if b.family != nil {
		if s.rules, err = b.ruleset(); err != nil {
			return nil, err
		}
		have, err := effective()
		if err != nil {
			return nil, err
		}
		s.weak = have&(1<<unix.CAP_SYS_ADMIN) == 0
	} else if !b.Loopback && !b.Insecure {
		if s.rules, err = socketRules(); err != nil {
			return nil, err
		}
	}
	if b.OneID {
		var l unix.Rlimit
		b.owners, l, err = supervisor.NewOwnership(supervisor.OneID{
			Root: b.root, Shared: b.SharedPID, Insecure: b.Insecure, User: b.who.UID, Group: b.who.GID, Groups: b.who.Groups,
		})
		if err != nil {
			return nil, err
		}
		s.limits = append(s.limits, limit{supervisor.IDLimit, l})
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making the step's socket: %w", err)
	}
	s.sockInit, s.sock = pair[0], pair[1]
	return s, nil
}

// resourceLimits are those of the step. Go raised the number of open files when this program started; the step gets what it was.
func (b *box) resourceLimits() ([]limit, error) {
	// Go puts the limit back before it replaces the program, and only there; that there is no such program is the point.
	_ = syscall.Exec("", nil, nil)
	var files unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &files); err != nil {
		return nil, fmt.Errorf("reading the limit of open files: %w", err)
	}
	all := []limit{{unix.RLIMIT_NOFILE, files}}
	for _, l := range b.Limits {
		all = append(all, limit{l.Resource, unix.Rlimit{Cur: l.Soft, Max: l.Hard}})
	}
	return all, nil
}

// effective returns the capabilities that this process has.
func effective() (uint64, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, fmt.Errorf("reading the capabilities: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

// start forks the step and returns its pid once it has mounted /proc. It then waits for exec.
func (s *step) start() (int, error) {
	pid, e := s.fork()
	runtime.KeepAlive(s)
	unix.Close(s.sock)
	if e != 0 {
		unix.Close(s.sockInit)
		return 0, fmt.Errorf("starting the process: %w", e)
	}
	if state, err := s.read(); err != nil || state.errno != 0 {
		unix.Close(s.sockInit)
		if err == nil {
			err = syscall.Errno(state.errno)
		}
		return 0, fmt.Errorf("starting the process: %s: %w", stageName(state.stage), err)
	}
	return pid, nil
}

// exec lets the step go on, and returns when it has executed its program, or what kept it from that. From supervise on, which is given the
// listener of the filter if there is one, the child's calls may need answers.
func (s *step) exec(supervise func(listener int) error) error {
	defer unix.Close(s.sockInit)
	if _, err := unix.Write(s.sockInit, []byte{1}); err != nil {
		return fmt.Errorf("starting the process: %w", err)
	}
	state, err := s.read()
	if err == nil && state.errno == 0 && s.listener >= 0 {
		if err := supervise(s.listener); err != nil {
			return err
		}
		state, err = s.read()
	}
	if errors.Is(err, errClosed) {
		return nil // by execve
	}
	if err != nil {
		return fmt.Errorf("starting the process: %w", err)
	}
	if state.stage == stageExec {
		return &startError{126, "", syscall.Errno(state.errno)}
	}
	err = syscall.Errno(state.errno)
	switch {
	case state.stage == stageLimits && errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: one is above strake's own (ulimit -H) or the machine's (sysctl fs.nr_open)", err)
	case state.stage == stageUser:
		err = s.who.explain(err)
	}
	return fmt.Errorf("starting the process: %s: %w", stageName(state.stage), err)
}

var errClosed = errors.New("the process has ended")

func (s *step) read() (stepState, error) {
	var buf [unsafe.Sizeof(stepState{})]byte
	for {
		n, err := s.receive(buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return stepState{}, err
		case n == 0:
			return stepState{}, errClosed
		case n != len(buf):
			return stepState{}, os.ErrInvalid
		}
		return stepState{binary.NativeEndian.Uint32(buf[:]), binary.NativeEndian.Uint32(buf[4:])}, nil
	}
}

// fork makes the child. A signal must not find it while Go's handlers are there, but Go's other threads are not.
//
//go:norace
//go:nosplit
func (s *step) fork() (int, syscall.Errno) {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&s.allSignals)), uintptr(unsafe.Pointer(&s.oldSignals)), 8, 0, 0)
	flags := unix.CLONE_NEWPID | uintptr(unix.SIGCHLD)
	if s.shared {
		flags = uintptr(unix.SIGCHLD)
	}
	pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	if e == 0 && pid == 0 {
		s.child()
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&s.oldSignals)), 0, 8, 0, 0)
	return int(pid), e
}

// child is the life of the child until execve; it does not return.
//
//go:norace
//go:nosplit
func (s *step) child() {
	if s.shared {
		s.advance(stageProc, s.tie())
	} else {
		s.advance(stageProc, s.mountProc())
	}
	s.tell()
	n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(s.sock), uintptr(unsafe.Pointer(&s.goOn)), 1)
	if e == 0 && n != 1 {
		e = unix.EPIPE
	}
	s.advance(stageWait, e)
	s.advance(stageSession, s.session())
	s.advance(stageTerminal, s.terminal())
	s.advance(stageLimits, s.limit())
	s.advance(stageConfine, s.confine())
	s.advance(stageCapabilities, s.bound())
	// The filter goes in while CAP_SYS_ADMIN is there: without it no_new_privs would be needed, and sudo would not work.
	s.advance(stageFilter, s.load())
	_, _, e = syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&s.capHeader)), uintptr(unsafe.Pointer(&s.capData[0])), 0)
	s.advance(stageCapabilities, e)
	s.advance(stageUser, s.become())
	// From here on signals are the step's.
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&s.oldSignals)), 0, 8, 0, 0)
	_, _, e = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(s.path)), uintptr(unsafe.Pointer(&s.argv[0])), uintptr(unsafe.Pointer(&s.env[0])))
	s.advance(stageExec, e)
}

// advance ends the child, with a last word, if e is an error.
//
//go:norace
//go:nosplit
func (s *step) advance(stage uint32, e syscall.Errno) {
	s.state.stage, s.state.errno = stage, uint32(e)
	if e == 0 {
		return
	}
	s.tell()
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 126, 0, 0)
	}
}

//go:norace
//go:nosplit
func (s *step) tell() {
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(s.sock), uintptr(unsafe.Pointer(&s.state)), unsafe.Sizeof(s.state))
}

// tie lets the child die with the init, and gives it back the signals that the init ignores.
//
//go:norace
//go:nosplit
func (s *step) tie() syscall.Errno {
	for n := uintptr(1); n <= 31; n++ {
		if n != uintptr(unix.SIGKILL) && n != uintptr(unix.SIGSTOP) {
			syscall.RawSyscall6(unix.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&s.deflt)), 0, 8, 0, 0)
		}
	}
	_, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	return e
}

// mountProc mounts a /proc of the new pid namespace, in the place of the init's if that is there: a user namespace may not see more of
// the kernel than it did, so the old one must be in sight when the new one is made.
//
//go:norace
//go:nosplit
func (s *step) mountProc() syscall.Errno {
	fs, _, e := syscall.RawSyscall(unix.SYS_FSOPEN, uintptr(unsafe.Pointer(s.fsName)), unix.FSOPEN_CLOEXEC, 0)
	if e != 0 {
		return e
	}
	if _, _, e = syscall.RawSyscall6(unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_STRING, uintptr(unsafe.Pointer(s.source)), uintptr(unsafe.Pointer(s.fsName)), 0, 0); e != 0 {
		return e
	}
	if _, _, e = syscall.RawSyscall6(unix.SYS_FSCONFIG, fs, unix.FSCONFIG_CMD_CREATE, 0, 0, 0, 0); e != 0 {
		return e
	}
	mount, _, e := syscall.RawSyscall(unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, noExec)
	if e != 0 {
		return e
	}
	if s.oldProc {
		if _, _, e = syscall.RawSyscall(unix.SYS_UMOUNT2, uintptr(unsafe.Pointer(s.procDir)), unix.MNT_DETACH, 0); e != 0 {
			return e
		}
	}
	at := unix.AT_FDCWD
	_, _, e = syscall.RawSyscall6(unix.SYS_MOVE_MOUNT, mount, uintptr(unsafe.Pointer(s.none)), uintptr(at), uintptr(unsafe.Pointer(s.procDir)), unix.MOVE_MOUNT_F_EMPTY_PATH, 0)
	return e
}

// session leaves what binds the child to the init and to strake's user.
//
//go:norace
//go:nosplit
func (s *step) session() syscall.Errno {
	// A session keyring of its own: strake's belongs to the user. Where keys are not built in, there is none to hide.
	syscall.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, uintptr(unsafe.Pointer(s.keyring)), 0)
	_, _, e := syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	return e
}

//go:norace
//go:nosplit
func (s *step) terminal() syscall.Errno {
	if s.console < 0 {
		return 0
	}
	for fd := uintptr(0); fd < 3; fd++ {
		if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, uintptr(s.console), fd, 0); e != 0 {
			return e
		}
	}
	_, _, e := syscall.RawSyscall(unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 1)
	return e
}

//go:norace
//go:nosplit
func (s *step) limit() syscall.Errno {
	for i := range s.limits {
		l := &s.limits[i]
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(l.resource), uintptr(unsafe.Pointer(&l.value)), 0, 0, 0); e != 0 {
			return e
		}
	}
	return 0
}

// confine keeps the child away from other processes.
//
//go:norace
//go:nosplit
func (s *step) confine() syscall.Errno {
	if s.weak {
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
			return e
		}
	}
	if s.rules < 0 {
		return 0
	}
	_, _, e := syscall.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(s.rules), 0, 0)
	return e
}

// bound drops capabilities for good.
//
//go:norace
//go:nosplit
func (s *step) bound() syscall.Errno {
	for c := range 64 {
		if s.drop&(1<<c) == 0 {
			continue
		}
		_, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0, 0)
		if e == unix.EINVAL {
			break // past the last capability that the kernel knows
		}
		if e != 0 {
			return e
		}
	}
	_, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0)
	return e
}

//go:norace
//go:nosplit
func (s *step) load() syscall.Errno {
	if s.filter == nil {
		return 0
	}
	filter := s.filter
	if s.hand.plain != nil {
		if ok, e := s.listen(); ok || s.oneID {
			return e
		}
		filter = s.hand.plain
	}
	// SPEC_ALLOW, as in runc: the filter is no reason to slow the step down.
	_, _, e := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(filter)))
	return e
}

//go:norace
//go:nosplit
func (s *step) become() syscall.Errno {
	if s.oneID {
		return 0 // by the limit that says so
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(s.who.Groups)), uintptr(unsafe.Pointer(&s.who.Groups[0])), 0); e != 0 {
		return e
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETGID, uintptr(s.who.GID), 0, 0); e != 0 {
		return e
	}
	_, _, e := syscall.RawSyscall(unix.SYS_SETUID, uintptr(s.who.UID), 0, 0)
	return e
}
