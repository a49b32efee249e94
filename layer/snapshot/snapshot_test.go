package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
	"github.com/strake-build/strake/layer/snapshot"
)

func TestPrepareWriteCommit(t *testing.T) {
	s, dir := newStore(t)
	base := write(t, s, nil, func(root string) error {
		return errors.Join(os.Mkdir(root+"/etc", 0o755), os.WriteFile(root+"/etc/a", []byte("1"), 0o644), os.WriteFile(root+"/b", []byte("2"), 0o644))
	})
	top := write(t, s, []snapshot.ID{base}, func(root string) error {
		return errors.Join(os.WriteFile(root+"/etc/a", []byte("3"), 0o644), os.Remove(root+"/b"))
	})
	equal(t, "base", list(t, s, base), "b=2", "etc/", "etc/a=1")
	equal(t, "both", list(t, s, base, top), "etc/", "etc/a=3")
	equal(t, "the upper layer by itself shows no whiteout", list(t, s, top), "etc/", "etc/a=3")
	equal(t, "nothing", list(t, s))
	equal(t, "tar", tarNames(t, s, top), ".wh.b", "etc/", "etc/a")
	s.Close()
	if left := temporaries(t, dir); left != nil {
		t.Error("left:", left)
	}
	if !s.Has(top) || s.Has("aaaaaaaaaaaaaaaa") || s.Has("../x") || s.Has("") {
		t.Error("Has is wrong")
	}
	var all []snapshot.ID
	if err := s.Walk(func(id snapshot.ID) error { all = append(all, id); return nil }); err != nil || len(all) != 2 {
		t.Errorf("Walk: %v, %v", all, err)
	}
}

func TestDiscard(t *testing.T) {
	s, dir := newStore(t)
	a, err := s.Prepare(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	root, err := a.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(path(root)+"/a/b/c", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Open(); err == nil {
		t.Error("opened twice")
	}
	_ = root.Close()
	a.Discard()
	a.Discard()
	if _, err := a.Commit(t.Context()); err == nil {
		t.Error("committed after Discard")
	}
	s.Close()
	if left := temporaries(t, dir); left != nil {
		t.Error("left:", left)
	}
	if _, err := s.Prepare(t.Context(), []snapshot.ID{"aaaaaaaaaaaaaaaa"}); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("over a layer that is not there: %v", err)
	}
	if _, err := s.View(t.Context(), []snapshot.ID{"aaaaaaaaaaaaaaaa"}); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("view of a layer that is not there: %v", err)
	}
}

func TestRootAttributes(t *testing.T) {
	s, _ := newStore(t)
	base := write(t, s, nil, func(root string) error {
		var st unix.Stat_t
		if err := unix.Stat(root, &st); err != nil || st.Mode&0o7777 != 0o755 || st.Uid != 0 || st.Gid != 0 {
			return fmt.Errorf("a new root has mode %o, owner %d:%d, %w", st.Mode, st.Uid, st.Gid, err)
		}
		return errors.Join(
			unix.Setxattr(root, "user.color", []byte("red"), 0),
			os.Chown(root, 12, 34),
			unix.Chmod(root, 0o1751),
			unix.UtimesNanoAt(unix.AT_FDCWD, root, []unix.Timespec{{Sec: 1000}, {Sec: 2000}}, 0),
		)
	})
	layers := []snapshot.ID{base}
	for range 2 {
		layers = append(layers, write(t, s, layers, func(root string) error {
			var st unix.Stat_t
			color := make([]byte, 8)
			n, xerr := unix.Getxattr(root, "user.color", color)
			err := unix.Stat(root, &st)
			if err != nil || xerr != nil || st.Mode&0o7777 != 0o755 || st.Uid != 12 || st.Gid != 34 || st.Mtim.Sec != 2000 || string(color[:n]) != "red" {
				return fmt.Errorf("mode %o, owner %d:%d, mtime %d, %q, %w, %w", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, color[:n], err, xerr)
			}
			return nil
		}))
	}
}

