package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/device"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

// hostname is what a RUN sees, unless told otherwise; Dockerfiles have come to know BuildKit's.
const hostname = "buildkitsandbox"

// runWork runs the process of a RUN.
type runWork struct {
	*build
	vertex *vertex
	run    *dockerfile.Run
	// mountInputs says for each mount which of the vertex's inputs it reads, -1 for none.
	mountInputs []int
	// inContext says for each mount that its input is a copy of a part of a context, at contextMount.
	inContext []bool
	// platform is what the programs of the stage are for.
	platform v1.Platform
	devices  *device.Registry // nil if the RUN asks for none
	// found are the full names of the devices that it gets, missing those of the ones that are not there.
	found, missing []string
}

func (w *runWork) parts(context.Context) ([]cache.Part, error) {
	parts := []cache.Part{{Name: "instruction", Value: "RUN"}}
	for _, a := range w.run.Args {
		parts = append(parts, cache.Part{Name: "arg", Value: a})
	}
	for _, e := range w.run.Env {
		parts = append(parts, cache.Part{Name: "env", Value: e})
	}
	parts = append(parts, cache.Part{Name: "user", Value: w.run.User}, cache.Part{Name: "dir", Value: w.run.Dir})
	if s := w.run.Script; s != nil {
		parts = append(parts, cache.Part{Name: "script", Value: string(s.Data)})
	}
	if n := w.network(); n != runner.HostNetwork {
		parts = append(parts, cache.Part{Name: "network", Value: string(n)})
	}
	if w.run.Security == dockerfile.SecurityInsecure {
		parts = append(parts, cache.Part{Name: "security", Value: string(w.run.Security)})
	}
	for _, d := range w.found {
		parts = append(parts, cache.Part{Name: "device", Value: d})
	}
	parts = append(parts, w.boxParts()...)
	mounts, err := w.mountParts()
	return append(parts, mounts...), err
}

// boxParts are what the build says of all boxes that a program can tell, but for addresses and for how much of the machine it gets.
func (w *runWork) boxParts() []cache.Part {
	var parts []cache.Part
	for _, h := range w.opt.Sandbox.ExtraHosts {
		_, name, _ := strings.Cut(h, "\t")
		parts = append(parts, cache.Part{Name: "host", Value: name})
	}
	if n := w.opt.Sandbox.Hostname; n != "" && n != hostname {
		parts = append(parts, cache.Part{Name: "hostname", Value: n})
	}
	if n := w.opt.Sandbox.ShmSize; n != 0 {
		parts = append(parts, cache.Part{Name: "shm-size", Value: strconv.FormatInt(n, 10)})
	}
	for _, u := range w.opt.Sandbox.Ulimits {
		parts = append(parts, cache.Part{Name: "ulimit", Value: fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard)})
	}
	return parts
}

func (w *runWork) content(ctx context.Context, _ []snapshot.ID, inputs []filesystem) ([]cache.Part, error) {
	return w.mountContent(ctx, inputs)
}

func (w *runWork) detached() bool { return false }

func (w *runWork) do(ctx context.Context, active *snapshot.Active, _ []snapshot.ID, inputs []filesystem) error {
	mounted, err := w.mountAll(ctx, inputs)
	defer mounted.close()
	if err != nil {
		return err
	}
	needed, err := w.deviceEdits()
	if err != nil {
		return err
	}
	box := runner.Sandbox{
		Root:     *overlay(active.Mount()),
		Mounts:   append(mounted.mounts, deviceMounts(needed)...),
		Network:  w.network(),
		Hostname: cmp.Or(w.opt.Sandbox.Hostname, hostname),
		Stubs:    w.Stubs,

		ExtraHosts: w.opt.Sandbox.ExtraHosts,
		ShmSize:    w.opt.Sandbox.ShmSize,
		Insecure:   w.run.Security == dockerfile.SecurityInsecure,
		Ulimits:    w.opt.Sandbox.Ulimits,
		Limits:     w.opt.Sandbox.Limits,
		Hooks:      deviceHooks(needed),
		Secrets:    w.hasSecrets(),
	}
	if s := w.run.Script; s != nil {
		box.Mounts = append(box.Mounts, runner.Mount{Type: runner.Bind, Target: path.Join(dockerfile.ScriptDir, s.Name), Data: s.Data, Mode: 0o755, ReadOnly: true})
	}
	err = w.Sandbox.Run(ctx, box, runner.Process{
		Args:   w.run.Args,
		Env:    runner.JoinEnv(w.run.Env, w.run.Proxy, mounted.env, needed.Env),
		Dir:    w.run.Dir,
		User:   w.run.User,
		Groups: needed.Groups,
		Stdout: &output{w.build, w.vertex.ID, progress.Stdout},
		Stderr: &output{w.build, w.vertex.ID, progress.Stderr},
	})
	var exit *runner.ExitError
	var start *runner.StartError
	if errors.As(err, &exit) || errors.As(err, &start) {
		// 126 is of execve: the program is there, but what would run it is not.
		unseen := start != nil && start.Code == 126 && errors.Is(err, syscall.ENOENT)
		if w.foreign() && (unseen || errors.Is(err, syscall.ENOEXEC)) {
			err = &foreignError{step: w.platform, machine: w.opt.Settings.Build, unseen: unseen, err: err}
		}
		return fmt.Errorf("process %q did not complete successfully: %w", strings.Join(w.run.Args, " "), err)
	}
	if n := w.opt.Sandbox.Limits.Pids; err != nil && n > 0 && n < fewPids && ctx.Err() == nil {
		err = fmt.Errorf("%w (a limit of %d processes counts the threads of the sandbox too: allow at least %d)", err, n, fewPids)
	}
	return err
}

