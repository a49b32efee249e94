package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

// runRun runs a container and returns its exit code as a codeError.
func runRun(ctx context.Context, env *environment, opts runOptions) (err error) {
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	if err := s.isolation.CheckRun(); err != nil {
		return err
	}
	release, err := s.ReserveName(opts.name)
	if err != nil {
		return err
	}
	defer release()
	defer s.Snapshots.Close()
	defer func() { err = s.giveBack(ctx, err) }()
	defer s.collect(ctx)
	img, err := s.imageToRun(ctx, opts)
	if err != nil {
		return err
	}
	process, err := opts.process(env, img.Config.Config)
	if err != nil {
		return err
	}
	layers, err := s.unpackToRun(ctx, img)
	if err != nil {
		return err
	}
	active, err := s.Snapshots.Prepare(ctx, layers)
	if err != nil {
		return err
	}
	defer active.Discard()
	box := opts.box(active, s.Path("stubs"))
	box.Mounts = append(volumes(img.Config.Config.Volumes, opts.mounts), opts.mounts...)
	if process.hostname != "" {
		box.Hostname = process.hostname
	}
	for _, m := range opts.mounts {
		// A source that is not there becomes a folder, as docker's users expect of -v.
		if _, err := os.Stat(m.Source); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.MkdirAll(m.Source, 0o755); err != nil { //nolint:gosec // a folder of the user's, as docker makes it
			return fmt.Errorf("making the source of -v: %w", err)
		}
	}
	err = s.runBox(ctx, box, process.Process, stopSignal(img.Config.Config.StopSignal))
	var code *codeError
	if err == nil || errors.As(err, &code) { // nobody writes any more
		active.Undo(ctx)
	}
	return err
}

// collect deletes what images were made of that were removed while this container ran.
func (s *session) collect(ctx context.Context) {
	s.Release()
	// What fails now is done with the next image that is removed.
	_ = s.CollectImages(context.WithoutCancel(ctx))
}

// imageToRun finds the image, in the store or in its registry.
func (s *session) imageToRun(ctx context.Context, opts runOptions) (*image.Image, error) {
	platform := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if opts.pull != pullAlways {
		img, err := s.Images.Find(opts.image)
		if err == nil {
			if c := img.Config; c.Architecture != "" && c.Architecture != platform.Architecture {
				fmt.Fprintf(s.env.stderr, "WARNING: the image's platform (%s/%s) does not match this machine's (%s)\n", c.OS, c.Architecture, platform.String())
			}
			return img, nil
		}
		if !errors.Is(err, image.ErrNotFound) {
			return nil, err
		}
		if opts.pull == pullNever {
			return nil, fmt.Errorf("%w: %s", errNoSuchImage, opts.image)
		}
	}
	ref, err := s.parseReference(opts.image)
	if err != nil {
		return nil, err
	}
	if opts.pull == pullMissing {
		fmt.Fprintf(s.env.stderr, "Unable to find image '%s' locally\n", familiarName(ref))
	}
	return s.resolver(true).Resolve(ctx, opts.image, platform)
}

// unpackToRun makes sure that the image's layers are unpacked, and shows progress only if one is not.
func (s *session) unpackToRun(ctx context.Context, img *image.Image) ([]snapshot.ID, error) {
	missing := false
	for _, l := range img.Layers {
		if _, err := s.Snapshots.ByDiffID(l.DiffID); err != nil {
			missing = true
		}
	}
	if missing {
		bars := newTransfers(s.env, s.env.stderr, false)
		err := s.fetchLayers(ctx, img, bars)
		bars.close()
		if err != nil {
			return nil, err
		}
	}
	ids := make([]snapshot.ID, len(img.Layers))
	for i, l := range img.Layers {
		var err error
		if ids[i], err = s.Layers.Unpacked(ctx, l, nil); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// box is the container around the process.
func (o *runOptions) box(active *snapshot.Active, stubs string) runner.Sandbox {
	m := active.Mount()
	return runner.Sandbox{
		Root:      runner.Overlay{Lower: m.Lower, Upper: m.Upper, Work: m.Work, UserXattr: m.UserXattr},
		ReadOnly:  o.readOnly,
		Network:   o.network,
		Stubs:     stubs,
		Container: true,
		ShmSize:   o.limits.ShmSize,
		Ulimits:   o.limits.Ulimits,
		Limits:    o.limits.Limits,
	}
}

// volumes are the mounts of an image's VOLUMEs: directories of the container, gone with it, that can be written also with --read-only.
// What -v has a mount for belongs to that.
func volumes(declared map[string]struct{}, given []runner.Mount) []runner.Mount {
	var all []runner.Mount
	for _, target := range slices.Sorted(maps.Keys(declared)) {
		target = path.Clean(target)
		covered := slices.ContainsFunc(given, func(m runner.Mount) bool {
			return target == m.Target || strings.HasPrefix(target, m.Target+"/")
		})
		if !covered {
			all = append(all, runner.Mount{Type: runner.Volume, Target: target})
		}
	}
	return all
}

// runBox runs a box and turns how its process ended into an exit code.
func (s *session) runBox(ctx context.Context, box runner.Sandbox, p runner.Process, stop os.Signal) error {
	linux, err := s.sandbox()
	if err != nil {
		return err
	}
	defer linux.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signals, done := s.env.forward(stop, cancel)
	defer done()
	p.Signals = signals
	err = linux.Run(ctx, box, p)
	var exit *runner.ExitError
	var start *runner.StartError
	switch {
	case errors.As(err, &exit):
		if exit.OOM {
			return &codeError{exit.Code, errors.New("the process was killed because memory ran out")}
		}
		return &codeError{exit.Code, nil}
	case errors.As(err, &start):
		return &codeError{start.Code, err}
	case errors.Is(err, errInterrupted):
		return &codeError{codeInterrupted, err}
	}
	return err
}

// sandbox makes what runs steps and containers.
func (s *session) sandbox() (*runner.Linux, error) {
	dir := s.Path("run")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	return &runner.Linux{Isolation: s.isolation, Dir: dir}, nil
}
