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
	"github.com/strake-build/strake/runner/sandbox"
)

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
