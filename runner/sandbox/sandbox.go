// Package sandbox is the child's side of a box: what the re-executed program
// does between clone and execve, in its new namespaces.
//
// Init is pid 1 of the box's outer pid namespace. It stacks the root, moves into
// it, builds /proc, /sys and /dev, starts the step as pid 1 of an inner pid
// namespace without what a step must not have, and takes everything down
// with it when the step or the parent ends. If the box was a plain one, it then
// waits for another (home). Calls of the step that the kernel does not answer as
// they should be, package supervisor answers, in the same process.
package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/supervisor"
)

// box is the state of the init.
type box struct {
	Config
	root    int                    // the new root, O_PATH
	rootDev uint64                 // its device
	proc    int                    // a proc file system that shows this process: the host's, or in a user namespace an own one, at /proc; not used once the step runs, but by super
	made    []made                 // mount points that were not there before
	mounted []string               // where user mounts are, for taking them down
	null    [2]int                 // /dev/null, to be read and for both; not opened by its name later, where a mount or the step may have put something else
	console *os.File               // the slave of the terminal
	master  int                    // and its master, or -1
	netNS   int                    // the network namespace to join, if JoinNet
	who     *identity              // whom the process runs as
	super   *supervisor.Supervisor // answers calls of the step; nil if it need not
	sys     int                    // by chroot: the container's /sys
	aside   int                    // Config.Aside, opened
	placed  []placed               // what is in the root for the step only
	ended   atomic.Bool            // the parent wants no more
	family  *supervisor.Family     // in the place of a pid namespace; nil if there is one

	goOn chan struct{} // the parent's answer to Created

	home *home // where the init goes when this is not its last box
	free bool  // it is there

	owners *supervisor.Ownership // what super does, if the box has one id

	mu      sync.Mutex
	pid     int // of the step, 0 before and after it runs
	waiting []unix.Signal
}

// Init does the work of the re-executed program and never returns.
func Init() {
	// Nothing that strake or its own parent left open reaches the step.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, "strake: closing descriptors:", err)
		os.Exit(1)
	}
	ignoreSignals()
	os.Exit(run())
}

// ignoreSignals makes signals from the host harmless; the box cannot send any. The kernel drops those for pid 1 that it has no handler
// for; unlike an ignored one, the default action is right for the step that inherits it. The signals that Go's runtime
// needs itself are kept.
func ignoreSignals() { setSignals(0) }

// sigIgnore is SIG_IGN.
const sigIgnore = 1

// setSignals gives all signals but those of Go's runtime a handler that is none: 0, the default, or sigIgnore.
func setSignals(handler uint64) {
	action := [4]uint64{handler} // struct sigaction
	for s := unix.Signal(1); s <= 31; s++ {
		switch s {
		case unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGURG, unix.SIGKILL, unix.SIGSTOP:
		default:
			if s == unix.SIGCHLD && handler == sigIgnore {
				continue // or there would be nothing to wait for
			}
			_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
		}
	}
}

func newBox() *box { return &box{master: -1, goOn: make(chan struct{}, 1)} }

func run() int {
	b := newBox()
	if err := b.readConfig(); err != nil {
		return report(Report{Kind: Failed, Text: err.Error()})
	}
	if b.Again {
		// Where there can be no home, the box is the last one.
		if h, err := newHome(); err == nil {
			b.home = h
			h.serve(b, os.Exit)
		}
	}
	err := b.share()
	if err != nil {
		return report(Report{Kind: Failed, Text: err.Error()})
	}
	go b.watch()
	return b.live()
}

// live makes the box, and returns the code to exit with, after the last report, when it has ended.
func (b *box) live() int {
	err := b.unshare()
	if err == nil {
		err = b.setup()
	}
	if err != nil {
		return b.fail(err)
	}
	if err := b.start(); err != nil {
		r := Report{Kind: Failed, Text: err.Error()}
		var se *startError
		if errors.As(err, &se) {
			r = Report{Kind: NoStart, Code: se.code, Path: se.path, Text: se.err.Error(), Errno: int(errno(se.err))}
		}
		return b.finish(r)
	}
	status, err := b.reap()
	if err != nil {
		return b.fail(err)
	}
	if err := b.super.End(); err != nil {
		return b.fail(err)
	}
	return b.finish(Report{Kind: Ended, Status: uint32(status)})
}

