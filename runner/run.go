package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/cgroup"
	"github.com/strake-build/strake/runner/network"
	"github.com/strake-build/strake/runner/sandbox"
	"github.com/strake-build/strake/runner/seccomp"
	"github.com/strake-build/strake/runner/supervisor"
)

// Linux runs boxes on this kernel. It must not be copied.
type Linux struct {
	Isolation Isolation
	// Dir holds what a running box needs on disk (mode 0700); what dead processes have left in it is removed by Sweep. It should be on the
	// file system of the layers.
	Dir string

	once   sync.Once
	err    error
	exe    *os.File // this program, through a read-only mount
	filter []byte   // the seccomp program
	open   []byte   // that of a box without restrictions; nil if it needs none
	// With one id, those of steps that begin as another user than root.
	userFilter, userOpen []byte
	oom                  oomFile
	guard                guard
	turns                turns
	inits                chan spawned  // from start
	free                 chan spawned  // that have made a box and can make another
	quit                 chan struct{} // ends start
	ended                chan struct{} // when start has ended
}

// prepare does what all boxes need, once.
func (l *Linux) prepare() error {
	l.once.Do(func() {
		if l.err = l.Isolation.CheckRun(); l.err != nil {
			return
		}
		if l.err = l.compile(); l.err != nil {
			return
		}
		if l.exe, l.err = openSelf(); l.err != nil {
			return
		}
		if l.err = l.hide(); l.err != nil {
			return
		}
		l.oom = findOOM()
		if l.err = l.sweepNetwork(); l.err != nil {
			return
		}
		l.guard, l.turns = l.newGuard(), newTurns(l.Isolation)
		l.inits, l.quit, l.ended = make(chan spawned), make(chan struct{}), make(chan struct{})
		l.free = make(chan spawned, maxFree)
		go l.start()
	})
	return l.err
}

// compile makes the filters of boxes.
func (l *Linux) compile() (err error) {
	if l.filter, err = supervisor.Filter(seccomp.Capabilities, l.ruleSets()...); err != nil {
		return err
	}
	if sets := l.supervisedOpen(); len(sets) > 0 {
		if l.open, err = supervisor.OpenFilter(sets...); err != nil {
			return err
		}
	}
	if !l.Isolation.OneID {
		return nil
	}
	if l.userFilter, err = supervisor.Filter(seccomp.Capabilities, append(l.ruleSets(), supervisor.Users)...); err != nil {
		return err
	}
	l.userOpen, err = supervisor.OpenFilter(append(l.supervisedOpen(), supervisor.Users)...)
	return err
}

// supervised says what the init of a box has to do in the kernel's place.
func (l *Linux) supervised() []supervisor.RuleSet {
	var sets []supervisor.RuleSet
	if l.Isolation.UserNS {
		sets = append(sets, supervisor.Devices)
	}
	if l.Isolation.OneID {
		sets = append(sets, supervisor.Owners)
	}
	if l.Isolation.shared() {
		sets = append(sets, supervisor.Processes)
		if !sandbox.Scoped() {
			sets = append(sets, supervisor.Signals)
		}
		if l.Isolation.Rung == Chroot {
			sets = append(sets, supervisor.Proc)
		}
	}
	if l.Isolation.NoHostname {
		sets = append(sets, supervisor.Names)
	}
	return sets
}

// ruleSets are those, and what a step must not do that an overlay would refuse.
func (l *Linux) ruleSets() []supervisor.RuleSet {
	sets := l.supervised()
	if l.Isolation.NoOverlay {
		sets = append(sets, supervisor.Whiteouts)
	}
	return sets
}

// supervisedOpen is what remains of that for a box without restrictions.
func (l *Linux) supervisedOpen() []supervisor.RuleSet {
	var sets []supervisor.RuleSet
	if l.Isolation.OneID {
		sets = append(sets, supervisor.Owners)
	}
	if l.Isolation.NoHostname {
		sets = append(sets, supervisor.Names)
	}
	return sets
}

// hide keeps this process from being looked into by others of its user, if steps see it.
func (l *Linux) hide() error {
	if !l.Isolation.shared() {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hiding this process: %w", err)
	}
	return nil
}

