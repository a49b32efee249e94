package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startTimeout is how long a carrier may take to get ready.
const startTimeout = 10 * time.Second

// carrying is a carrier that runs.
type carrying struct {
	cmd   *exec.Cmd
	exit  *os.File // its end is the carrier's, if that knows of it
	said  said
	ended chan struct{}
	err   error // of its end
}

// start starts c for the network namespace ns and waits until it is ready.
func (c *carrier) start(ctx context.Context, ns *namespace) (io.Closer, error) {
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.path, err)
	}
	defer readyR.Close()
	exitR, exitW, err := os.Pipe()
	if err != nil {
		readyW.Close()
		return nil, fmt.Errorf("starting %s: %w", c.path, err)
	}
	r := &carrying{cmd: exec.Command(c.path, c.args...), exit: exitW, ended: make(chan struct{})}
	r.cmd.Dir, r.cmd.Stdout, r.cmd.Stderr = "/", &r.said, &r.said
	r.cmd.ExtraFiles = []*os.File{ns.file, readyW, exitR}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setsid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // it dies with the thread that made it
		defer runtime.UnlockOSThread()
		err := r.cmd.Start()
		readyW.Close()
		exitR.Close()
		started <- err
		if err == nil {
			r.err = r.cmd.Wait()
			close(r.ended)
		}
	}()
	if err := <-started; err != nil {
		exitW.Close()
		return nil, fmt.Errorf("starting %s: %w", c.path, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("it does not get ready"))
	defer cancel()
	if err := c.wait(ctx, r, ns, readyR); err != nil {
		r.Close()
		return nil, fmt.Errorf("starting %s: %w: %s", c.path, err, bytes.TrimSpace(r.said.data))
	}
	return r, nil
}

// wait waits until the carrier is ready.
func (c *carrier) wait(ctx context.Context, r *carrying, ns *namespace, pipe *os.File) error {
	ready := make(chan error, 1)
	go func() {
		if c.ready {
			_, err := io.ReadFull(pipe, make([]byte, 1))
			ready <- err
			return
		}
		for ctx.Err() == nil {
			routes, err := ns.routes.routes()
			if err != nil || slices.ContainsFunc(routes, func(r route) bool { return r.to.Bits() == 0 }) {
				ready <- err
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	select {
	case err := <-ready:
		return err
	case <-r.ended:
		return errors.Join(errors.New("it ended"), r.err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close ends the carrier.
func (r *carrying) Close() error {
	err := r.exit.Close()
	_ = r.cmd.Process.Kill()
	<-r.ended
	return err
}

// said keeps the beginning of what a program says, which is where it says what is wrong.
type said struct{ data []byte }

func (t *said) Write(p []byte) (int, error) {
	const enough = 4096
	t.data = append(t.data, p[:min(len(p), enough-len(t.data))]...)
	return len(p), nil
}
