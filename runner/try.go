package runner

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is a system call that a probe makes in a process of its own.
type attempt struct {
	what string // what it is for, as in "mounting a tmpfs"
	call string // the system call
	trap uintptr
	args [6]uintptr
	soft bool // what comes after it is tried also if it fails
	last bool // its first argument is the result of the attempt before
	// keep is what args point at: the addresses are made before the process is.
	keep []any
}

// outcome is what became of an attempt.
type outcome byte

const (
	untried outcome = 0
	worked  outcome = 255 // any other value is the errno
)

// errno returns the error of an attempt that failed, else 0.
func (o outcome) errno() unix.Errno {
	if o == untried || o == worked {
		return 0
	}
	return unix.Errno(o)
}

// path sets argument i of the system call to a file name, which must stay in memory as long as the attempt.
func (a *attempt) path(i int, name string) {
	p, err := unix.BytePtrFromString(name)
	if err != nil { // a name of ours
		p = new(byte)
	}
	a.keep = append(a.keep, p)
	a.args[i] = uintptr(unsafe.Pointer(p))
}

// mountAttempt is mount(2).
func mountAttempt(what, source, target, fstype string, flags uintptr, data string) attempt {
	a := attempt{what: what, call: "mount", trap: unix.SYS_MOUNT}
	a.path(0, source)
	a.path(1, target)
	a.path(2, fstype)
	a.args[3] = flags
	a.path(4, data)
	return a
}

// pathAttempt is a system call that takes a name, or AT_FDCWD, a name and one number more.
func pathAttempt(what, call string, trap uintptr, at bool, name string, arg uintptr) attempt {
	a := attempt{what: what, call: call, trap: trap}
	if !at {
		a.path(0, name)
		return a
	}
	cwd := unix.AT_FDCWD
	a.args[0] = uintptr(cwd)
	a.path(1, name)
	a.args[2] = arg
	return a
}

// errMapping says that the ids of a namespace could not be mapped.
type errMapping struct{ error }

func (e errMapping) Unwrap() error { return e.error }

// try makes a process in new namespaces (flags of clone(2)), has m map its ids if it is not nil, and lets the process
// make the attempts until one fails that is not soft. The process has no program: nothing of what it did is left when
// try returns. The error is that of clone, or an errMapping.
func try(flags uintptr, m *mapping, attempts []attempt) ([]outcome, error) {
	shared, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("probing: %w", err)
	}
	defer func() { _ = unix.Munmap(shared) }()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("probing: %w", err)
	}
	defer unix.Close(pipe[0])

	// No handler of a signal may run in the child, which has one thread and no Go runtime to speak of.
	runtime.LockOSThread()
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	err = unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old)
	var pid uintptr
	var errno syscall.Errno
	if err == nil {
		pid, errno = tryChild(flags|uintptr(unix.SIGCHLD), &pipe, attempts, shared)
		err = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	}
	runtime.UnlockOSThread()
	runtime.KeepAlive(attempts)
	if errno != 0 {
		unix.Close(pipe[1])
		return nil, errno
	}
	if m != nil && err == nil {
		if err = m.write(int(pid)); err != nil {
			err = errMapping{err}
		}
	}
	if err == nil {
		_, err = unix.Write(pipe[1], []byte{1})
	}
	unix.Close(pipe[1]) // a child that was told nothing ends
	for {
		if _, werr := unix.Wait4(int(pid), nil, 0, nil); !errors.Is(werr, unix.EINTR) {
			break
		}
	}
	out := make([]outcome, len(attempts))
	for i := range out {
		out[i] = outcome(shared[i])
	}
	return out, err
}