// fail reports what went wrong.
func (b *box) fail(err error) int { return b.finish(Report{Kind: Failed, Text: err.Error()}) }

// finish puts the root back as it was, kills what may be left, and then sends r, the last report.
func (b *box) finish(r Report) int {
	if b.family != nil {
		if err := errors.Join(b.family.End(), b.putBack()); err != nil && r.Kind != Failed {
			r = Report{Kind: Failed, Text: err.Error()}
		}
	}
	if b.family != nil || r.Kind != Failed {
		b.cleanup()
	}
	if b.home != nil && b.Again && r.Kind == Ended && b.home.back(b) == nil {
		b.free, r.Free = true, true
	}
	return report(r)
}

// readConfig waits for the parent to hand over the configuration, and takes its place: the init may have been started
// long before there was anything to do.
func (b *box) readConfig() error {
	_, fds, err := receive()
	if err != nil {
		return err
	}
	return b.take(fds)
}

// receive reads a message of the parent: a byte, and descriptors. When the parent is gone, the byte is missing.
func receive() (data []byte, fds []int, err error) {
	buf, oob := make([]byte, 16), make([]byte, unix.CmsgSpace(5*4))
	var n, oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(sockFD, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil && oobn > 0 {
		fds, err = parseRights(oob[:oobn])
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading what the parent says: %w", err)
	}
	return buf[:n], fds, nil
}

// take makes what came with the configuration the init's own: standard input, output and error, and the configuration itself.
func (b *box) take(fds []int) error {
	if len(fds) == 0 {
		os.Exit(128 + int(unix.SIGKILL)) // the parent is gone
	}
	if len(fds) < 4 {
		return fmt.Errorf("taking over the sandbox's descriptors: %w", unix.EINVAL)
	}
	for i, fd := range fds[:3] {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return fmt.Errorf("taking over the sandbox's descriptors: %w", err)
		}
		unix.Close(fd)
	}
	f := os.NewFile(uintptr(fds[3]), "config")
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
	if err != nil {
		return fmt.Errorf("reading the sandbox's configuration: %w", err)
	}
	if err := json.Unmarshal(data, &b.Config); err != nil {
		return fmt.Errorf("reading the sandbox's configuration: %w", err)
	}
	if b.JoinNet {
		if len(fds) != 5 {
			return fmt.Errorf("taking over the network namespace: %w", unix.EINVAL)
		}
		b.netNS = fds[4]
	}
	return nil
}

func parseRights(oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return nil, errors.Join(err, unix.EINVAL)
	}
	return unix.ParseUnixRights(&msgs[0])
}

// share prepares for a box without a pid namespace: this process must find its descendants, and live until they are dead.
func (b *box) share() (err error) {
	if !b.SharedPID {
		return nil
	}
	// The step dies with the thread that starts it.
	runtime.LockOSThread()
	setSignals(sigIgnore)
	b.family, err = supervisor.NewFamily()
	return err
}

// unshare makes the namespaces that not every box needs in this form. They are those of the calling thread, which is kept for all that
// follows.
func (b *box) unshare() error {
	flags := 0
	if b.home != nil { // other threads keep those that the init was started in
		flags |= unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	}
	if b.Loopback && !b.JoinNet {
		flags |= unix.CLONE_NEWNET
	}
	if b.Cgroup { // the box's own control group is the root of what it sees
		flags |= unix.CLONE_NEWCGROUP
	}
	if flags == 0 && !b.JoinNet {
		return nil
	}
	runtime.LockOSThread()
	if b.JoinNet {
		if err := unix.Setns(b.netNS, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering the network namespace: %w", err)
		}
		unix.Close(b.netNS)
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("making namespaces: %w", err)
	}
	return nil
}

// maxText is how much of each text there is in a report, in bytes: it must fit into the parent's buffer, and names may be of any length.
const maxText = 4 << 10

