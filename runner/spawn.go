package runner

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/sandbox"
)

// spawned is an init that waits for its box; it knows nothing yet.
type spawned struct {
	process *os.Process
	sock    *os.File
	used    bool // it has made a box before
	err     error
}

// start makes inits until the Linux is closed, always one ahead of the box that needs it: that hides how long a program takes to start.
// All are made by one thread, since an init dies with the thread that made it.
func (l *Linux) start() {
	defer close(l.ended)
	runtime.LockOSThread() // for ever: the thread ends with this function
	for {
		s := spawn(l.exe, l.Isolation, &l.guard)
		select {
		case l.inits <- s:
		case <-l.quit:
			s.discard()
			return
		}
	}
}

// maxFree is how many inits are kept that have made a box.
const maxFree = 16

// take returns an init for a box: one that has made others, if there is one.
func (l *Linux) take() spawned {
	select {
	case s := <-l.free:
		return s
	default:
	}
	select {
	case s := <-l.free:
		return s
	case s := <-l.inits:
		return s
	}
}

// reusable says whether the init of a box can make another one afterwards: it must be the same as before. That is so in a
// plain box with namespaces of its own, whose init stays in the guard's control group and runs nothing but the step.
func (b *box) reusable(cfg *sandbox.Config) bool {
	i := b.linux.Isolation
	moved := b.group != nil || b.linux.guard.group != nil && cfg.NoDev
	return !i.shared() && !i.OneID && !moved && !cfg.Insecure && !cfg.Terminal && !cfg.Sync && len(cfg.Hooks) == 0
}

// handBack makes the init of a box that has ended one for others, if it has not been killed meanwhile.
func (b *box) handBack(killed bool) {
	s := spawned{process: b.init, sock: b.sock, used: true}
	b.sock = nil
	if !killed {
		select {
		case b.linux.free <- s:
			return
		default:
		}
	}
	s.discard()
}

// spawn starts an init in the namespaces that i has, and under the guard g. A network namespace is its own business.
func spawn(exe *os.File, i Isolation, g *guard) spawned {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return spawned{err: fmt.Errorf("making the sandbox's socket: %w", err)}
	}
	theirs := os.NewFile(uintptr(pair[1]), "sandbox")
	defer theirs.Close()
	_ = unix.SetNonblock(pair[0], true) // so that reads can be given up
	sock := os.NewFile(uintptr(pair[0]), "sandbox")
	// Of its own session: what is typed at strake's terminal is not for it.
	attr := &syscall.SysProcAttr{Setsid: true}
	switch {
	case i.Rung == Chroot: // no namespaces; it ends as with a shared pid namespace
	case i.SharedPID:
		// It ends when its socket does, after it has killed what would outlive it.
		attr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	default:
		attr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
		attr.Pdeathsig = unix.SIGKILL
	}
	g.attr(attr)
	process, err := os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", exe.Fd()), []string{sandbox.Marker}, &os.ProcAttr{
		Env:   initEnv(),
		Files: []*os.File{nil, nil, nil, theirs},
		Sys:   attr,
	})
	if err != nil {
		sock.Close()
		return spawned{err: fmt.Errorf("starting the sandbox: %w", err)}
	}
	s := spawned{process: process, sock: sock}
	if err := g.take(process.Pid); err != nil {
		s.discard()
		return spawned{err: err}
	}
	return s
}

// discard ends an init that has no box.
func (s spawned) discard() {
	if s.err != nil {
		return
	}
	_ = s.process.Kill()
	_, _ = s.process.Wait()
	s.sock.Close()
}

// send hands the init what it waits for: standard input, output and error, and its configuration.
func (s spawned) send(files []*os.File) error {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd())) // which also makes pipes blocking, as programs expect them
	}
	conn, err := s.sock.SyscallConn()
	if err == nil {
		cerr := conn.Control(func(fd uintptr) {
			err = unix.Sendmsg(int(fd), []byte{0}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		})
		err = errors.Join(err, cerr)
	}
	runtime.KeepAlive(files)
	if err != nil {
		return fmt.Errorf("handing the sandbox its configuration: %w", err)
	}
	return nil
}

// initEnv keeps Go's start in the init short: no look at cgroups, no collector before there is much to collect; and its end, where the race
// detector would sleep for a second. How much there is, a step and its image have a say in: the calls that are answered, passwd files, variables.
func initEnv() []string {
	return []string{"GOGC=off", "GOMEMLIMIT=64MiB", "GOMAXPROCS=2", "GODEBUG=containermaxprocs=0,updatemaxprocs=0", "GORACE=atexit_sleep_ms=0"}
}