// tryChild forks. In the child, which is a copy of one thread of a Go program, nothing but system calls can
// be made: no memory can be got, and the stack cannot grow.
//
//go:norace
//go:nosplit
func tryChild(flags uintptr, pipe *[2]int, attempts []attempt, out []byte) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	var buf [8]byte
	syscall.RawSyscall(unix.SYS_CLOSE, uintptr(pipe[1]), 0, 0)
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(pipe[0]), uintptr(unsafe.Pointer(&buf)), 1)
	for i, last := 0, uintptr(0); errno == 0 && n == 1 && i < len(attempts) && i < len(out); i++ {
		a := &attempts[i]
		arg := a.args[0]
		if a.last {
			arg = last
		}
		last, _, errno = syscall.RawSyscall6(a.trap, arg, a.args[1], a.args[2], a.args[3], a.args[4], a.args[5])
		out[i] = byte(worked)
		if errno != 0 {
			out[i] = byte(errno)
			if a.soft {
				errno = 0
			}
		}
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// The attempts of boxAttempts that may fail.
const (
	procAttempt    = 1
	overlayAttempt = 6
	nameAttempt    = 12
)

// boxAttempts are what a box needs, in a mount and a pid namespace of its own.
func boxAttempts() []attempt {
	const over = "/proc" // also a directory that is there for sure
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV}
	proc := mountAttempt("mounting proc", "proc", over, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	proc.soft = true
	overlay := mountAttempt("mounting an overlay", "overlay", "a", "overlay", unix.MS_RDONLY, "lowerdir=a:b")
	overlay.soft = true
	setattr := attempt{what: "changing a mount", call: "mount_setattr", trap: unix.SYS_MOUNT_SETATTR, last: true, keep: []any{attr}}
	setattr.path(1, "")
	setattr.args = [6]uintptr{0, setattr.args[1], unix.AT_EMPTY_PATH, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr)}
	pivot := attempt{what: "changing the root", call: "pivot_root", trap: unix.SYS_PIVOT_ROOT}
	pivot.path(0, ".")
	pivot.path(1, ".")
	name := attempt{what: "setting the host name", call: "sethostname", trap: unix.SYS_SETHOSTNAME, soft: true}
	name.path(0, "b")
	name.args[1] = 1
	return []attempt{
		mountAttempt("making mounts private", "", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		procAttempt: proc,
		mountAttempt("mounting a tmpfs", "tmpfs", over, "tmpfs", 0, "mode=0700"),
		pathAttempt("entering a tmpfs", "chdir", unix.SYS_CHDIR, false, over, 0),
		pathAttempt("making a directory in a tmpfs", "mkdirat", unix.SYS_MKDIRAT, true, "a", 0o700),
		pathAttempt("making a directory in a tmpfs", "mkdirat", unix.SYS_MKDIRAT, true, "b", 0o700),
		overlayAttempt: overlay,
		pathAttempt("copying a mount", "open_tree", unix.SYS_OPEN_TREE, true, "a", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC),
		setattr,
		mountAttempt("binding a directory", "b", "b", "", unix.MS_BIND, ""),
		pathAttempt("entering a mount", "chdir", unix.SYS_CHDIR, false, "b", 0),
		pivot,
		nameAttempt: name,
	}
}

// chrootAttempts are what the rung chroot needs.
func chrootAttempts() []attempt {
	return []attempt{pathAttempt("changing the root", "chroot", unix.SYS_CHROOT, false, "/", 0)}
}

// storeAttempts mount an overlay whose upper directory is in dir, which has the directories l, u, w and m and the file l/f; and make marks in it.
func storeAttempts(dir string, userXattr bool) []attempt {
	options := "lowerdir=l,upperdir=u,workdir=w,volatile"
	if userXattr {
		options += ",userxattr"
	}
	return []attempt{
		mountAttempt("making mounts private", "", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		pathAttempt("entering the store", "chdir", unix.SYS_CHDIR, false, dir, 0),
		mountAttempt("mounting an overlay whose upper directory is in the store", "overlay", "m", "overlay", 0, options),
		pathAttempt("entering an overlay", "chdir", unix.SYS_CHDIR, false, "m", 0),
		pathAttempt("removing a file from an overlay", "unlinkat", unix.SYS_UNLINKAT, true, "f", 0),
		pathAttempt("making a directory in its place", "mkdirat", unix.SYS_MKDIRAT, true, "f", 0o700),
	}
}

// failure returns the first attempt that was made and failed, but for soft ones.
func failure(attempts []attempt, out []outcome) (attempt, unix.Errno) {
	for i, o := range out {
		if e := o.errno(); e != 0 && !attempts[i].soft {
			return attempts[i], e
		}
	}
	return attempt{}, 0
}
