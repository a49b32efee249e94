package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxHookText is how much of what a failing hook wrote is in the error, in bytes.
const maxHookText = 4 << 10

// runHooks tells the parent that the box is made, waits for its hooks, and runs those that belong into the box's namespaces (createContainer
// of the OCI runtime specification): all that the step will see is mounted over Attach, and the host's files are still in sight.
func (b *box) runHooks() error {
	if b.Sync {
		report(Report{Kind: Created})
		<-b.goOn // or the end, with the parent
	}
	for _, h := range b.Hooks {
		if err := h.Run(context.Background(), b.State, os.Getpid()); err != nil {
			return fmt.Errorf("createContainer hook: %w", err)
		}
	}
	return nil
}

// withPid adds the pid to the state of a box, if there still is one.
func withPid(state []byte, pid int) ([]byte, error) {
	var fields map[string]any
	if err := json.Unmarshal(state, &fields); err != nil {
		return nil, fmt.Errorf("reading the state for hooks: %w", err)
	}
	if pid > 0 {
		fields["pid"] = pid
	}
	return json.Marshal(fields)
}

// Run runs the hook with state, and the pid in it, as its standard input. Its process group is killed when its time is over or ctx ends.
func (h Hook) Run(ctx context.Context, state []byte, pid int) error {
	state, err := withPid(state, pid)
	if err != nil {
		return err
	}
	if h.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, h.Timeout, fmt.Errorf("it did not end within its timeout of %v", h.Timeout))
		defer cancel()
	}
	text := &head{}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...) // nothing of strake's
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), text, text
	cmd.Dir = "/"
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second // for what it left behind with its output
	runtime.LockOSThread()      // the hook dies with the thread that made it
	err = cmd.Run()
	runtime.UnlockOSThread()
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay): // in time, however late that is seen
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.As(err, &exit) && strings.TrimSpace(text.String()) != "":
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(text.String()))
	}
	return fmt.Errorf("running %s: %w", strings.Join(cmd.Args, " "), err)
}

// head keeps the first maxHookText bytes.
type head struct{ bytes.Buffer }

func (t *head) Write(p []byte) (int, error) {
	_, _ = t.Buffer.Write(p[:min(len(p), maxHookText-t.Len())])
	return len(p), nil
}
