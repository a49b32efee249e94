package rootfs

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOverrideCounts says of which modes the attribute's counts.
func TestOverrideCounts(t *testing.T) {
	for _, c := range []struct {
		value string
		typ   uint32
		real  uint32
		size  int64
		want  string
	}{
		{"", unix.S_IFREG, 0o640, 0, "0:0 100640"},
		{"1:2:640", unix.S_IFREG, 0o640, 0, "1:2 100640"},
		{"1:2:40", unix.S_IFREG, 0o440, 0, "1:2 100040"},    // widened
		{"1:2:4040", unix.S_IFREG, 0o4440, 0, "1:2 104040"}, // with a set-id bit
		{"1:2:40", unix.S_IFREG, 0o4440, 0, "1:2 104440"},   // chmod came after
		{"1:2:644", unix.S_IFREG, 0o600, 0, "1:2 100600"},   // so here
		{"1:2:44", unix.S_IFREG, 0o440, 0, "1:2 100440"},    // and here
		{"1:2:55", unix.S_IFDIR, 0o755, 0, "1:2 40055"},
		{"1:2:1055", unix.S_IFDIR, 0o755, 0, "1:2 40755"},
		{"1:2:660:char-1-3", unix.S_IFREG, 0o600, 0, "1:2 20660 1:3"},
		{"1:2:660:block-8-1", unix.S_IFREG, 0o640, 0, "1:2 60660 8:1"},
		{"1:2:660:char-1-3", unix.S_IFREG, 0o600, 1, "1:2 100600"}, // not empty
		{"1:2:660:char-0-0", unix.S_IFREG, 0o600, 0, "1:2 100600"}, // a whiteout
		{"1:2:660:char-1-3", unix.S_IFDIR, 0o700, 0, "1:2 40700"},
		{"1:2:700:dir", unix.S_IFDIR, 0o700, 0, "1:2 40700"},
		{"nonsense", unix.S_IFREG, 0o600, 0, "0:0 100600"},
	} {
		st := unix.Stat_t{Mode: c.typ | c.real, Size: c.size}
		if rec, ok := ParseOverride(c.value); ok {
			rec.see(&st)
		}
		got := fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode)
		if st.Rdev != 0 {
			got += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if got != c.want {
			t.Errorf("%q on %o: %s, want %s", c.value, c.typ|c.real, got, c.want)
		}
	}
}

func openDir(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestOwnersPlainUser sets and reads owners as a user who may not change any, on files that he could not open.
func TestOwnersPlainUser(t *testing.T) {
	const env = "STRAKE_TEST_OWNERS"
	if os.Getenv(env) == "" {
		if os.Getuid() != 0 {
			if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
				t.Fatal("needs root")
			}
			t.Skip("needs root")
		}
		dir, err := os.MkdirTemp("", "strake-owners-") //nolint:usetesting // t.TempDir is in a folder that only its owner enters
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestOwnersPlainUser$")
		cmd.Env = []string{env + "=1", "TMPDIR=" + dir, "GORACE=atexit_sleep_ms=0"} // with the race detector it would sleep for a second at its end
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	top := t.TempDir()
	dir, o := openDir(t, top), RecordOwners(true)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	see := func(base, want string) {
		t.Helper()
		st, err := o.StatEntry(dir, base)
		if got := fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode&0o7777); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", base, got, err, want)
		}
	}
	attrs := func(base string, want ...string) {
		t.Helper()
		names, err := ListXattr(dir, base)
		if err != nil || strings.Join(names, " ") != strings.Join(want, " ") {
			t.Errorf("%s: attributes %q, %v, want %q", base, names, err, want)
		}
	}
	must(os.WriteFile(filepath.Join(top, "f"), nil, 0o600))
	must(os.Mkdir(filepath.Join(top, "d"), 0o700))
	must(os.Symlink("f", filepath.Join(top, "l")))
	must(unix.Mkfifo(filepath.Join(top, "p"), 0o600))
	see("f", "0:0 600")
	attrs("f")
	must(o.Set(dir, "f", 5, 6, 0o4000))
	see("f", "5:6 4000")
	must(o.Chown(dir, "f", -1, 7)) // clears set-id bits, as chown(2) does
	see("f", "5:7 0")
	must(o.Chmod(dir, "f", 0o444))
	see("f", "5:7 444")
	must(o.SetXattr(dir, "f", "user.x", []byte("y"))) // although it is not writable
	see("f", "5:7 444")
	capV2 := []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	must(o.SetXattr(dir, "f", capability, capV2))
	if err := o.SetXattr(dir, "f", capability, capV2[:5]); err == nil {
		t.Error("a malformed capability was taken")
	}
	names, err := o.ListXattr(dir, "f")
	value, err2 := o.GetXattr(dir, "f", capability)
	if strings.Join(names, " ") != "user.x security.capability" || string(value) != string(capV2) || err != nil || err2 != nil {
		t.Errorf("attributes %q, capability %q, %v, %v", names, value, err, err2)
	}
	must(o.Chown(dir, "f", 0, 0)) // loses the capability
	see("f", "0:0 444")
	attrs("f", "user.x")
	must(o.Set(dir, "d", 8, 9, 0o2000))
	see("d", "8:9 2000")
	must(os.WriteFile(filepath.Join(top, "d/usable"), nil, 0o600))
	must(os.Remove(filepath.Join(top, "d/usable")))
	must(o.Set(dir, "d", 0, 0, 0o755))
	attrs("d")
	must(o.Set(dir, "p", 3, 4, 0o640))
	see("p", "3:4 640")
	must(o.Chown(dir, "l", 10, 11))
	see("l", "10:11 777")
	must(o.Link(dir, "l", dir, "l2"))
	see("l2", "10:11 777")
	attrs(".", ownersXattr)
	for _, name := range []string{"l", "l2", "p"} {
		must(o.Chown(dir, name, 0, 0))
	}
	attrs(".")
	root, err := Open(top)
	must(err)
	defer root.Close()
	root = root.With(o)
	made, err := root.MkdirAll("new/dir", 0o500, 20, 21)
	must(err)
	must(o.Chown(dir, "l", 10, 11))
	for name, want := range map[string]string{"new/dir": "20:21 500", "new": "20:21 500", "l": "10:11 777", "new/../l": "10:11 777"} {
		st, err := root.Lstat(name)
		if got := fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode&0o7777); err != nil || got != want || len(made) != 2 {
			t.Errorf("%s: %s, %v, want %s", name, got, err, want)
		}
	}
	if st, err := root.Stat("l"); err != nil || st.Uid != 0 || st.Mode&0o7777 != 0o444 {
		t.Errorf("through the link: %d %o, %v", st.Uid, st.Mode, err)
	}
}

