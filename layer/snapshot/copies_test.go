package snapshot_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/snapshot"
)

// mounted is write for who is not known to this process: as for a step, everything may have been done.
func mounted(t *testing.T, s *snapshot.Store, layers []snapshot.ID, do func(root string) error) snapshot.ID {
	t.Helper()
	a, err := s.Prepare(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Discard()
	if err := do(a.Mount().Upper); err != nil {
		t.Fatal(err)
	}
	id, err := a.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// copyStore opens a store without overlayfs, on which it needs no privileges.
func copyStore(t *testing.T) (*snapshot.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := snapshot.Open(dir, snapshot.Options{Copy: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, dir
}

// appendTo writes to the end of a file, in place.
func appendTo(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString("x")
		err = errors.Join(err, f.Close())
	}
	return err
}

// writeMapped changes the first byte of a file through a mapping that outlives its descriptor.
func writeMapped(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_WRITE, unix.MAP_SHARED)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	m[0] = 'M'
	return unix.Munmap(m)
}

// TestCopyFindsChanges changes files in ways that are not plain to see. The copy is made by an earlier step.
func TestCopyFindsChanges(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		do   func(r string) error
		want []string
	}{
		"nothing":                   {func(string) error { return nil }, []string{}},
		"read":                      {func(r string) error { _, err := os.ReadFile(r + "/d/f"); return err }, []string{}},
		"mapped":                    {func(r string) error { return writeMapped(r + "/d/f") }, []string{"d/", "d/f"}},
		"written with the old time": {func(r string) error { return keepTime(r+"/d/f", appendTo) }, []string{"d/", "d/f"}},
		"by a link that is gone": {func(r string) error {
			return errors.Join(os.Link(r+"/d/f", r+"/tmp"), appendTo(r+"/tmp"), os.Remove(r+"/tmp"))
		}, []string{"d/", "d/f"}},
		"by a link in a directory that is gone": {func(r string) error {
			return errors.Join(os.Mkdir(r+"/n", 0o755), os.Link(r+"/d/f", r+"/n/l"), appendTo(r+"/n/l"), os.RemoveAll(r+"/n"))
		}, []string{"d/", "d/f"}},
		"by a link in a new directory": {func(r string) error {
			return errors.Join(os.Mkdir(r+"/n", 0o755), os.Link(r+"/d/f", r+"/n/l"), appendTo(r+"/n/l"))
		}, []string{"d/", "d/f", "n/", "n/l"}},
		"one of two names":         {func(r string) error { return appendTo(r + "/d/one") }, []string{"d/", "d/one", "e/", "e/two"}},
		"one of two names removed": {func(r string) error { return os.Remove(r + "/d/one") }, []string{"d/", "d/.wh.one"}},
		"one changed and removed": {func(r string) error {
			return errors.Join(keepTime(r+"/d/one", appendTo), os.Remove(r+"/d/one"))
		}, []string{"d/", "d/.wh.one", "e/", "e/two"}},
		"moved directory": {func(r string) error { return os.Rename(r+"/d", r+"/z") }, []string{".wh.d", "e/", "e/two", "z/", "z/f", "z/one"}},
		"swapped": {func(r string) error {
			return unix.Renameat2(unix.AT_FDCWD, r+"/d", unix.AT_FDCWD, r+"/e", unix.RENAME_EXCHANGE)
		}, []string{"d/", "d/.wh..wh..opq", "d/two", "e/", "e/.wh..wh..opq", "e/f", "e/one"}},
		"many events": {func(r string) error {
			for range 20_000 {
				if err := errors.Join(appendTo(r+"/d/f"), appendTo(r+"/g")); err != nil {
					return err
				}
			}
			return os.Chmod(r+"/e", 0o700)
		}, []string{"d/", "d/f", "e/", "g"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := copyStore(t)
			base := unpack(t, s, "d/", "d/f=1", "d/one=1", "e/", "e/two=>d/one", "g=1")
			layers := []snapshot.ID{base}
			layers = append(layers, mounted(t, s, layers, func(string) error { return nil }))
			id := mounted(t, s, layers, c.do)
			equal(t, "tar", tarNames(t, s, id), c.want...)
			layers = append(layers, id)
			// The copy goes on as what a new one would be.
			again := mounted(t, s, layers, func(string) error { return nil })
			equal(t, "nothing after it", tarNames(t, s, again))
			var seen []string
			layers = append(layers, mounted(t, s, append(layers, again), func(r string) error { seen = listDir(t, r); return nil }))
			equal(t, "view", list(t, s, layers...), seen...)
			s.Close()
			if left := temporaries(t, dir); left != nil {
				t.Error("left:", left)
			}
		})
	}
}

// keepTime calls change and sets the file's times to what they were.
func keepTime(name string, change func(name string) error) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return err
	}
	return errors.Join(change(name), unix.UtimesNano(name, []unix.Timespec{st.Atim, st.Mtim}))
}

// TestViewsGoWithTheirLayers removes a layer: the trees that show it go too, and those of a process that died in between.
func TestViewsGoWithTheirLayers(t *testing.T) {
	needRoot(t)
	s, dir := copyStore(t)
	one, two := unpack(t, s, "a=1"), unpack(t, s, "b=2")
	equal(t, "view", list(t, s, one, two), "a=1", "b=2")
	equal(t, "view", list(t, s, one), "a=1")
	views := func() int {
		entries, err := os.ReadDir(filepath.Join(dir, "trees"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if n := views(); n != 2 {
		t.Errorf("%d views", n)
	}
	if err := s.Remove(two); err != nil || views() != 1 {
		t.Errorf("%d views, %v", views(), err)
	}
	if err := os.RemoveAll(filepath.Join(dir, string(one))); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Open(dir, snapshot.Options{Copy: true}); err != nil || views() != 0 {
		t.Errorf("%d views of what is gone, %v", views(), err)
	}
}
