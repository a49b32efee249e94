package tree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files lists what is below dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if name := strings.TrimPrefix(p, dir+"/"); p != dir {
			list = append(list, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// layerOf makes a directory to serve as a layer.
func layerOf(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		if err := errors.Join(os.MkdirAll(filepath.Dir(dir+"/"+n), 0o755), os.WriteFile(dir+"/"+n, []byte(n), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestWithoutEvents loses the watch of a tree: every file is looked at then, and a directory that was made again is not taken for the one
// that had its inode number.
func TestWithoutEvents(t *testing.T) {
	top, base := layerOf(t, "d/b", ".wh.gone", "o/.wh..wh..opq", "o/new"), layerOf(t, "d/a", "d/b", "d/s/x", "gone/x", "o/old", "u/same")
	dir := t.TempDir()
	tr, err := New(t.Context(), dir, []string{top, base}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	if got, want := files(t, dir), []string{"d", "d/a", "d/b", "d/s", "d/s/x", "o", "o/new", "u", "u/same"}; !slices.Equal(got, want) {
		t.Errorf("the tree has %q, want %q", got, want)
	}
	tr.watch.mu.Lock()
	tr.watch.giveUp()
	tr.watch.mu.Unlock()
	if tr.Untouched() {
		t.Error("untouched, though nobody knows")
	}
	err = errors.Join(os.RemoveAll(dir+"/d/s"), os.Mkdir(dir+"/d/s", 0o755), os.WriteFile(dir+"/d/a", nil, 0o600), os.Remove(dir+"/o/new"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{"d", "d/a", "d/s", "d/s/.wh..wh..opq", "o", "o/.wh.new"}, nil} {
		out := t.TempDir()
		if err := tr.Commit(t.Context(), out, false, nil); err != nil {
			t.Fatal(err)
		}
		tr.Moved(out)
		if got := files(t, out); !slices.Equal(got, want) {
			t.Errorf("the layer has %q, want %q", got, want)
		}
	}
}

// TestCanceled makes a tree for who does not want it any more.
func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	base := layerOf(t, "a/b", "c/d")
	if _, err := New(ctx, t.TempDir(), []string{base}, nil); !errors.Is(err, stop) {
		t.Errorf("New: %v", err)
	}
	if err := Link(ctx, t.TempDir(), []string{base}, nil); !errors.Is(err, stop) {
		t.Errorf("Link: %v", err)
	}
}