// TestEntryOwnersSpill records more than an attribute holds, from several goroutines.
func TestEntryOwnersSpill(t *testing.T) {
	top := t.TempDir()
	dir, o := openDir(t, top), RecordOwners(true)
	if err := SetXattr(dir, ".", "user.test", nil); err != nil {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	const n = 400
	name := func(i int) string { return fmt.Sprintf("%%25\n%03d", i) }
	for i := range n {
		if err := os.Symlink("x", filepath.Join(top, name(i))); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			for i := k; i < n; i += 4 {
				if err := o.Chown(dir, name(i), i, 5); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := os.Lstat(filepath.Join(top, ownersFile)); err != nil {
		t.Error(err)
	}
	for i := 1; i < n; i += 3 {
		if err := o.Chown(dir, name(i), -1, 9); err != nil {
			t.Fatal(err)
		}
	}
	// What a step in a box writes to the attribute wins, until it is changed.
	if err := SetXattr(dir, ".", ownersXattr, []byte("77:78 "+encodeName.Replace(name(0))+"\n79:80 "+encodeName.Replace(name(2))+"\n")); err != nil {
		t.Fatal(err)
	}
	if err := o.Chown(dir, name(2), 81, -1); err != nil {
		t.Fatal(err)
	}
	stat := o.In(dir)
	for i := range n {
		want := fmt.Sprintf("%d:5", i)
		switch {
		case i == 0:
			want = "77:78"
		case i == 2:
			want = "81:80"
		case i%3 == 1:
			want = fmt.Sprintf("%d:9", i)
		}
		st, err := stat.StatEntry(name(i))
		if got := fmt.Sprintf("%d:%d", st.Uid, st.Gid); err != nil || got != want {
			t.Fatalf("%d: %s, %v, want %s", i, got, err, want)
		}
	}
}

func FuzzEntryOwners(f *testing.F) {
	for _, s := range []string{"1:2 a\n", "1:2 a\n3:4 b%0Ac%25\n", "x\n1:2\n4294967295:0 a\n1:2 a/b\n1:2 ..\n1:2 a", "1:2 %00%\n\n 1:2 c\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list := parseEntryOwners(s)
		for name := range list {
			if checkBase(name) != nil {
				t.Errorf("the name %q", name)
			}
		}
		text := formatEntryOwners(list)
		if !maps.Equal(parseEntryOwners(text), list) {
			t.Errorf("%q is not %v", text, list)
		}
	})
}

func FuzzOverride(f *testing.F) {
	for _, s := range []string{"0:0:644", "5:6:620:char-4-64", "0:0:660:block-8-300", "1:2:0755:dir\x00", "0:0:644:char-1"} {
		f.Add(s, uint32(0o100644))
	}
	f.Fuzz(func(t *testing.T, s string, mode uint32) {
		o, ok := ParseOverride(s)
		if !ok {
			return
		}
		if again, ok := ParseOverride(o.String()); !ok || again != o {
			t.Errorf("%q becomes %q, which is %+v", s, o.String(), again)
		}
		st := unix.Stat_t{Mode: mode}
		o.see(&st)
		if typ := st.Mode & unix.S_IFMT; typ != mode&unix.S_IFMT && mode&unix.S_IFMT != unix.S_IFREG {
			t.Errorf("%q makes %o of %o", s, st.Mode, mode)
		}
	})
}
