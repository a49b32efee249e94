package builder_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// upload has w write caches until it is called again.
func (w *world) upload(to ...remote.Backend) (end func()) {
	u := &remote.Uploads{Layers: w.Layers, Temp: w.t.TempDir(), Warn: func(s string) { w.t.Error(s) }}
	for _, b := range to {
		u.Add(remote.Target{Backend: b, All: true, Encoder: compress.Gzip.Encoder(), Strict: true})
	}
	u.Start(w.t.Context())
	w.Uploads = u
	return sync.OnceFunc(func() {
		must(w.t, u.Close(w.t.Context(), time.Hour, time.Hour))
		w.Uploads = nil
	})
}

// imports has w read a cache.
func (w *world) imports(b remote.Backend) (i *remote.Imports, warnings *[]string) {
	return w.importsWithin(time.Hour, b)
}

// importsWithin has w read a cache that it waits for so long.
func (w *world) importsWithin(budget time.Duration, b remote.Backend) (i *remote.Imports, warnings *[]string) {
	warnings = new([]string)
	i = &remote.Imports{
		Find: func(d v1.Hash) (string, bool) {
			id, err := w.Snapshots.ByDiffID(d)
			return string(id), err == nil
		},
		Warn: func(s string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			*warnings = append(*warnings, s)
		},
		Budget: budget, Now: time.Now,
	}
	i.Add(b)
	var next image.Fetcher
	if r, ok := b.(*remote.Registry); ok {
		next = r.Client
	}
	w.Others, w.Layers.Remote = i, i.Fetcher(next)
	return i, warnings
}

func folder(dir string) *remote.Local {
	return &remote.Local{Dir: dir, Tag: "latest", Now: func() time.Time { return time.Unix(1_800_000_000, 0) }}
}

// A hit all along needs no bytes of layers, and what it gives is the same image.
func TestFullHitIsLazy(t *testing.T) {
	first, second := newWorld(t), newWorld(t)
	dir := t.TempDir()
	first.usualContext()
	end := first.upload(folder(dir))
	want, err := first.build(usual)
	must(t, err)
	end()
	second.context, second.images = first.context, first.images
	_, warnings := second.imports(folder(dir))
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	must(t, err)
	hidden := t.TempDir()
	for _, b := range blobs { // layers are gzip, documents are not
		data, err := os.ReadFile(b)
		must(t, err)
		if !strings.HasPrefix(string(data), "{") {
			must(t, os.Rename(b, filepath.Join(hidden, filepath.Base(b))))
		}
	}
	got, err := second.build(usual)
	must(t, err)
	if got.ID != want.ID || len(second.ran) > 0 || len(*warnings) > 0 {
		t.Errorf("image %s, not %s; ran %q; warnings %q", got.ID, want.ID, second.ran, *warnings)
	}
	for _, b := range blobs {
		_ = os.Rename(filepath.Join(hidden, filepath.Base(b)), b)
	}
	if text := second.read(got, "app"); text != "x" {
		t.Errorf("/app holds %q", text)
	}
	// The layers are here now: once the cache has said what they are, later builds need none.
	_, err = second.build(usual)
	must(t, err)
	second.Others = nil
	if _, err = second.build(usual); err != nil || len(second.ran) > 0 {
		t.Errorf("ran %q, %v", second.ran, err)
	}
}

// A stage that is made again, and comes out the same, leads back to what another machine made of it.
func TestContentTravels(t *testing.T) {
	first, second := newWorld(t), newWorld(t)
	dir := t.TempDir()
	first.usualContext()
	end := first.upload(folder(dir))
	_, err := first.build(usual)
	must(t, err)
	end()
	second.context, second.images = first.context, first.images
	second.imports(folder(dir))
	second.write("src/a.go", "changed")
	_, err = second.build(usual)
	must(t, err)
	if got := strings.Join(second.ran, ","); strings.Contains(got, "last") || !strings.Contains(got, "built") {
		t.Errorf("ran %q", got)
	}
}

// Layers that are not what the cache says are an error that names the blob; without it the steps run.
func TestLostLayer(t *testing.T) {
	for what, spoil := range map[string]func(path string) error{
		"gone":  os.Remove,
		"other": func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("x", 200)), 0o600) },
		"cut":   func(path string) error { return os.Truncate(path, 10) },
	} {
		t.Run(what, func(t *testing.T) {
			first, second := newWorld(t), newWorld(t)
			dir := t.TempDir()
			first.usualContext()
			end := first.upload(folder(dir))
			_, err := first.build(usual)
			must(t, err)
			end()
			blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
			must(t, err)
			for _, b := range blobs {
				if data, err := os.ReadFile(b); err == nil && !strings.HasPrefix(string(data), "{") {
					must(t, spoil(b))
				}
			}
			second.context, second.images = first.context, first.images
			i, _ := second.imports(folder(dir))
			second.write("src/a.go", "changed")
			tries := 0
			err = builder.WithoutLost(i, func() error {
				tries++
				_, err := second.build(usual)
				return err
			})
			if err != nil || tries == 1 {
				t.Errorf("after %d tries: %v", tries, err)
			}
			if left := second.left(); len(left) > 0 {
				t.Errorf("left %q", left)
			}
		})
	}
}
