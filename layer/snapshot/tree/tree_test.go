package tree

import (
	"context"
	"errors"
	"fmt"
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

// settled makes a tree whose changes from now on are seen, which takes a tick of the kernel's clock.
func settled(t *testing.T, dir string, layers ...string) *Tree {
	t.Helper()
	tr, err := New(t.Context(), dir, layers, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	if err := tr.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestWithoutEvents loses the watch of a tree: every file is looked at then, and a directory that was made again is not taken for the one
// that had its inode number.
func TestWithoutEvents(t *testing.T) {
	top, base := layerOf(t, "d/b", ".wh.gone", "o/.wh..wh..opq", "o/new"), layerOf(t, "d/a", "d/b", "d/s/x", "gone/x", "o/old", "u/same")
	dir := t.TempDir()
	tr := settled(t, dir, top, base)
	if got, want := files(t, dir), []string{"d", "d/a", "d/b", "d/s", "d/s/x", "o", "o/new", "u", "u/same"}; !slices.Equal(got, want) {
		t.Errorf("the tree has %q, want %q", got, want)
	}
	tr.watch.close()
	if tr.Untouched() {
		t.Error("untouched, though nobody knows")
	}
	err := errors.Join(os.RemoveAll(dir+"/d/s"), os.Mkdir(dir+"/d/s", 0o755), os.WriteFile(dir+"/d/a", nil, 0o600), os.Remove(dir+"/o/new"))
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

// TestRewind takes layers off a tree: it is what a new tree of the others is, but for inode numbers, and no layer comes of it.
func TestRewind(t *testing.T) {
	base := layerOf(t, "d/a", "d/b", "d/s/x", "gone/x", "gone/y/z", "o/old", "o/sub/old", "u/same", "file", "dir/x", "again/x")
	lower := layerOf(t, "d/a", "d/.wh.b", ".wh.gone", "o/.wh..wh..opq", "o/new", "o/sub/new", "new/dir/f", "dir", ".wh.file", ".wh.again")
	upper := layerOf(t, "d/b", "gone/y", "o/sub/more", "file/in", "d/s/x", "again/y")
	for _, away := range [][]string{{lower}, {upper, lower}, {layerOf(t)}} {
		if err := os.Chmod(away[0], 0o700); err != nil {
			t.Fatal(err)
		}
		dir, fresh := t.TempDir(), t.TempDir()
		tr, err := New(t.Context(), dir, append(slices.Clone(away), base), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		if err := tr.Rewind(t.Context(), []string{base}); err != nil {
			t.Fatal(err)
		}
		other, err := New(t.Context(), fresh, []string{base}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if got, want := described(tr.top), described(other.top); !slices.Equal(got, want) {
			t.Errorf("without %d layers: got\n%s\nwant\n%s", len(away), strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if again, err := Reopen(t.Context(), dir, []string{base}, nil, tr.Seal()); err != nil {
			t.Errorf("the table is not what is there: %v", err)
		} else {
			again.Close()
		}
		out := t.TempDir()
		if err := tr.Commit(t.Context(), out, false, nil); err != nil {
			t.Fatal(err)
		}
		if got := files(t, out); len(got) > 0 {
			t.Errorf("the layer has %q", got)
		}
	}
}

// described lists what a table says of each file, without what differs in a copy.
func described(top *node) (list []string) {
	top.each(func(n *node) {
		size := n.size
		if n.isDir() {
			size = 0
		}
		list = append(list, fmt.Sprintf("%s %o %d:%d size %d links %d at %d.%d", n.path(), n.mode, n.uid, n.gid, size, n.nlink, n.mtime.Sec, n.mtime.Nsec))
	})
	slices.Sort(list)
	return list
}

// TestReset takes back what somebody did to a tree.
func TestReset(t *testing.T) {
	base := layerOf(t, "d/a", "d/b", "d/s/x", "gone/x", "file", "dir/x", "moved/x")
	dir, fresh := t.TempDir(), t.TempDir()
	tr := settled(t, dir, base)
	other := settled(t, fresh, base)
	err := errors.Join(os.WriteFile(dir+"/d/a", []byte("D/A"), 0), os.Remove(dir+"/d/b"), os.MkdirAll(dir+"/new/dir", 0o755), os.WriteFile(dir+"/new/dir/.wh.f", nil, 0o600),
		os.RemoveAll(dir+"/gone"), os.Remove(dir+"/file"), os.Mkdir(dir+"/file", 0o755), os.RemoveAll(dir+"/dir"), os.WriteFile(dir+"/dir", nil, 0o600),
		os.Rename(dir+"/moved", dir+"/d/moved"), os.Chmod(dir+"/d/s", 0o700), os.Link(dir+"/d/s/x", dir+"/link"), os.RemoveAll(dir+"/d/s"), os.Mkdir(dir+"/d/s", 0o700))
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Reset(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if got, want := described(tr.top), described(other.top); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if again, err := Reopen(t.Context(), dir, []string{base}, nil, tr.Seal()); err != nil {
		t.Errorf("the table is not what is there: %v", err)
	} else {
		again.Close()
	}
	if tr.Private() {
		t.Error("the tree is taken for one with marks in it")
	}
}

// TestLend has a sandbox use a directory that no layer has. It is in the layer only if something is left in it, and nothing else of the tree is looked at
// unless something was written there by a name that is gone.
func TestLend(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(dir string) error
		want []string
	}{
		"used":    {func(string) error { return nil }, nil},
		"removed": {func(dir string) error { return os.Remove(dir + "/etc") }, nil},
		"kept":    {func(dir string) error { return os.WriteFile(dir+"/etc/x", nil, 0o600) }, []string{"etc", "etc/x"}},
		"replaced": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/etc"), os.WriteFile(dir+"/etc", nil, 0o600))
		}, []string{"d", "d/f", "etc"}}, // a name that came and went may have been any file's
		"linked": {func(dir string) error {
			return errors.Join(os.Link(dir+"/d/g", dir+"/etc/l"), os.WriteFile(dir+"/etc/l", nil, 0o600), os.Remove(dir+"/etc/l"))
		}, []string{"d", "d/f", "d/g"}},
	} {
		base, dir, aside := layerOf(t, "d/f", "d/g"), t.TempDir(), t.TempDir()
		tr := settled(t, dir, base)
		// A change that no event tells: who looks at every file finds it.
		unseen := func() error {
			return errors.Join(os.Link(dir+"/d/f", aside+"/f"), os.WriteFile(aside+"/f", []byte("D/F"), 0), os.Remove(aside+"/f"))
		}
		out := t.TempDir()
		err := errors.Join(tr.Lend("etc"), os.WriteFile(dir+"/etc/hosts", nil, 0o600), os.Remove(dir+"/etc/hosts"), c.do(dir), unseen())
		if err != nil {
			t.Fatal(name, err)
		}
		before, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.Commit(t.Context(), out, false, nil); err != nil {
			t.Fatal(err)
		}
		if got := files(t, out); !slices.Equal(got, c.want) {
			t.Errorf("%s: the layer has %q, want %q", name, got, c.want)
		}
		if after, err := os.Stat(dir); err != nil || !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("%s: the root has the time %v, %v", name, after.ModTime(), err)
		}
	}
}

// TestRewindRefuses takes off a layer that had a file with other names that stay: they would be names of another file then.
func TestRewindRefuses(t *testing.T) {
	base, top := layerOf(t, "one"), layerOf(t, "one")
	if err := os.Link(base+"/one", base+"/two"); err != nil {
		t.Fatal(err)
	}
	tr, err := New(t.Context(), t.TempDir(), []string{top, base}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for _, stay := range [][]string{{base}, {top}, nil} {
		if err := tr.Rewind(t.Context(), stay); !errors.Is(err, errRewind) {
			t.Errorf("%d layers: %v", len(stay), err)
		}
	}
}

// TestReopen changes a file in every way that can be hidden: it is seen.
func TestReopen(t *testing.T) {
	base := layerOf(t, "d/a", "d/b")
	dir := t.TempDir()
	tr := settled(t, dir, base)
	seal := tr.Seal()
	tr.Close()
	reopen := func() error {
		tr, err := Reopen(t.Context(), dir, []string{base}, nil, seal)
		if err == nil {
			tr.Close()
		}
		return err
	}
	if err := reopen(); err != nil {
		t.Fatal(err)
	}
	name := dir + "/d/a"
	before, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(name, []byte("D/A"), 0), os.Chtimes(name, before.ModTime(), before.ModTime())); err != nil {
		t.Fatal(err)
	}
	if err := reopen(); !errors.Is(err, ErrChanged) {
		t.Errorf("a file that was written with its old time: %v", err)
	}
}