// Close frees what Run keeps between boxes. No box may be running.
func (l *Linux) Close() error {
	if l.exe == nil {
		return nil
	}
	if l.quit != nil { // or it could not be prepared
		close(l.quit)
		<-l.ended
		close(l.free)
		for s := range l.free {
			s.discard()
		}
		l.guard.close()
	}
	return l.exe.Close()
}

// Run runs p in s until it ends, and returns nil, an *ExitError, a *StartError or what went wrong in strake.
// When ctx ends, the process and everything it started are killed, and the error is context.Cause(ctx).
//
// A Stdin that is a pipe without a name, or a socket, is handed to the process itself; any other reader is copied, and the read that waits for
// more when the process ends is left behind.
func (l *Linux) Run(ctx context.Context, s Sandbox, p Process) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := l.prepare(); err != nil {
		return err
	}
	if err := l.check(s); err != nil {
		return err
	}
	end, err := l.turns.wait(ctx, s.Secrets)
	if err != nil {
		return err
	}
	defer end()
	net, err := l.connect(ctx, s.Network)
	if err != nil {
		return err
	}
	err = l.runIn(ctx, s, p, net)
	if net != nil {
		// The box is gone; what is left of its network the next one removes, or says why it cannot.
		_ = net.Close()
	}
	return err
}

// runIn runs p in s, in the private network net if that is not nil.
func (l *Linux) runIn(ctx context.Context, s Sandbox, p Process, net *network.Network) error {
	cfg, done, err := l.config(s, p, net)
	if err != nil {
		return err
	}
	defer done()
	b := &box{linux: l, process: p, oom: l.oom}
	defer b.close()
	if err := b.hook(s, cfg); err != nil {
		return err
	}
	if s.Limits.Any() {
		if err := b.limit(s.Limits); err != nil {
			return err
		}
		cfg.Cgroup = true
	}
	if net != nil {
		b.net = net.NS
	}
	cfg.Again = !s.Secrets && b.reusable(cfg)
	if err := b.start(cfg); err != nil {
		return err
	}
	err = b.wait(ctx)
	return b.hooks.after(ctx, err, p.Stderr)
}

// box is the parent's side of a running box.
type box struct {
	linux   *Linux
	process Process
	init    *os.Process
	sock    *os.File // to the init
	net     *os.File // its network namespace, if it does not make or share one
	io      streams
	group   *cgroup.Group // of its own, if it has limits
	record  *ownDir       // the directory that remembers group
	oom     oomFile
	oomed   uint64 // counter of kills before the start
	again   bool   // the init may be used again
	hooks   *hooks // nil without any

	mu  sync.Mutex
	end bool // the init is gone
}

// start takes an init and hands it cfg.
func (b *box) start(cfg *sandbox.Config) error {
	memory, err := configFile(cfg)
	if err != nil {
		return err
	}
	defer memory.Close()
	files, err := b.io.open(b.process)
	if err != nil {
		return err
	}
	defer b.io.closeTheirs()
	b.oomed = b.kills()
	files = append(files, memory)
	if b.net != nil {
		files = append(files, b.net)
	}
	b.again = cfg.Again
	for {
		init := b.linux.take()
		if init.err != nil {
			return init.err
		}
		b.init, b.sock = init.process, init.sock
		err = b.restrict(cfg.NoDev || cfg.Insecure)
		if err == nil && b.group != nil {
			err = b.group.Add(b.init.Pid)
		}
		if err == nil {
			err = init.send(files)
		}
		if err == nil {
			return nil
		}
		init.discard()
		b.sock = nil
		if !init.used { // else it may have been killed while it had nothing to do
			return err
		}
	}
}

// configFile returns a memfd with cfg: other than an argument or a file, nobody else can read it.
func configFile(cfg *sandbox.Config) (*os.File, error) {
	data, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("writing the sandbox's configuration: %w", err)
	}
	fd, err := unix.MemfdCreate("strake", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("writing the sandbox's configuration: %w", err)
	}
	f := os.NewFile(uintptr(fd), "configuration")
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("writing the sandbox's configuration: %w", err)
	}
	return f, nil
}

// wait sees the box to its end.
func (b *box) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, b.kill)
	signals := b.passSignals()

	got, free := b.listen(ctx)
	var state *os.ProcessState
	var err error
	if !free {
		state, err = b.init.Wait()
	}
	b.mu.Lock()
	b.end = true
	b.mu.Unlock()
	killed := !stop()
	signals()
	if free {
		b.handBack(killed)
	}
	copyErr := b.io.finish()
	if killed && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("waiting for the sandbox: %w", err)
	}
	if b.hooks.failed() != nil {
		return b.hooks.failed()
	}
	if copyErr != nil { // the process may have died of it
		return copyErr
	}
	return b.result(got, state)
}

