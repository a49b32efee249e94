package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

// defaultPath is docker's PATH for images that have none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// runRun runs a container and returns its exit code as a codeError.
func runRun(ctx context.Context, env *environment, opts runOptions) error {
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	release, err := s.reserveName(opts.name)
	if err != nil {
		return err
	}
	defer release()
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
	active, err := s.snapshots.Prepare(ctx, layers)
	if err != nil {
		return err
	}
	defer active.Discard()
	box := opts.box(active, s.path("stubs"))
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
	return s.runBox(ctx, box, process.Process, stopSignal(img.Config.Config.StopSignal))
}

// collect deletes what images were made of that were removed while this container ran.
func (s *store) collect(ctx context.Context) {
	s.release()
	// What fails now is done with the next image that is removed.
	_, _ = s.images.Collect(s.layers, s.cachedLayers(context.WithoutCancel(ctx)))
}

// imageToRun finds the image, in the store or in its registry.
func (s *store) imageToRun(ctx context.Context, opts runOptions) (*image.Image, error) {
	platform := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if opts.pull != pullAlways {
		img, err := s.images.Find(opts.image)
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
func (s *store) unpackToRun(ctx context.Context, img *image.Image) ([]snapshot.ID, error) {
	missing := false
	for _, l := range img.Layers {
		if _, err := s.snapshots.ByDiffID(l.DiffID); err != nil {
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
		if ids[i], err = s.layers.Unpacked(ctx, l, nil); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// containerProcess is the process of a container with the host name that it is told.
type containerProcess struct {
	runner.Process
	hostname string
}

// process joins the image's configuration and the flags, as docker does.
func (o *runOptions) process(env *environment, c v1.Config) (containerProcess, error) {
	entrypoint, command := c.Entrypoint, c.Cmd
	if o.entrypoint != nil {
		entrypoint, command = nil, nil
		if *o.entrypoint != "" {
			entrypoint = []string{*o.entrypoint}
		}
	}
	if len(o.command) > 0 {
		command = o.command
	}
	p := containerProcess{hostname: o.hostname}
	p.Args = append(append([]string{}, entrypoint...), command...)
	if len(p.Args) == 0 {
		return p, &hintError{errors.New("no command specified, and the image has none"), "give a command after the image"}
	}
	if p.hostname == "" {
		id := make([]byte, 6)
		if _, err := rand.Read(id); err != nil {
			return p, err
		}
		p.hostname = hex.EncodeToString(id)
	}
	p.Env = []string{"PATH=" + defaultPath, "HOSTNAME=" + p.hostname}
	if o.terminal {
		p.Env = append(p.Env, "TERM=xterm")
	}
	p.Env = mergeEnv(p.Env, c.Env, o.env)
	p.Dir, p.User = o.workDir, o.user
	if p.Dir == "" {
		p.Dir = c.WorkingDir
	}
	if p.Dir == "" {
		p.Dir = "/"
	}
	if p.User == "" {
		p.User = c.User
	}
	switch {
	case o.terminal:
		p.Terminal = env.stdin
		return p, nil
	case o.interactive:
		p.Stdin = env.stdin
	}
	p.Stdout, p.Stderr = env.stdout, env.stderr
	return p, nil
}

// box is the container around the process.
func (o *runOptions) box(active *snapshot.Active, stubs string) runner.Sandbox {
	m := active.Mount()
	return runner.Sandbox{
		Root:      runner.Overlay{Lower: m.Lower, Upper: m.Upper, Work: m.Work, UserXattr: m.UserXattr},
		ReadOnly:  o.readOnly,
		Mounts:    o.mounts,
		Network:   o.network,
		Stubs:     stubs,
		Container: true,
	}
}

// mergeEnv joins lists of K=V; a later value replaces an earlier one in its place.
func mergeEnv(lists ...[]string) []string {
	var out []string
	at := make(map[string]int)
	for _, list := range lists {
		for _, kv := range list {
			k, _, _ := strings.Cut(kv, "=")
			if i, ok := at[k]; ok {
				out[i] = kv
				continue
			}
			at[k] = len(out)
			out = append(out, kv)
		}
	}
	return out
}

// stopSignal parses a STOPSIGNAL: a name with or without SIG, or a number. SIGTERM if there is none.
func stopSignal(s string) os.Signal {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return unix.Signal(n)
	}
	s = strings.ToUpper(s)
	if sig := unix.SignalNum("SIG" + strings.TrimPrefix(s, "SIG")); sig != 0 {
		return sig
	}
	return unix.SIGTERM
}

// runBox runs a box and turns how its process ended into an exit code.
func (s *store) runBox(ctx context.Context, box runner.Sandbox, p runner.Process, stop os.Signal) error {
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

// forcedInterrupts is how many SIGINT or SIGTERM a container may ignore.
const forcedInterrupts = 3

// forward passes signals on to a container: SIGTERM becomes its stop signal. After too many that it ignored, kill is called.
func (e *environment) forward(stop os.Signal, kill context.CancelCauseFunc) (<-chan os.Signal, func()) {
	in, release := e.signals.capture(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	out := make(chan os.Signal, 16)
	ended := make(chan struct{})
	go func() {
		interrupts := 0
		var last time.Time
		for {
			var sig os.Signal
			select {
			case sig = <-in:
			case <-ended:
				return
			}
			if sig == unix.SIGINT || sig == unix.SIGTERM {
				// See echoTime: a second one at once is the same.
				if now := e.now(); now.Sub(last) > echoTime {
					last = now
					interrupts++
				}
				if interrupts >= forcedInterrupts {
					kill(errInterrupted)
				}
			}
			if sig == unix.SIGTERM {
				sig = stop
			}
			select {
			case out <- sig:
			case <-ended:
				return
			}
		}
	}()
	return out, func() {
		release()
		close(ended)
	}
}

// reserveName makes sure that no other running container has the name.
func (s *store) reserveName(name string) (release func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(s.path("names"), 0o700); err != nil {
		return nil, err
	}
	path := s.path("names", name)
	for {
		f, err := lock(path, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("the container name %q is already in use by a running container", name)
		}
		if err != nil {
			return nil, err
		}
		// Its former owner may have removed the file between our open and our lock.
		held, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(held, there) {
			return func() { os.Remove(path); f.Close() }, nil
		}
		f.Close()
	}
}

// sandbox makes what runs steps and containers.
func (s *store) sandbox() (*runner.Linux, error) {
	dir := s.path("run")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	return &runner.Linux{Isolation: s.isolation, Dir: dir}, nil
}