// report sends r and returns the exit code that goes with it.
func report(r Report, fds ...int) int {
	for _, text := range []*string{&r.Text, &r.Path} {
		*text = (*text)[:min(len(*text), maxText)]
	}
	data, err := json.Marshal(r)
	if err != nil {
		return 1
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(sockFD, data, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		return 1
	}
	return 0
}

// watch takes signals from the parent, and returns the descriptors of the next box when they come. When the parent is gone, so is the box: the kernel kills
// every process of a pid namespace whose init exits. Without one, the processes are killed here; End asks for that too.
func (b *box) watch() (next []int) {
	for {
		data, fds, err := receive()
		if len(fds) > 0 {
			return fds
		}
		if b.family != nil && (err != nil || len(data) == 0 || data[0] == End) {
			b.ended.Store(true)
			close(b.goOn) // who waits for it must come to its end
			b.family.WatchEnd()
		}
		if err != nil || len(data) == 0 {
			os.Exit(128 + int(unix.SIGKILL))
		}
		if data[0] == GoOn {
			select {
			case b.goOn <- struct{}{}:
			default:
			}
			continue
		}
		b.signal(unix.Signal(data[0]))
	}
}

func (b *box) signal(s unix.Signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pid == 0 {
		b.waiting = append(b.waiting, s)
		return
	}
	if b.pid > 0 {
		_ = unix.Kill(b.pid, s)
	}
}

// reap waits for the step and returns its wait status. The step buries orphans itself; the kernel kills what it leaves behind
// before its end can be seen.
func (b *box) reap() (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		// Peek first: the pid must not be free for another process while a signal may be on its way to it.
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT|unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("waiting for the process: %w", err)
		}
		b.mu.Lock()
		pid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOHANG, nil)
		if err == nil && pid == b.pid {
			b.pid = -1
			b.mu.Unlock()
			if b.family != nil {
				return status, b.family.End()
			}
			return status, nil
		}
		b.mu.Unlock()
	}
}

// start starts the step.
func (b *box) start() error {
	if err := b.launch(); err != nil {
		return err
	}
	if b.console != nil {
		b.console.Close()
	}
	b.letGo()
	if b.master >= 0 {
		report(Report{Kind: Started}, b.master)
		unix.Close(b.master)
	} else {
		report(Report{Kind: Started})
	}
	return nil
}

// letGo closes the step's input and output in the init: who writes or reads at their other
// ends must notice when the step closes them.
func (b *box) letGo() {
	_ = unix.Dup3(b.null[1], 0, unix.O_CLOEXEC)
	_ = unix.Dup3(b.null[1], 1, unix.O_CLOEXEC)
}

// launch forks the step, hides what it must not see of its /proc, and lets it execute its program.
func (b *box) launch() error {
	path, err := b.lookPath()
	if err != nil {
		return err
	}
	if !b.UserNS && !b.SharedPID {
		unix.Close(b.proc)
	}
	s, err := b.newStep(path)
	if err != nil {
		return err
	}
	pid, err := s.start()
	if err != nil {
		return err
	}
	if err := b.mask(); err != nil {
		return err // the end of the init is the child's
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := s.exec(b.supervise); err != nil {
		var se *startError
		if errors.As(err, &se) {
			se.path, se.err = b.Args[0], fmt.Errorf("exec %s: %w", path, se.err)
		}
		return err
	}
	if b.super == nil && b.UserNS && !b.SharedPID {
		unix.Close(b.proc)
	}
	b.pid = pid
	for _, s := range b.waiting {
		_ = unix.Kill(pid, s)
	}
	return nil
}

// supervise answers the calls that come from listener.
func (b *box) supervise(listener int) error {
	served := supervisor.Box{Proc: b.proc, Sys: b.sys, Hostname: b.Hostname, Family: b.family, Owners: b.owners}
	if b.family != nil {
		served.Proc = b.family.Proc() // the box's own cannot be written
	}
	if slices.Contains(b.Supervise, supervisor.Proc) {
		var err error
		if served.Tree, err = b.inRoot("/proc", unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS); err != nil {
			return fmt.Errorf("serving /proc: %w", err)
		}
	}
	s, err := supervisor.New(listener, served, b.Supervise)
	if err != nil {
		return err
	}
	b.super = s
	return s.Start()
}

// startError is why the step could not be started.
type startError struct {
	code int
	path string
	err  error
}

func (e *startError) Error() string { return e.err.Error() }

func errno(err error) syscall.Errno {
	var e syscall.Errno
	_ = errors.As(err, &e)
	return e
}
