package builder

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

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
	return parts, nil
}

func (w *runWork) content(context.Context, []filesystem) ([]cache.Part, error) { return nil, nil }

func (w *runWork) do(ctx context.Context, active *snapshot.Active, _ []filesystem) error {
	m := active.Mount()
	box := runner.Sandbox{
		Root:     runner.Overlay{Lower: m.Lower, Upper: m.Upper, Work: m.Work, UserXattr: m.UserXattr},
		Network:  runner.HostNetwork,
		Hostname: hostname,
		Stubs:    w.Stubs,
	}
	if s := w.run.Script; s != nil {
		box.Mounts = append(box.Mounts, runner.Mount{Type: runner.Bind, Target: path.Join("/dev/pipes", s.Name), Data: s.Data, Mode: 0o755, ReadOnly: true})
	}
	err := w.Sandbox.Run(ctx, box, runner.Process{
		Args:   w.run.Args,
		Env:    append(append([]string(nil), w.run.Env...), w.run.Proxy...),
		Dir:    w.run.Dir,
		User:   w.run.User,
		Stdout: &output{w.build, w.vertex.ID, progress.Stdout},
		Stderr: &output{w.build, w.vertex.ID, progress.Stderr},
	})
	var exit *runner.ExitError
	var start *runner.StartError
	if errors.As(err, &exit) || errors.As(err, &start) {
		return fmt.Errorf("process %q did not complete successfully: %w", strings.Join(w.run.Args, " "), err)
	}
	return err
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
