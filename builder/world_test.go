package builder_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/dockerfile/ignore"
	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 || os.Getenv(rungVariable) != "" {
		return
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal("this test mounts overlays and needs root")
	}
	t.Skip("needs root: it mounts overlays")
}

// world is a machine: a Builder over a real store.
type world struct {
	*builder.Builder
	t       testing.TB
	dir     string
	context string
	store   *cache.Store
	now     time.Time
	images  map[string]*image.Image
	base    *image.Image    // what testImage makes others of
	box     builder.Sandbox // nil for one that only pretends to run programs

	mu     sync.Mutex
	ran    []string
	events []progress.Event
}

// newWorld is a machine whose sandbox pretends.
func newWorld(t testing.TB) *world {
	needRoot(t)
	return worldIn(t, t.TempDir())
}

// worldIn is one with its store in dir.
func worldIn(t testing.TB, dir string) *world {
	t.Helper()
	kept := layersHere()
	w := &world{t: t, dir: dir, context: t.TempDir(), now: time.Unix(1_800_000_000, 0).UTC(), images: map[string]*image.Image{}, base: &image.Image{}}
	snapshots, err := snapshot.Open(filepath.Join(dir, "layers"), kept)
	must(t, err)
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	must(t, err)
	w.Builder = &builder.Builder{
		Snapshots: snapshots, Layers: &image.Layers{Blobs: blobs, Snapshots: snapshots, Dir: filepath.Join(dir, "compressed")},
		UserXattr: kept.UserXattr,
	}
	w.settle()
	return w
}

// settle gives a machine records of its own, in dir.
func (w *world) settle() {
	w.t.Helper()
	store, err := cache.Open(filepath.Join(w.dir, "cache"))
	must(w.t, err)
	mounts := filepath.Join(w.dir, "mounts")
	must(w.t, os.MkdirAll(mounts, 0o700))
	w.store, w.Cache, w.Records, w.Resolver, w.Sandbox = store, store, store, w, w
	w.Stubs, w.Temp, w.Mounts = filepath.Join(w.dir, "stubs"), w.t.TempDir(), &cachemount.Store{Dir: mounts}
	w.Now = func() time.Time { return w.now }
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) Resolve(_ context.Context, ref string, _ v1.Platform) (*image.Image, error) {
	if img := w.images[ref]; img != nil {
		return img, nil
	}
	return nil, fmt.Errorf("%s: %w", ref, image.ErrNotFound)
}

// Run remembers what is run.
func (w *world) Run(ctx context.Context, s runner.Sandbox, p runner.Process) error {
	w.mu.Lock()
	w.ran = append(w.ran, strings.Join(p.Args, " "))
	w.mu.Unlock()
	if w.box != nil {
		return w.box.Run(ctx, s, p)
	}
	return pretend(s, p)
}

// pretend understands "write FILE TEXT", "env FILE NAME", "fail", and of a shell's language "echo TEXT >/FILE", for tests of what has
// nothing to do with programs.
func pretend(s runner.Sandbox, p runner.Process) error {
	args := p.Args
	if len(args) == 3 && args[1] == "-c" {
		text, file, _ := strings.Cut(args[2], " >/")
		args = []string{"write", file, strings.TrimPrefix(text, "echo ")}
	}
	switch args[0] {
	case "write":
		return os.WriteFile(filepath.Join(s.Root.Upper, args[1]), []byte(args[2]), 0o644)
	case "env": // what the variable is
		value := ""
		for _, kv := range p.Env {
			if v, ok := strings.CutPrefix(kv, args[2]+"="); ok {
				value = v
			}
		}
		return os.WriteFile(filepath.Join(s.Root.Upper, args[1]), []byte(value), 0o644)
	case "fail":
		fmt.Fprintln(p.Stderr, "it broke")
		return &runner.ExitError{Code: 3}
	}
	return nil
}

func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.context, name)
	must(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(w.t, os.WriteFile(path, []byte(text), 0o644))
}

type change func(*builder.Options)

// build builds a Dockerfile in the context of w, with its .dockerignore; a folder of its folder contexts is a context of that name.
func (w *world) build(text string, changes ...change) (*image.Image, error) {
	w.t.Helper()
	w.ran, w.events = nil, nil
	f, err := dockerfile.Parse("Dockerfile", []byte(text))
	if err != nil {
		return nil, err
	}
	tree := w.tree(".")
	defer tree.Close()
	here := v1.Platform{OS: "linux", Architecture: "amd64"}
	opt := builder.Options{File: f, Context: tree, Settings: dockerfile.Settings{Platform: here, Build: here}, Jobs: 4, Progress: func(e progress.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	}}
	if strings.Contains(text, site) {
		opt.Fetch = w.fetcher()
	}
	named, err := filepath.Glob(w.path("contexts/*"))
	must(w.t, err)
	opt.Contexts = map[string]builder.OpenContext{}
	for _, dir := range named {
		name := filepath.Base(dir)
		tree := w.tree("contexts/" + name)
		defer tree.Close()
		opt.Contexts[name] = func(context.Context, v1.Platform) (builder.Context, error) { return builder.Context{Tree: tree}, nil }
		opt.Settings.Contexts = append(opt.Settings.Contexts, name)
	}
	for _, c := range changes {
		c(&opt)
	}
	res, err := w.Build(w.t.Context(), opt)
	if err != nil {
		return nil, err
	}
	return res.Image, nil
}

// tree opens a folder of the context as the command does, with what is remembered of its files from build to build.
func (w *world) tree(name string) *source.Tree {
	w.t.Helper()
	dir := w.path(name)
	opt := source.Options{ResetOwner: true, Index: filepath.Join(w.dir, "index-"+filepath.Base(name)), Now: time.Now}
	rules, err := os.ReadFile(filepath.Join(dir, ".dockerignore"))
	if err == nil {
		opt.Ignore, err = ignore.Parse(".dockerignore", bytes.NewReader(rules))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		must(w.t, err)
	}
	tree, err := source.Open(dir, opt)
	must(w.t, err)
	return tree
}

// output is what the steps of the last build wrote.
func (w *world) output() string {
	var b strings.Builder
	for _, e := range w.events {
		if e.Kind == progress.Output {
			b.Write(e.Data)
		}
	}
	return b.String()
}

// cached counts the steps that were found in the cache.
func (w *world) cached() (n int) {
	for _, e := range w.events {
		if e.Kind == progress.Cached {
			n++
		}
	}
	return n
}

func (w *world) read(img *image.Image, name string) string {
	w.t.Helper()
	var ids []snapshot.ID
	for _, l := range img.Layers {
		id, err := w.Layers.Unpacked(w.t.Context(), l, nil)
		must(w.t, err)
		ids = append(ids, id)
	}
	root, err := w.Snapshots.OpenView(w.t.Context(), ids)
	must(w.t, err)
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	data := make([]byte, 1000)
	n, _ := f.Read(data)
	return string(data[:n])
}