// TestMarks does things to a file system and looks at the layer: only what the lower layers have is deleted in it.
func TestMarks(t *testing.T) {
	s, _ := newStore(t)
	one := unpack(t, s, "d/", "d/old=1", "d/sub/", "d/sub/x=1", "f=1", "link->d", "gone/", "gone/a=1", "filedir=1")
	two := unpack(t, s, "d/", "d/.wh.old=", ".wh.gone=", ".wh.filedir=", "filedir/", "e/", "e/a=1", "op/", "op/.wh..wh..opq=", "op/a=1")
	layers := []snapshot.ID{one, two}
	for name, c := range map[string]struct {
		do   func(root string) error
		tar  []string
		view []string // nil: not looked at
	}{
		"nothing": {do: func(string) error { return nil }},
		"made and removed": {do: func(r string) error {
			return errors.Join(os.WriteFile(r+"/new", nil, 0o644), removeTree(r+"/new"), os.MkdirAll(r+"/n/m", 0o755), removeTree(r+"/n"))
		}},
		"removed": {
			do:   func(r string) error { return errors.Join(removeTree(r+"/f"), removeTree(r+"/d/sub/x")) },
			tar:  []string{"d/", "d/sub/", "d/sub/.wh.x", ".wh.f"},
			view: []string{"d/", "d/sub/", "e/", "e/a=1", "filedir/", "link->d", "op/", "op/a=1"},
		},
		"what a middle layer removed": {do: func(r string) error {
			return errors.Join(os.WriteFile(r+"/gone", nil, 0o644), removeTree(r+"/gone"))
		}},
		"what a middle layer removed, in a directory": {
			do: func(r string) error {
				return errors.Join(os.WriteFile(r+"/d/old", nil, 0o644), removeTree(r+"/d/old"))
			},
		},
		"new directory": {
			do:  func(r string) error { return os.MkdirAll(r+"/d/new/deep", 0o755) },
			tar: []string{"d/", "d/new/", "d/new/deep/"},
		},
		"removed and made again": {
			do: func(r string) error {
				return errors.Join(removeTree(r+"/d"), os.Mkdir(r+"/d", 0o755), os.WriteFile(r+"/d/n", []byte("2"), 0o644))
			},
			tar:  []string{"d/", "d/.wh..wh..opq", "d/n"},
			view: []string{"d/", "d/n=2", "e/", "e/a=1", "f=1", "filedir/", "link->d", "op/", "op/a=1"},
		},
		"removed in a directory made again": {
			do: func(r string) error {
				return errors.Join(removeTree(r+"/d"), os.Mkdir(r+"/d", 0o755),
					os.Mkdir(r+"/d/sub", 0o755), os.WriteFile(r+"/d/sub/x", nil, 0o644), removeTree(r+"/d/sub"))
			},
			tar: []string{"d/", "d/.wh..wh..opq"},
		},
		"directory in place of a link": {
			do:  func(r string) error { return errors.Join(os.Remove(r+"/link"), os.Mkdir(r+"/link", 0o755)) },
			tar: []string{"link/"},
		},
		"directory in place of a file": {
			do:  func(r string) error { return errors.Join(os.Remove(r+"/f"), os.Mkdir(r+"/f", 0o755)) },
			tar: []string{"f/"},
		},
		"directory in place of one that a middle layer removed": {
			do:  func(r string) error { return os.Mkdir(r+"/gone", 0o755) },
			tar: []string{"gone/"},
		},
		"removed below a directory that replaced a file": {
			do: func(r string) error {
				return errors.Join(os.WriteFile(r+"/filedir/a", nil, 0o644), os.Remove(r+"/filedir/a"))
			},
		},
		"removed from an opaque directory": {
			do:   func(r string) error { return os.Remove(r + "/op/a") },
			tar:  []string{"op/", "op/.wh.a"},
			view: []string{"d/", "d/sub/", "d/sub/x=1", "e/", "e/a=1", "f=1", "filedir/", "link->d", "op/"},
		},
		"file in place of a directory": {
			do:  func(r string) error { return errors.Join(removeTree(r+"/e"), os.WriteFile(r+"/e", nil, 0o644)) },
			tar: []string{"e"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := write(t, s, layers, c.do)
			if c.tar == nil {
				c.tar = []string{}
			}
			equal(t, "tar", tarNames(t, s, id), c.tar...)
			if c.view != nil {
				equal(t, "view", list(t, s, one, two, id), c.view...)
			}
		})
	}
}