// fewPids is a limit of processes below which the sandbox itself may fail to start.
const fewPids = 16

// foreign says that the step's programs are for another kind of machine. Variants of one kind are none: of these,
// the kernel starts the programs.
func (w *runWork) foreign() bool {
	build := w.opt.Settings.Build
	return w.platform.Architecture != "" && build.Architecture != "" && w.platform.Architecture != build.Architecture
}

// foreignError is that a program of another platform could not be started, and how it can be.
type foreignError struct {
	step, machine v1.Platform
	unseen        bool // there may be an emulator, which cannot be seen in the step's root
	err           error
}

func (e *foreignError) Error() string {
	if e.unseen {
		return fmt.Sprintf("%v: the step is for %s and this machine runs %s: the emulator that is registered with binfmt_misc is not in the image: "+
			"register it with the F flag (fix binary), as Debian's qemu-user-static with binfmt-support does; or the image lacks what its own program needs to be loaded", e.err, e.step, e.machine)
	}
	return fmt.Sprintf("%v: the step is for %s and this machine runs %s: register an emulator with binfmt_misc, "+
		"for example by apt-get install qemu-user-static binfmt-support", e.err, e.step, e.machine)
}

func (e *foreignError) Unwrap() error { return e.err }

// NetworkBridge is a private network with a way out, for SandboxOptions: no RUN can ask for it.
const NetworkBridge dockerfile.Network = "bridge"

// network is what the RUN sees: the host's network, where the build says nothing else.
func (w *runWork) network() runner.Network {
	n := w.run.Network
	if n == dockerfile.NetworkDefault || n == "" {
		n = w.opt.Sandbox.Network
	}
	switch n {
	case dockerfile.NetworkNone:
		return runner.NoNetwork
	case NetworkBridge:
		return runner.BridgeNetwork
	case dockerfile.NetworkDefault, dockerfile.NetworkHost:
	}
	return runner.HostNetwork
}

// entitled says whether the build may do what the RUN asks for.
func (b *build) entitled(r *dockerfile.Run) error {
	if b.NoRun != nil {
		return b.NoRun
	}
	if r.Network == dockerfile.NetworkHost && !b.opt.Sandbox.AllowHostNetwork {
		return errors.New("entitlement network.host is not allowed: build with --allow network.host")
	}
	if r.Security == dockerfile.SecurityInsecure && !b.opt.Sandbox.AllowInsecure {
		return errors.New("entitlement security.insecure is not allowed: build with --allow security.insecure")
	}
	return nil
}

func overlay(m snapshot.Mount) *runner.Overlay {
	return &runner.Overlay{Lower: m.Lower, Upper: m.Upper, Work: m.Work, UserXattr: m.UserXattr}
}

// output turns what a process writes into events.
type output struct {
	*build
	vertex string
	stream int
}

func (o *output) Write(p []byte) (int, error) {
	o.opt.Progress(progress.Event{Time: o.Now(), Kind: progress.Output, Vertex: o.vertex, Stream: o.stream, Data: p})
	return len(p), nil
}
