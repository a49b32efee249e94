package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/strake-build/strake/layer/snapshot"
)

// keptStore opens a store that keeps copies.
func keptStore(dir, boot string) (*snapshot.Store, error) {
	opt := copyOptions()
	opt.Boot = boot
	return snapshot.Open(dir, opt)
}

// openKept is keptStore for a test.
func openKept(t *testing.T, dir string) *snapshot.Store {
	t.Helper()
	s, err := keptStore(dir, "this")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// manyFiles makes a layer that is worth keeping.
func manyFiles(t *testing.T, s *snapshot.Store) snapshot.ID {
	t.Helper()
	names := []string{"d/"}
	for i := range 300 {
		names = append(names, fmt.Sprintf("d/%d=%d", i, i))
	}
	return unpack(t, s, names...)
}

// inodeOf is the inode number of a file of the copy that is prepared over the layers.
func inodeOf(t *testing.T, s *snapshot.Store, layers []snapshot.ID, name string) uint64 {
	t.Helper()
	a, err := s.Prepare(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Discard()
	var st syscall.Stat_t
	if err := syscall.Lstat(filepath.Join(a.Mount().Upper, name), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// listMounted is listDir without what a step is lent.
func listMounted(t *testing.T, top string) []string {
	t.Helper()
	return slices.DeleteFunc(listDir(t, top), func(line string) bool { return line == "etc/" })
}

// A copy serves later processes, also for fewer layers than it shows; one that was written to does not.
func TestCopiesAreKept(t *testing.T) {
	dir := t.TempDir()
	s := openKept(t, dir)
	base := manyFiles(t, s)
	change := func(r string) error {
		return errors.Join(os.WriteFile(r+"/d/1", []byte("changed"), 0o600), os.WriteFile(r+"/new", nil, 0o600), os.Remove(r+"/d/2"))
	}
	first := mounted(t, s, []snapshot.ID{base}, change)
	before := inodeOf(t, s, []snapshot.ID{base, first}, "d/7")
	s.Close()
	if left := temporaries(t, dir); left != nil {
		t.Error("left:", left)
	}
	kept := s.Copies()
	if len(kept) != 1 || kept[0].Disk < 299*4096 { // the folders take nothing on a tmpfs
		t.Fatalf("kept %+v", kept)
	}

	s = openKept(t, dir)
	var seen []string
	again := mounted(t, s, []snapshot.ID{base}, func(r string) error {
		seen = listMounted(t, r)
		return change(r)
	})
	if os.Geteuid() == 0 {
		if now := inodeOf(t, s, []snapshot.ID{base, again}, "d/7"); now != before {
			t.Error("another copy was made")
		}
	}
	equal(t, "the copy", seen, list(t, s, base)...)
	equal(t, "the layer", tarNames(t, s, again), tarNames(t, s, first)...)
	s.Close()

	file := filepath.Join(dir, "copies", filepath.Base(s.Copies()[0].Dir), "tree/d/7")
	if err := keepTime(file, appendTo); err != nil {
		t.Fatal(err)
	}
	s = openKept(t, dir)
	for _, k := range s.Copies() {
		if err := s.VerifyCopy(t.Context(), k.ID); errors.Is(err, snapshot.ErrDamaged) != (filepath.Join(k.Dir, "tree/d/7") == file) {
			t.Errorf("%s: %v", k.ID, err)
		}
	}
	last := mounted(t, s, []snapshot.ID{base, again}, func(string) error { return nil })
	equal(t, "the layer", tarNames(t, s, last))
	equal(t, "the files", list(t, s, base, again, last), list(t, s, base, first)...)
}

// Copies go with their layers, with the boot of the machine, and when there are too many.
func TestKeptCopiesGo(t *testing.T) {
	dir := t.TempDir()
	s := openKept(t, dir)
	var layers []snapshot.ID
	for i := range 7 {
		layers = append(layers, unpack(t, s, fmt.Sprintf("f=%d", i)))
	}
	for i := range layers {
		if mounted(t, s, layers[i:i+1], func(string) error { return nil }); i%2 == 0 {
			s.Close()
		}
	}
	s.Close()
	if kept := s.Copies(); len(kept) != 4 {
		t.Errorf("kept %d", len(kept))
	}
	if err := s.Remove(layers[6]); err != nil || len(s.Copies()) != 3 {
		t.Errorf("%d without a layer, %v", len(s.Copies()), err)
	}
	if err := os.RemoveAll(filepath.Join(dir, string(layers[5]))); err != nil {
		t.Fatal(err)
	}
	if s = openKept(t, dir); len(s.Copies()) != 2 {
		t.Errorf("%d without two layers", len(s.Copies()))
	}
	if _, err := s.RemoveCopy(s.Copies()[0].ID); err != nil || len(s.Copies()) != 1 {
		t.Errorf("%d without one, %v", len(s.Copies()), err)
	}
	if _, err := keptStore(dir, "another"); err != nil || len(s.Copies()) != 0 {
		t.Errorf("%d of another boot, %v", len(s.Copies()), err)
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "copies")); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// What a failed step wrote is taken back, and the next one has its copy.
func TestUndo(t *testing.T) {
	s, _ := copyStore(t)
	base := manyFiles(t, s)
	before := inodeOf(t, s, []snapshot.ID{base}, "d/7")
	a, err := s.Prepare(t.Context(), []snapshot.ID{base})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(a.Mount().Upper+"/d/1"), os.WriteFile(a.Mount().Upper+"/left", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	a.Undo(t.Context())
	a.Discard()
	if os.Geteuid() == 0 && inodeOf(t, s, []snapshot.ID{base}, "d/7") != before {
		t.Error("another copy was made")
	}
	var seen []string
	id := mounted(t, s, []snapshot.ID{base}, func(r string) error { seen = listMounted(t, r); return nil })
	equal(t, "the copy", seen, list(t, s, base)...)
	equal(t, "the layer", tarNames(t, s, id))
}

// A process that is killed while it writes to a kept copy leaves none.
func TestKilledWithKeptCopy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("where owners are recorded no layer is taken off a copy")
	}
	dir := t.TempDir()
	s := openKept(t, dir)
	base := manyFiles(t, s)
	mounted(t, s, []snapshot.ID{base}, func(string) error { return nil })
	s.Close()
	if len(s.Copies()) != 1 {
		t.Fatal("nothing was kept")
	}
	cmd, out := start(t, "kept "+string(base), dir)
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the helper says %q, %v", line, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	s = openKept(t, dir)
	if n := len(s.Copies()); n != 0 {
		t.Errorf("%d are kept", n)
	}
	id := mounted(t, s, []snapshot.ID{base}, func(r string) error {
		_, err := os.Stat(r + "/dirty")
		if err == nil {
			return errors.New("a file of the other step is there")
		}
		return nil
	})
	equal(t, "the layer", tarNames(t, s, id))
}

// writeKept is the helper of TestKilledWithKeptCopy.
func writeKept(ctx context.Context, dir, base string) error {
	s, err := keptStore(dir, "this")
	if err != nil {
		return err
	}
	a, err := s.Prepare(ctx, []snapshot.ID{snapshot.ID(base)})
	if err != nil {
		return err
	}
	if len(s.Copies()) > 0 {
		return errors.New("the kept copy was not taken")
	}
	return os.WriteFile(a.Mount().Upper+"/dirty", nil, 0o600)
}

// Random steps go on from any earlier one, in this process or another: what they see is what their layers show.
func TestRandomReturns(t *testing.T) {
	for seed := range uint64(6) {
		dir := t.TempDir()
		s := openKept(t, dir)
		r := rand.New(rand.NewPCG(seed, 2))
		layers := []snapshot.ID{manyFiles(t, s)}
		for n := range 10 {
			layers = slices.Clone(layers[:1+r.IntN(len(layers))])
			if n%3 == 2 {
				s.Close()
				s = openKept(t, dir)
			}
			var before, after []string
			id := mounted(t, s, layers, func(root string) error {
				before = listMounted(t, root)
				scramble(r, root, 12)
				after = listMounted(t, root)
				return nil
			})
			equal(t, fmt.Sprintf("seed %d, step %d, before", seed, n), before, list(t, s, layers...)...)
			layers = append(layers, id)
			equal(t, fmt.Sprintf("seed %d, step %d, after", seed, n), after, list(t, s, layers...)...)
		}
		s.Close()
	}
}