func TestMarksKeepTimes(t *testing.T) {
	s, _ := newStore(t)
	id := write(t, s, nil, func(r string) error {
		return errors.Join(os.Mkdir(r+"/d", 0o755), os.WriteFile(r+"/d/a", nil, 0o644), os.Remove(r+"/d/a"),
			unix.UtimesNanoAt(unix.AT_FDCWD, r+"/d", []unix.Timespec{{Sec: 1000}, {Sec: 2000}}, 0))
	})
	root, err := s.OpenView(t.Context(), []snapshot.ID{id})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if st, err := root.Stat("d"); err != nil || st.Mtim.Sec != 2000 {
		t.Errorf("mtime %d, %v", st.Mtim.Sec, err)
	}
}

func TestOpaqueRoot(t *testing.T) {
	s, _ := newStore(t)
	one := unpack(t, s, "a=1")
	two := unpack(t, s, ".wh..wh..opq=", "b=2")
	equal(t, "view", list(t, s, one, two), "b=2")
	three := write(t, s, []snapshot.ID{one, two}, func(r string) error {
		return errors.Join(os.WriteFile(r+"/a", nil, 0o644), os.Remove(r+"/a"), os.Remove(r+"/b"))
	})
	equal(t, "tar", tarNames(t, s, three), ".wh.b")
}

func TestEmptyLayer(t *testing.T) {
	s, _ := newStore(t)
	id := write(t, s, nil, func(string) error { return nil })
	h, size, err := s.DiffID(t.Context(), id)
	if want := digest(make([]byte, 1024)); h != want || size != 1024 || err != nil {
		t.Errorf("DiffID = %s, %d, %v; want %s", h, size, err, want)
	}
}

