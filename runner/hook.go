package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/strake-build/strake/runner/sandbox"
)

// HookKind says when and where a hook is run (OCI runtime specification, config.md, "POSIX-platform Hooks").
type HookKind string

// The kinds of hooks. There is no startContainer: its program would be one of the image.
const (
	Prestart        HookKind = "prestart"        // when the namespaces are there, in strake's own
	CreateRuntime   HookKind = "createRuntime"   // likewise, after Prestart
	CreateContainer HookKind = "createContainer" // then, in the box's namespaces, with the host's files in sight
	Poststart       HookKind = "poststart"       // when the process runs, in strake's own namespaces
	Poststop        HookKind = "poststop"        // when the box is gone, likewise
)

// Hook is a program of the host that prepares a box, or clears up after it. It reads the box's state (OCI runtime specification,
// runtime.md, "State") from its standard input. The state's bundle is a directory with a config.json whose root.path is where the root is mounted in the mount
// namespace of the state's pid.
//
// The process is not started if a hook fails that comes before that; other failures are told of on the process's standard error.
type Hook struct {
	Kind      HookKind
	Path      string   // absolute, on the host
	Args, Env []string // Args[0] is the program's name; Env is all of its environment
	Timeout   time.Duration
}

// lastHook is how long a hook may take that has no timeout and runs when the build may have been cancelled.
const lastHook = time.Minute

// hooks are those of a running box.
type hooks struct {
	hooks    []Hook
	bundle   *ownDir
	state    state
	err      error   // of a hook before the start
	warnings []error // of those after it
	begun    bool
}

// state is what a hook reads (OCI runtime specification, runtime.md, "State"), but the pid.
type state struct {
	Version string `json:"ociVersion"`
	ID      string `json:"id"`
	Status  string `json:"status"`
	Bundle  string `json:"bundle"`
}

// ociVersion is that of the runtime specification that state and bundle follow.
const ociVersion = "1.0.2"

// hook makes the bundle for the hooks of s, and puts into cfg what the init has to know of them.
func (b *box) hook(s Sandbox, cfg *sandbox.Config) error {
	if len(s.Hooks) == 0 {
		return nil
	}
	dir, err := newOwnDir(b.linux.Dir, "")
	if err != nil {
		return fmt.Errorf("making a bundle for hooks: %w", err)
	}
	b.hooks = &hooks{hooks: s.Hooks, bundle: dir}
	bundle, err := filepath.EvalSymlinks(dir.path)
	if err == nil {
		bundle, err = filepath.Abs(bundle)
	}
	if err == nil {
		cfg.Attach = filepath.Join(bundle, "rootfs")
		err = os.Mkdir(cfg.Attach, 0o755) //nolint:gosec // a mount point, in a directory of strake's own
	}
	if err == nil {
		err = writeBundle(bundle, s, cfg)
	}
	if err != nil {
		return fmt.Errorf("making a bundle for hooks: %w", err)
	}
	b.hooks.state = state{Version: ociVersion, ID: filepath.Base(bundle), Status: "creating", Bundle: bundle}
	if cfg.State, err = json.Marshal(b.hooks.state); err != nil {
		return fmt.Errorf("writing the state for hooks: %w", err)
	}
	cfg.Sync = true
	for _, h := range s.Hooks {
		switch h.Kind {
		case CreateContainer:
			cfg.Hooks = append(cfg.Hooks, h.program())
		case Prestart, CreateRuntime, Poststart, Poststop:
		default:
			return fmt.Errorf("unknown kind of hook %q", h.Kind)
		}
	}
	return nil
}

// writeBundle writes config.json. It has neither the process nor its environment: there may be secrets in these, and a file outlives a kill.
func writeBundle(bundle string, s Sandbox, cfg *sandbox.Config) error {
	type mount struct {
		Destination string   `json:"destination"`
		Type        string   `json:"type"`
		Options     []string `json:"options,omitempty"`
	}
	config := map[string]any{
		"ociVersion": ociVersion,
		"root":       map[string]any{"path": cfg.Attach, "readonly": s.ReadOnly},
		"linux":      map[string]any{},
	}
	if s.Hostname != "" {
		config["hostname"] = s.Hostname
	}
	var mounts []mount
	for _, m := range s.Mounts {
		one := mount{Destination: m.Target, Type: string(m.Type)}
		if m.ReadOnly {
			one.Options = []string{"ro"}
		}
		mounts = append(mounts, one)
	}
	config["mounts"] = mounts
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600)
}

func (h Hook) program() sandbox.Hook {
	return sandbox.Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout}
}

// hooked runs the hooks that a report of the init is the time for.
func (b *box) hooked(ctx context.Context, kind sandbox.Kind) {
	h := b.hooks
	if h == nil {
		return
	}
	switch kind {
	case sandbox.Created:
		h.begun = true
		for _, k := range []HookKind{Prestart, CreateRuntime} {
			if h.err = h.run(ctx, k, b.init.Pid); h.err != nil {
				b.kill()
				return
			}
		}
		_, _ = b.sock.Write([]byte{sandbox.GoOn}) // if it is gone, its end says so
	case sandbox.Started:
		h.state.Status = "running"
		if err := h.run(ctx, Poststart, b.init.Pid); err != nil {
			h.warnings = append(h.warnings, err)
		}
	case sandbox.Failed, sandbox.NoStart, sandbox.Ended:
	}
}

// run runs the hooks of one kind: up to the first that fails, before the start, and else all.
func (h *hooks) run(ctx context.Context, kind HookKind, pid int) error {
	state, err := json.Marshal(h.state)
	if err != nil {
		return fmt.Errorf("writing the state for hooks: %w", err)
	}
	var failed []error
	for _, hook := range h.hooks {
		if hook.Kind != kind {
			continue
		}
		if err := hook.program().Run(ctx, state, pid); err != nil {
			failed = append(failed, fmt.Errorf("%s hook: %w", kind, err))
			if kind == Prestart || kind == CreateRuntime {
				break
			}
		}
	}
	return errors.Join(failed...)
}

// failed is what kept the process from being started.
func (h *hooks) failed() error {
	if h == nil {
		return nil
	}
	return h.err
}

// after runs what comes after the box, whose error is err, and warns of what failed since the process was started.
func (h *hooks) after(ctx context.Context, err error, warn io.Writer) error {
	if h == nil || !h.begun {
		return err
	}
	h.state.Status = "stopped"
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), lastHook, fmt.Errorf("it did not end within %v", lastHook))
	defer cancel()
	if err := h.run(ctx, Poststop, 0); err != nil {
		h.warnings = append(h.warnings, err)
	}
	if len(h.warnings) > 0 && warn != nil {
		fmt.Fprintf(warn, "warning: %v\n", errors.Join(h.warnings...))
	}
	return err
}

// close removes the bundle.
func (h *hooks) close() {
	if h != nil {
		h.bundle.remove()
	}
}
