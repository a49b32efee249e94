package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/builder/solver"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/dockerfile/ignore"
	"github.com/strake-build/strake/layer/rootfs"
)

// minJobs is how many steps run at once at least: steps wait for the network and the disk more than they compute.
const minJobs = 8

// maxDockerfile bounds what is read of a Dockerfile, in bytes.
const maxDockerfile = 16 << 20

// runBuild builds an image and puts it where opts say.
func runBuild(ctx context.Context, env *environment, opts buildOptions) error {
	if opts.context != "-" {
		// Before anything else is done: this is the most common mistake.
		if st, err := os.Stat(opts.context); err != nil {
			return fmt.Errorf("the context: %w", err)
		} else if !st.IsDir() {
			return fmt.Errorf("the context %s is not a folder", opts.context)
		}
	}
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	if env.getenv(epochArg) != "" && opts.progress != "quiet" {
		fmt.Fprintf(env.stderr, "warning: %s is set, but not supported yet: the image has the times of this build\n", epochArg)
	}
	in, err := s.openInput(ctx, opts)
	if err != nil {
		return err
	}
	defer in.close()
	display := env.display(opts.progress)
	defer display.Close()
	display.Sink(progress.Event{Time: env.now(), Kind: progress.Declared, Name: fmt.Sprintf("isolation: %s (%s)", s.isolation.Rung, s.isolation.Reason)})
	result, err := s.build(ctx, opts, in, display.Sink)
	if err != nil {
		return err
	}
	done, err := s.export(ctx, opts, result, display.Sink)
	display.Close()
	if err != nil {
		return err
	}
	return s.reportBuild(opts, in.file.Name, result, done)
}

// display chooses how a build is shown.
func (e *environment) display(progress string) ui.Display {
	switch {
	case progress == "quiet":
		return ui.Quiet(e.stderr)
	case progress != "plain" && isTerminal(e.stderr) && (progress == "tty" || e.getenv("TERM") != "dumb"):
		return ui.TTY(e.stderr, func() int { return width(e.stderr) })
	default:
		return ui.Plain(e.stderr)
	}
}

// build has the builder do the work.
func (s *store) build(ctx context.Context, opts buildOptions, in *input, sink progress.Sink) (*builder.Result, error) {
	var records solver.Cache = s.cache
	if opts.noCache {
		records = cache.NoHits{Store: s.cache}
	}
	box, err := s.sandbox()
	if err != nil {
		return nil, err
	}
	b := &builder.Builder{
		Cache: records, Snapshots: s.snapshots, Layers: s.layers, Resolver: s.resolver(opts.pull),
		Sandbox: box, UserXattr: s.isolation.UserNS, Stubs: s.path("stubs"), Now: s.env.now,
	}
	jobs := opts.jobs
	if jobs == 0 {
		jobs = max(minJobs, 2*runtime.GOMAXPROCS(0))
	}
	return b.Build(ctx, builder.Options{
		File:    in.file,
		Context: in.tree,
		Settings: dockerfile.Settings{
			Target: opts.target, BuildArgs: opts.buildArgs, Platform: opts.platform,
			Build: v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		},
		Labels: opts.labels, Jobs: jobs, Progress: sink,
	})
}

// input is what a build reads: the Dockerfile and the context.
type input struct {
	file   *dockerfile.File
	tree   *source.Tree
	remove func() // deletes a context that came from standard input
}

func (in *input) close() {
	if in.tree != nil {
		in.tree.Close()
	}
	if in.remove != nil {
		in.remove()
	}
}

// openInput opens the context and parses the Dockerfile.
func (s *store) openInput(ctx context.Context, opts buildOptions) (_ *input, err error) {
	in := &input{}
	defer func() {
		if err != nil {
			in.close()
		}
	}()
	dir := opts.context
	var text []byte
	if dir == "-" {
		if dir, in.remove, err = s.tempDir(); err != nil {
			return nil, err
		}
		if text, err = source.Stdin(ctx, s.env.input(ctx), dir); err != nil {
			return nil, fmt.Errorf("reading the context from standard input: %w", err)
		}
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("the context: %w", err)
	}
	defer root.Close()
	name, beside := "Dockerfile", ""
	switch {
	case text != nil:
		if opts.file != "" {
			return nil, usagef("-f has no meaning when the Dockerfile comes from standard input")
		}
	case opts.file == "-":
		text, err = io.ReadAll(io.LimitReader(s.env.input(ctx), maxDockerfile))
	case opts.file != "" && opts.context != "-":
		name, beside = opts.file, opts.file+".dockerignore"
		text, err = readHostFile(opts.file)
	default:
		if opts.file != "" {
			name = opts.file
		}
		text, err = readContextFile(root, name)
		if errors.Is(err, fs.ErrNotExist) && opts.file == "" {
			if lower, lowerErr := readContextFile(root, "dockerfile"); lowerErr == nil {
				name, text, err = "dockerfile", lower, nil
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the Dockerfile: %w", err)
	}
	if in.file, err = dockerfile.Parse(name, text); err != nil {
		return nil, err
	}
	in.tree, err = s.openContext(root, dir, beside, opts)
	return in, err
}

// openContext opens the folder dir, whose root is open already, with the rules of its .dockerignore, or of the one beside
// the Dockerfile, which comes first.
func (s *store) openContext(root *rootfs.Root, dir, beside string, opts buildOptions) (*source.Tree, error) {
	name, text := ".dockerignore", []byte(nil)
	err := fs.ErrNotExist
	if beside != "" {
		if text, err = readHostFile(beside); err == nil {
			name = beside
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		text, err = readContextFile(root, name)
	}
	opt := source.Options{ResetOwner: true, Now: s.env.now}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", name, err)
	default:
		if opt.Ignore, err = ignore.Parse(name, bytes.NewReader(text)); err != nil {
			return nil, err
		}
	}
	if opts.context != "-" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(s.path("contexts"), 0o700); err != nil {
			return nil, fmt.Errorf("opening the store: %w", err)
		}
		opt.Index = s.path("contexts", fmt.Sprintf("%x", sha256.Sum256([]byte(abs))))
	}
	return source.Open(dir, opt)
}

// readContextFile reads a small file of a context, whose links must not lead out of it.
func readContextFile(root *rootfs.Root, name string) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return readRegular(f)
}

// readHostFile reads a small file that the user named.
func readHostFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return readRegular(f)
}

// readRegular reads f and closes it.
func readRegular(f *os.File) ([]byte, error) {
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if st.IsDir() {
		return nil, &fs.PathError{Op: "reading", Path: f.Name(), Err: errors.New("it is a folder")}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	if err == nil && len(text) > maxDockerfile {
		err = &fs.PathError{Op: "reading", Path: f.Name(), Err: errors.New("it is too large")}
	}
	return text, err
}
