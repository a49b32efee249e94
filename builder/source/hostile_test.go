package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strake-build/strake/layer/rootfs"
)

// FuzzSelect makes a tree of links and folders from the words of spec and selects pattern in it: nothing
// that is found may be outside, and what is found can be digested or is a clear error.
func FuzzSelect(f *testing.F) {
	f.Add("a->../../out b/ b/c->/ d->b", "*/*")
	f.Add("a->a b->c c->b", "a")
	f.Add("x->../../../../../../out/secret", "x")
	f.Add("d->.. d/x", "d/../../out/*")
	f.Add("[->out *->[ ?/", "[[]*")
	f.Add("a/b/c/ l->a/b/c/../../..", "l/[ab]/./b//c/")
	f.Fuzz(func(t *testing.T, spec, pattern string) {
		if len(spec) > 200 || len(pattern) > 200 {
			return
		}
		top := t.TempDir()
		dir := filepath.Join(top, "in")
		const secret = "nobody may see this"
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(filepath.Join(top, "out"), 0o755),
			os.WriteFile(filepath.Join(top, "out/secret"), []byte(secret), 0o644)); err != nil {
			t.Fatal(err)
		}
		root, err := rootfs.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		for word := range strings.FieldsSeq(spec) {
			name, target, isLink := strings.Cut(word, "->")
			if strings.Contains(name, "secret") {
				return // it could not be told from the one outside
			}
			// What cannot be made is left out; nothing is made outside.
			_, _ = root.MkdirAll(filepath.Dir("/"+name), 0o755, os.Geteuid(), os.Getegid())
			if parent, base, err := root.Parent(name); err == nil {
				if isLink {
					_ = rootfs.Symlink(target, parent, base)
				} else if strings.HasSuffix(name, "/") {
					_ = rootfs.Mkdir(parent, base, 0o755)
				} else if f, err := rootfs.CreateEntry(parent, base, 0o644); err == nil {
					_ = f.Close()
				}
				_ = parent.Close()
			}
		}
		tr := open(t, dir, Options{})
		ctx := context.Background()
		items, err := tr.Select(ctx, Selection{Patterns: []string{pattern}})
		if err != nil {
			return
		}
		for _, it := range items {
			inside, err := filepath.EvalSymlinks(filepath.Join(dir, it.Path))
			if err != nil || inside != filepath.Join(dir, it.Path) {
				t.Errorf("%q in %q: %q is %q, %v", pattern, spec, it.Path, inside, err)
			}
			err = walk(ctx, tr, it, func(rel string, e rootfs.Entry) {
				if e.Name == "secret" || slices.Contains(strings.Split(rel, "/"), "..") {
					t.Errorf("%q in %q: found %q", pattern, spec, rel)
				}
			})
			if err != nil {
				t.Errorf("%q in %q: %v", pattern, spec, err)
			}
		}
		if _, err := tr.Digest(ctx, items); err != nil {
			t.Errorf("%q in %q: %v", pattern, spec, err)
		}
	})
}

// TestSwapped replaces a folder by a link to the outside again and again while trees are read.
func TestSwapped(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "in")
	tree(t, top, map[string]string{"out/f": "outside", "out/outside": "x", "in/d/f": "inside", "in/link->": "../out"})
	d, link, spare := filepath.Join(dir, "d"), filepath.Join(dir, "link"), filepath.Join(dir, "spare")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Rename(d, spare)
			_ = os.Rename(link, d)
			_ = os.Rename(d, link)
			_ = os.Rename(spare, d)
		}
	}()
	defer func() { close(stop); <-done }()
	ctx := context.Background()
	seen, changed := 0, 0
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		tr := open(t, dir, Options{})
		items, err := tr.Select(ctx, Selection{Patterns: []string{"d*", "s*"}})
		for _, it := range items {
			err = errors.Join(err, walk(ctx, tr, it, func(_ string, e rootfs.Entry) {
				if e.Name == "outside" {
					t.Error("a walk left the tree")
				}
			}))
			if infos, err2 := read(ctx, tr, it); err2 == nil {
				for _, info := range infos {
					if info.Name == "outside" {
						t.Error("a listing left the tree")
					}
				}
			}
		}
		_, err2 := tr.Digest(ctx, items)
		if err = errors.Join(err, err2); err == nil {
			seen++
		} else if _, ok := errors.AsType[*ChangedError](err); ok || errors.Is(err, fs.ErrNotExist) {
			changed++
		} else if _, ok := errors.AsType[*NotFoundError](err); !ok {
			t.Error(err)
		}
		_ = tr.Close()
	}
	t.Logf("%d undisturbed, %d not", seen, changed)
}

func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := t.TempDir()
	tree(t, dir, map[string]string{"a": "a"})
	if err := os.Chmod(filepath.Join(dir, "a"), 0); err != nil {
		t.Fatal(err)
	}
	tr := open(t, dir, Options{})
	if _, err := tr.Digest(context.Background(), sel(t, tr, "a")); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}

func TestDeep(t *testing.T) {
	dir := t.TempDir()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	name := strings.Repeat("deep/", 900) // beyond PATH_MAX
	if _, err := root.MkdirAll(name, 0o755, os.Geteuid(), os.Getegid()); err != nil {
		t.Fatal(err)
	}
	defer root.RemoveAll("deep") // t.TempDir's own removal is slow at it
	tr := open(t, dir, Options{Index: filepath.Join(t.TempDir(), "index")})
	digest(t, tr, ".")
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
}

// read lists a folder.
func read(ctx context.Context, tr *Tree, it Item) ([]Info, error) {
	f, err := tr.Folder(it)
	if err != nil {
		return nil, err
	}
	return tr.Read(ctx, f)
}
