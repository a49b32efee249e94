package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
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
	s, err := snapshot.Open(dir, copyOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, dir
}

// copyOptions are of a store for whoever runs the tests.
func copyOptions() snapshot.Options {
	return snapshot.Options{Copy: true, RecordOwners: os.Geteuid() != 0}
}

// TestPlainUser runs the tests of copies as a user without any privileges.
func TestPlainUser(t *testing.T) {
	needRoot(t)
	if userXattr() || copying() {
		t.Skip("once is enough")
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "strake-user-") //nolint:usetesting // t.TempDir is in a folder that only its owner enters
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^(TestCopyFindsChanges|TestViewsGoWithTheirLayers|TestCopyOfOwners)$")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestCopyOfOwners") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestCopyOfOwners makes layers of files with owners, modes and capabilities of all kinds, in a copy that goes on from
// step to step and in new ones: the tars are what they should be, also where owners are recorded.
func TestCopyOfOwners(t *testing.T) {
	s, _ := copyStore(t)
	base := unpack(t, s, "d/", "d/f=1", "d/l->f", "d/m->f")
	layers := []snapshot.ID{base}
	for n := range 4 {
		if n == 2 {
			s.Close()
		}
		a, err := s.Prepare(t.Context(), layers)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Discard()
		root, err := a.Open()
		if err != nil {
			t.Fatal(err)
		}
		dir, _, err := root.Parent("d/x")
		if err != nil {
			t.Fatal(err)
		}
		o := root.Owners()
		err = errors.Join(o.Chown(dir, "l", 10+n, 20), rootfs.Mkdir(dir, fmt.Sprint("s", n), 0o700), o.Set(dir, fmt.Sprint("s", n), 5, 6, 0o111),
			o.Set(dir, "f", 7, n, 0))
		_, _ = dir.Close(), root.Close()
		if err != nil {
			t.Fatal(err)
		}
		a.Clamp(0)
		id, err := a.Commit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, id)
		var b bytes.Buffer
		if err := s.WriteTar(t.Context(), id, &b); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("5 d/ \"\" 755 0:0 0 map[]\n0 d/f \"\" 0 7:%d 0 map[]\n2 d/l \"f\" 777 %d:20 0 map[]\n5 d/s%d/ \"\" 111 5:6 0 map[]\n", n, 10+n, n)
		if got := tarListing(t, b.String()); got != want {
			t.Errorf("layer %d:\n%swant\n%s", n, got, want)
		}
	}
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
		"placed as by a sandbox": {func(r string) error {
			err := errors.Join(os.Mkdir(r+"/../aside", 0o755), os.WriteFile(r+"/../aside/null", nil, 0o644), os.WriteFile(r+"/../file", nil, 0o644))
			for range 2 {
				err = errors.Join(err, unix.Renameat2(unix.AT_FDCWD, r+"/../aside", unix.AT_FDCWD, r+"/dev", unix.RENAME_EXCHANGE),
					unix.Renameat2(unix.AT_FDCWD, r+"/../file", unix.AT_FDCWD, r+"/etc/hosts", unix.RENAME_EXCHANGE))
			}
			return err
		}, []string{}},
		"a file left at such a name": {func(r string) error {
			return errors.Join(os.Remove(r+"/dev"), os.Mkdir(r+"/dev", 0o755), os.Link(r+"/d/f", r+"/dev/l"), appendTo(r+"/dev/l"))
		}, []string{"d/", "d/f", "dev/", "dev/.wh..wh..opq", "dev/l"}},
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
			base := unpack(t, s, "d/", "d/f=1", "d/one=1", "dev/", "e/", "e/two=>d/one", "etc/", "etc/hosts=1", "g=1")
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
	if _, err := snapshot.Open(dir, copyOptions()); err != nil || views() != 0 {
		t.Errorf("%d views of what is gone, %v", views(), err)
	}
}
