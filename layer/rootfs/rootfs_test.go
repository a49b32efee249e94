package rootfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal("needs root, and STRAKE_TEST_REQUIRE is 1")
	}
	t.Skip("needs root")
}

// tree makes files ("name=content"), directories ("name/") and links ("name->target") in a new root.
func tree(t testing.TB, entries ...string) (*rootfs.Root, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var err error
		if name, target, ok := strings.Cut(e, "->"); ok {
			err = os.Symlink(target, filepath.Join(dir, name))
		} else if name, data, ok := strings.Cut(e, "="); ok {
			err = os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644)
		} else {
			err = os.MkdirAll(filepath.Join(dir, e), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, dir
}

func TestResolve(t *testing.T) {
	r, _ := tree(t, "a/b/c", "file=x", "abs->/a/b", "up->../../../a", "loop->loop", "dang->/no/such", "a/rel->b/c/../../b",
		"a/b/root->/", "chain->abs/root/up", "tofile->file")
	for _, c := range []struct{ name, want string }{
		{"", "."},
		{"/", "."},
		{".", "."},
		{"..", "."},
		{"../../a/./b//c/", "a/b/c"},
		{"abs/c", "a/b/c"},
		{"/up/b", "a/b"},
		{"a/rel/c", "a/b/c"},
		{"chain", "a"},
		{"a/b/root", "."},
		{"dang", "no/such"},
		{"dang/x/../y", "no/such/y"},
		{"no/../a", "a"},
		{"no/../../abs", "a/b"},
		{"a/b/c/../..", "a"},
		{"abs/..", "a"},
		{"tofile", "file"},
		{"a/new", "a/new"},
		{"/abs/../../abs/../new/x", "a/new/x"},
	} {
		got, err := r.Resolve(c.name)
		if err != nil || got != c.want {
			t.Errorf("Resolve(%q) = %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	for _, c := range []struct {
		name string
		want error
	}{{"loop", unix.ELOOP}, {"file/x", unix.ENOTDIR}, {"tofile/", unix.ENOTDIR}, {strings.Repeat("x", 300), unix.ENAMETOOLONG}, {"a\x00b", unix.EINVAL}} {
		if got, err := r.Resolve(c.name); !errors.Is(err, c.want) {
			t.Errorf("Resolve(%q) = %q, %v, want %v", c.name, got, err, c.want)
		}
	}
}

func TestOpenStaysInside(t *testing.T) {
	r, dir := tree(t, "etc", "etc/passwd=inside", "evil->/../../../../../../etc/passwd", "dot->../../../etc/passwd", "esc->/proc/self/root")
	if err := os.WriteFile(filepath.Join(filepath.Dir(dir), "secret"), []byte("outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"evil", "dot", "/etc/passwd", "../etc/passwd"} {
		f, err := r.OpenFile(name, unix.O_RDONLY, 0)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		buf := make([]byte, 20)
		n, _ := f.Read(buf)
		f.Close()
		if string(buf[:n]) != "inside" {
			t.Errorf("%s leads outside: %q", name, buf[:n])
		}
	}
	for _, name := range []string{"../secret", "/../secret", "esc"} {
		if _, err := r.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat(%s): %v, want not found", name, err)
		}
	}
}

func TestCreateIgnoresUmask(t *testing.T) {
	r, dir := tree(t, "d", "dang->/d/target", "old=x")
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for _, name := range []string{"new", "dang"} {
		f, err := r.OpenFile(name, unix.O_RDWR|unix.O_CREAT, 0o6775)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if st, err := r.Stat(name); err != nil || st.Mode&0o7777 != 0o6775 {
			t.Errorf("%s: mode %o, %v", name, st.Mode, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "d/target")); err != nil {
		t.Error("the dangling link was not followed:", err)
	}
	f, err := r.OpenFile("old", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o777)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if st, _ := r.Stat("old"); st.Mode&0o7777 != 0o644 || st.Size != 0 {
		t.Errorf("old: mode %o, size %d", st.Mode, st.Size)
	}
	if _, err := r.OpenFile("old", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o777); !errors.Is(err, fs.ErrExist) {
		t.Error("O_EXCL on an existing file:", err)
	}
	if _, err := r.OpenFile("neu/", unix.O_WRONLY|unix.O_CREAT, 0o777); err == nil {
		t.Error("a name with a slash at its end made a file")
	}
}

func TestParent(t *testing.T) {
	r, _ := tree(t, "a/b", "l->a", "a/x->/nowhere")
	for _, c := range []struct{ name, base string }{
		{"a/b", "b"}, {"/l/x", "x"}, {"l/b/.", "b"}, {"a/b//", "b"}, {"a/b/..", "a"}, {"l/none", "none"}, {"a", "a"}, {"l/", "l"},
	} {
		dir, base, err := r.Parent(c.name)
		if err != nil || base != c.base {
			t.Errorf("Parent(%q) = %q, %v", c.name, base, err)
			continue
		}
		dir.Close()
	}
	for _, name := range []string{"", "/", ".", "//.", "a/..", "../.."} {
		if _, base, err := r.Parent(name); err == nil {
			t.Errorf("Parent(%q) = %q, want an error", name, base)
		}
	}
	if _, _, err := r.Parent("no/such"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestMkdirAll(t *testing.T) {
	needRoot(t)
	r, dir := tree(t, "usr/run", "var->/usr", "dang->new/dir", "file=x")
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for _, c := range []struct {
		name string
		want []string
	}{
		{"/var/run/x/y", []string{"usr/run/x", "usr/run/x/y"}},
		{"/var/run/x/y", nil},
		{"dang/z", []string{"new", "new/dir", "new/dir/z"}},
		{"/", nil},
		{"../q", []string{"q"}},
	} {
		got, err := r.MkdirAll(c.name, 0o2755, 12, 34)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("MkdirAll(%q) = %q, %v, want %q", c.name, got, err, c.want)
		}
		for _, p := range got {
			st, err := r.Lstat(p)
			if err != nil || st.Mode != unix.S_IFDIR|0o2755 || st.Uid != 12 || st.Gid != 34 {
				t.Errorf("%s: mode %o, owner %d:%d, %v", p, st.Mode, st.Uid, st.Gid, err)
			}
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, "usr/run")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Error("an existing directory changed:", fi, err)
	}
	if _, err := r.MkdirAll("file/x", 0o755, 0, 0); !errors.Is(err, unix.ENOTDIR) {
		t.Error(err)
	}
	if _, err := r.MkdirAll("file", 0o755, 0, 0); !errors.Is(err, unix.ENOTDIR) {
		t.Error(err)
	}
}

func TestRemoveAll(t *testing.T) {
	r, dir := tree(t, "a/b/c/d", "a/f=x", "keep", "keep/x=1", "a/l->/keep", "link->keep")
	for _, name := range []string{"a", "link", "none", "none/x", "a"} {
		if err := r.RemoveAll(name); err != nil {
			t.Errorf("RemoveAll(%s): %v", name, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 || left[0].Name() != "keep" {
		t.Errorf("left: %v", left)
	}
	if _, err := r.Stat("keep/x"); err != nil {
		t.Error("a link was followed:", err)
	}
	if err := r.RemoveAll("/"); err == nil {
		t.Error("the root can be removed")
	}
}

func TestDeepTree(t *testing.T) {
	r, _ := tree(t)
	comp := strings.Repeat("d", 200)
	deep := strings.Repeat(comp+"/", 60) + "end" // 12 KB: three times PATH_MAX
	if _, err := r.MkdirAll(deep, 0o755, -1, -1); err != nil {
		t.Fatal(err)
	}
	if st, err := r.Lstat(deep); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Error(err)
	}
	if got, err := r.Resolve(deep); err != nil || got != deep {
		t.Error(err)
	}
	if err := r.RemoveAll(comp); err != nil {
		t.Error(err)
	}
}

func TestEntries(t *testing.T) {
	needRoot(t)
	r, _ := tree(t, "d")
	dir, err := r.OpenFile("d", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	must(rootfs.Mkdir(dir, "sub", 0o1777))
	must(rootfs.Symlink("/etc", dir, "link"))
	must(rootfs.Mknod(dir, "fifo", unix.S_IFIFO|0o666, 0))
	must(rootfs.Mknod(dir, "null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3)))
	f, err := rootfs.CreateEntry(dir, "file", 0o4755)
	must(err)
	f.Close()
	must(rootfs.Link(dir, "file", dir, "hard"))
	must(rootfs.Link(dir, "link", dir, "link2"))
	must(rootfs.Chown(dir, "link", 7, 8))
	must(rootfs.Chown(dir, "file", 7, 8))
	must(rootfs.Chmod(dir, "file", 0o4755))
	ts := unix.Timespec{Sec: 1234567890}
	must(rootfs.Utimes(dir, "link", ts, ts))
	must(rootfs.SetXattr(dir, "file", "user.a", []byte("v")))
	must(rootfs.SetXattr(dir, "link", "trusted.b", []byte(strings.Repeat("v", 1000))))
	if v, err := rootfs.GetXattr(dir, "link", "trusted.b"); err != nil || len(v) != 1000 {
		t.Error(len(v), err)
	}
	if v, err := rootfs.GetXattr(dir, "link", "trusted.none"); err != nil || v != nil {
		t.Error(v, err)
	}
	if l, err := rootfs.ListXattr(dir, "hard"); err != nil || !reflect.DeepEqual(l, []string{"user.a"}) {
		t.Error(l, err)
	}
	must(rootfs.RemoveXattr(dir, "hard", "user.a"))
	must(rootfs.RemoveXattr(dir, "hard", "user.a"))
	for base, want := range map[string]uint32{
		"sub": unix.S_IFDIR | 0o1777, "fifo": unix.S_IFIFO | 0o666, "null": unix.S_IFCHR | 0o666, "hard": unix.S_IFREG | 0o4755, "link": unix.S_IFLNK | 0o777,
	} {
		if st, err := rootfs.StatEntry(dir, base); err != nil || st.Mode != want {
			t.Errorf("%s: mode %o, %v, want %o", base, st.Mode, err, want)
		}
	}
	if st, err := rootfs.StatEntry(dir, "link"); err != nil || st.Uid != 7 || st.Gid != 8 || st.Mtim.Sec != ts.Sec || st.Nlink != 2 {
		t.Error(st, err)
	}
	if _, err := rootfs.OpenEntry(dir, "link", unix.O_RDONLY); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	if err := rootfs.Chmod(dir, "link", 0o600); err == nil {
		t.Error("the mode of a link was changed")
	}
	for _, base := range []string{"", ".", "..", "a/b", "/"} {
		if err := rootfs.Mkdir(dir, base, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
			t.Errorf("Mkdir(%q): %v", base, err)
		}
	}
	must(rootfs.Chown(dir, ".", 3, 4))
	must(rootfs.Chmod(dir, ".", 0o1711))
	must(rootfs.SetXattr(dir, ".", "user.self", []byte("x")))
	if st, err := r.Stat("d"); err != nil || st.Mode != unix.S_IFDIR|0o1711 || st.Uid != 3 {
		t.Error(st, err)
	}
	checkList(t, r, "d", "fifo file hard link link2 null sub")
}

// checkList lists a directory twice with one descriptor.
func checkList(t *testing.T, r *rootfs.Root, name, want string) {
	t.Helper()
	list, err := r.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	for range 2 {
		entries, err := rootfs.ReadDir(list)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("ReadDir: %v, want %s", got, want)
		}
	}
}