func TestDiffID(t *testing.T) {
	s, dir := newStore(t)
	id := write(t, s, nil, func(r string) error { return os.WriteFile(r+"/a", bytes.Repeat([]byte("x"), 1<<20), 0o644) })
	var wg sync.WaitGroup
	var digests sync.Map
	for range 8 {
		wg.Go(func() {
			h, _, err := s.DiffID(t.Context(), id)
			if err != nil {
				t.Error(err)
			}
			digests.Store(h, true)
		})
	}
	wg.Wait()
	n := 0
	var h v1.Hash
	digests.Range(func(k, _ any) bool { n++; h = k.(v1.Hash); return true })
	if n != 1 {
		t.Fatal("several digests")
	}
	var b bytes.Buffer
	if err := s.WriteTar(t.Context(), id, &b); err != nil || digest(b.Bytes()) != h {
		t.Errorf("the tar has the digest %s, not %s (%v)", digest(b.Bytes()), h, err)
	}
	if found, err := s.ByDiffID(h); found != id || err != nil {
		t.Errorf("ByDiffID = %q, %v", found, err)
	}
	// Remembered, by another process too.
	if err := os.WriteFile(filepath.Join(dir, string(id), "fs", "b"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	other, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, size, err := other.DiffID(t.Context(), id); again != h || size != int64(b.Len()) || err != nil {
		t.Errorf("again: %s, %d, %v", again, size, err)
	}
	if err := s.WriteTar(t.Context(), id, io.Discard); err == nil || !strings.Contains(err.Error(), h.Hex) {
		t.Errorf("the tar of a changed layer: %v", err)
	}
	// A damaged meta is computed again.
	if err := os.WriteFile(filepath.Join(dir, string(id), "meta"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if again, _, err := other.DiffID(t.Context(), id); again == h || err != nil {
		t.Errorf("after damage: %s, %v", again, err)
	}
	if _, _, err := s.DiffID(t.Context(), "aaaaaaaaaaaaaaaa"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("no layer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	id = write(t, s, nil, func(r string) error { return os.WriteFile(r+"/c", nil, 0o644) })
	if _, _, err := s.DiffID(ctx, id); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, _, err := s.DiffID(t.Context(), id); err != nil {
		t.Errorf("after a canceled one: %v", err)
	}
	s.Close()
	if left := temporaries(t, dir); left != nil {
		t.Error("left:", left)
	}
}

func TestTwoLayersOfOneDiffID(t *testing.T) {
	s, _ := newStore(t)
	do := func(string) error { return nil }
	one, two := write(t, s, nil, do), write(t, s, nil, do)
	h, _, err := s.DiffID(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.DiffID(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	if found, err := s.ByDiffID(h); found != one || err != nil || !s.Has(two) {
		t.Errorf("ByDiffID = %q, %v", found, err)
	}
	equal(t, "a layer twice", list(t, s, one, two, one))
	for range 2 {
		if err := s.Remove(one); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.ByDiffID(h); !errors.Is(err, snapshot.ErrNotFound) || s.Has(one) {
		t.Errorf("ByDiffID after Remove: %v", err)
	}
}

func TestLayerTwice(t *testing.T) {
	s, _ := newStore(t)
	x := unpack(t, s, "a=x", ".wh.c=")
	b := unpack(t, s, "a=b", "c=b", "d=b")
	equal(t, "view", list(t, s, x, b, x), "a=x", "d=b")
}

func TestUnpack(t *testing.T) {
	s, dir := newStore(t)
	b, h := makeTar(t, "a/", "a/b=1", "a/c->b", "a/d=>a/b")
	var opened atomic.Int32
	open := func() (io.ReadCloser, error) { opened.Add(1); return opener(b)() }
	var wg sync.WaitGroup
	ids := make([]snapshot.ID, 8)
	for i := range ids {
		wg.Go(func() {
			other, err := openStore(dir)
			if err == nil && i%2 == 0 {
				ids[i], err = other.Unpack(t.Context(), h, open)
			} else if err == nil {
				ids[i], err = s.Unpack(t.Context(), h, open)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Error("unpacked several times:", ids)
		}
	}
	if opened.Load() != 1 {
		t.Errorf("opened %d times", opened.Load())
	}
	equal(t, "view", list(t, s, ids[0]), "a/", "a/b=1", "a/c->b", "a/d=1")
	if got, size, err := s.DiffID(t.Context(), ids[0]); got != h || size != int64(len(b)) || err != nil {
		t.Errorf("DiffID = %s, %d, %v", got, size, err)
	}
	s.Close()
	if left := temporaries(t, dir); left != nil {
		t.Error("left:", left)
	}
}

func TestUnpackFails(t *testing.T) {
	s, dir := newStore(t)
	good, h := makeTar(t, "a=1")
	_, other := makeTar(t, "a=2")
	broken := errors.New("broken")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	hostile, hostileHash := makeTar(t, "ok=1", "../../escaped=1")
	for name, c := range map[string]struct {
		canceled bool
		h        v1.Hash
		open     func() (io.ReadCloser, error)
		want     []string
	}{
		"other digest": {false, other, opener(good), []string{h.Hex, other.Hex}},
		"cut":          {false, h, opener(good[:700]), []string{h.Hex}},
		"no tar":       {false, digest([]byte("x")), opener([]byte("x")), nil},
		"open fails":   {false, h, func() (io.ReadCloser, error) { return nil, broken }, []string{"broken"}},
		"canceled":     {true, h, opener(good), []string{"canceled"}},
		"no digest":    {false, v1.Hash{Algorithm: "sha256", Hex: "../x"}, opener(good), []string{"not a sha256"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if c.canceled {
				ctx = canceled
			}
			_, err := s.Unpack(ctx, c.h, c.open)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
			s.Close()
			if left := temporaries(t, dir); left != nil {
				t.Error("left:", left)
			}
			_ = s.Walk(func(id snapshot.ID) error { t.Error("stored:", id); return nil })
		})
	}
	// A hostile tar is refused or stays inside.
	if _, err := s.Unpack(t.Context(), hostileHash, opener(hostile)); err != nil {
		t.Log("refused:", err)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "*", "escaped")); found != nil {
		t.Error("outside:", found)
	}
	if _, err := os.Stat(filepath.Join(dir, "escaped")); err == nil {
		t.Error("outside")
	}
}

func TestManyLayers(t *testing.T) {
	s, _ := newStore(t)
	var layers []snapshot.ID
	for i := range snapshot.MaxLayers + 1 {
		layers = append(layers, unpack(t, s, fmt.Sprintf("f%03d=%d", i, i), fmt.Sprintf("top=%d", i)))
	}
	for _, n := range []int{1, 2, 128, 500} {
		root, err := s.OpenView(t.Context(), layers[:n])
		if err != nil {
			t.Fatal(n, err)
		}
		checkMany(t, root, n)
		id := write(t, s, layers[:n], func(r string) error { return os.Remove(r + "/f000") })
		equal(t, "tar", tarNames(t, s, id), ".wh.f000")
		if copying() {
			continue
		}
		// The same through mount(2).
		m, err := s.View(t.Context(), layers[:n])
		if err != nil {
			t.Fatal(err)
		}
		if root, err = m.OpenOld(); err != nil {
			t.Fatal(n, err)
		}
		checkMany(t, root, n)
	}
	if copying() {
		return
	}
	if _, err := s.OpenView(t.Context(), layers); err == nil || !strings.Contains(err.Error(), "501 layers are too many") {
		t.Error("501 layers:", err)
	}
}

// checkMany looks at n layers of TestManyLayers, and closes the root.
func checkMany(t *testing.T, root *rootfs.Root, n int) {
	t.Helper()
	defer root.Close()
	entries, err := os.ReadDir(path(root))
	if err != nil || len(entries) != n+1 {
		t.Errorf("%d layers show %d files, %v", n, len(entries), err)
	}
	if b, err := os.ReadFile(path(root) + "/top"); err != nil || string(b) != fmt.Sprint(n-1) {
		t.Errorf("%d layers: top is %q, %v", n, b, err)
	}
	if copying() {
		return
	}
	if err := os.WriteFile(path(root)+"/x", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to a view: %v", err)
	}
}

func TestOldMountIsWritable(t *testing.T) {
	needOverlay(t)
	s, _ := newStore(t)
	base := unpack(t, s, "a=1")
	a, err := s.Prepare(t.Context(), []snapshot.ID{base})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Discard()
	root, err := a.Mount().OpenOld()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path(root) + "/a"); err != nil {
		t.Error(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.File().Fd()), &st); err != nil {
		t.Fatal(err)
	}
	device := fmt.Sprintf(" %d:%d ", unix.Major(st.Dev), unix.Minor(st.Dev))
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), device) {
		t.Errorf("the mount%sis seen:\n%s", device, mounts)
	}
	_ = root.Close()
	id, err := a.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "view", list(t, s, base, id))
}

func TestLongStorePath(t *testing.T) {
	needRoot(t)
	dir := t.TempDir() + "/" + strings.Repeat("a,b:c\\/", 60)
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	id := unpack(t, s, "a=1")
	equal(t, "view", list(t, s, id), "a=1")
	top := write(t, s, []snapshot.ID{id}, func(r string) error { return os.Remove(r + "/a") })
	equal(t, "both", list(t, s, id, top))
}

func TestConcurrentPrepare(t *testing.T) {
	s, dir := newStore(t)
	base := unpack(t, s, "a=1")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 5 {
				if _, err := openStore(dir); err != nil { // sweeps
					t.Error(err)
					return
				}
				a, err := s.Prepare(t.Context(), []snapshot.ID{base})
				if err != nil {
					t.Error(err)
					return
				}
				if j%2 == 0 {
					a.Discard()
				} else if id, err := a.Commit(t.Context()); err != nil || !s.Has(id) {
					t.Error(i, err)
				}
			}
		})
	}
	wg.Wait()
	s.Close()
	if left := temporaries(t, dir); left != nil {
		t.Error("left:", left)
	}
}

// A crash between the two may leave a layer whose digest is known and that the index does not have.
func TestDiffIDMendsTheIndex(t *testing.T) {
	s, dir := newStore(t)
	a, err := s.Prepare(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	diffID, _, err := s.DiffID(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "diffid", diffID.Hex)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.DiffID(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got, err := s.ByDiffID(diffID); err != nil || got != id {
		t.Errorf("%q, %v", got, err)
	}
}