// kill kills the init, and with it the kernel kills all that is in its pid namespace. Where there is none, the init is told to do that.
func (b *box) kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.end:
	case b.linux.Isolation.shared():
		_, _ = b.sock.Write([]byte{sandbox.End})
	default:
		_ = b.init.Kill()
	}
}

// result makes an error of what the init reported last.
func (b *box) result(got []sandbox.Report, state *os.ProcessState) error {
	oom := func() bool { return b.kills() > b.oomed }
	if len(got) == 0 || got[len(got)-1].Kind == sandbox.Started || got[len(got)-1].Kind == sandbox.Created {
		if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return &ExitError{Code: 128 + int(ws.Signal()), Signal: ws.Signal(), OOM: oom()}
		}
		return fmt.Errorf("the sandbox ended early: %v", state)
	}
	r := got[len(got)-1]
	switch r.Kind {
	case sandbox.Failed:
		return fmt.Errorf("making the sandbox: %s", r.Text)
	case sandbox.NoStart:
		return &StartError{Code: r.Code, Path: r.Path, Err: &remoteError{r.Text, syscall.Errno(r.Errno)}}
	case sandbox.Created, sandbox.Started, sandbox.Ended: // Ended: the others were dealt with
	}
	ws := syscall.WaitStatus(r.Status)
	switch {
	case ws.Signaled():
		return &ExitError{Code: 128 + int(ws.Signal()), Signal: ws.Signal(), OOM: ws.Signal() == unix.SIGKILL && oom()}
	case ws.ExitStatus() != 0:
		// In a group of its own it can only be the box that was short of memory, whatever the process made of its child's end.
		return &ExitError{Code: ws.ExitStatus(), OOM: (b.counts() || ws.ExitStatus() == 128+int(unix.SIGKILL)) && oom()}
	}
	return nil
}

// kills counts processes killed for want of memory, in the box's own group if it has one.
func (b *box) kills() uint64 {
	if b.counts() {
		return b.group.Kills()
	}
	return b.oom.count()
}

// counts says whether the box has a group that counts kills.
func (b *box) counts() bool { return b.group != nil && b.group.Memory() != "" }

// remoteError is an error of the init: its text, and its error number for errors.Is.
type remoteError struct {
	text  string
	errno syscall.Errno
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

// listen reads the reports of the init until it is gone, or free for another box.
func (b *box) listen(ctx context.Context) (got []sandbox.Report, free bool) {
	conn, err := b.sock.SyscallConn()
	if err != nil {
		return nil, false
	}
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	for {
		var n, oobn int
		var rerr error
		err := conn.Read(func(fd uintptr) bool {
			n, oobn, _, _, rerr = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
			return !errors.Is(rerr, unix.EAGAIN)
		})
		if errors.Is(rerr, unix.EINTR) {
			continue
		}
		if err != nil || rerr != nil || n == 0 {
			return got, false
		}
		var r sandbox.Report
		if json.Unmarshal(buf[:n], &r) == nil {
			got = append(got, r)
			b.hooked(ctx, r.Kind)
		}
		if fd, ok := passedFD(oob[:oobn]); ok {
			b.io.join(fd)
		}
		if r.Free && b.again {
			return got, true
		}
	}
}

func passedFD(oob []byte) (int, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return -1, false
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, false
	}
	return fds[0], true
}

// passSignals passes the caller's signals on; the function it returns ends that.
func (b *box) passSignals() func() {
	if b.process.Signals == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case s, ok := <-b.process.Signals:
				if !ok {
					return
				}
				if n, ok := s.(syscall.Signal); ok {
					_, _ = b.sock.Write([]byte{byte(n)})
				}
			}
		}
	}()
	return func() { close(quit); <-done }
}

// close frees what is left of a box that has ended, or was never started.
func (b *box) close() {
	if b.sock != nil {
		b.sock.Close()
	}
	b.io.close()
	if b.group != nil {
		b.group.Remove()
	}
	b.record.remove()
	b.hooks.close()
}
