package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/seccomp"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}

// A file is made as the caller would make it, inside its root, and the process stays what it is.
func TestCreateAsCaller(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	root := filepath.Join(outside, "root")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(root, "own/sub"), 0o755), os.Chown(filepath.Join(root, "own"), 1000, 1000),
		os.Mkdir(filepath.Join(root, "group"), 0o755), os.Chown(filepath.Join(root, "group"), 0, 77), os.Chmod(filepath.Join(root, "group"), 0o770),
		os.Symlink("/own", filepath.Join(root, "abs")), os.Symlink("../../../own", filepath.Join(root, "own/up")),
		os.Symlink("/nowhere", filepath.Join(root, "own/dangling")), os.Mkdir(filepath.Join(root, "closed"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	user := caller{uid: 1000, gid: 1000, groups: []uint32{77}, caps: 1 << unix.CAP_MKNOD, umask: 0o022}
	admin := caller{caps: seccomp.Capabilities, umask: 0}
	for _, c := range []struct {
		who        caller
		path, base string
		err        error
		made       string
		owner      uint32
		mode       uint32
	}{
		{user, "/own/a", "", nil, "own/a", 1000, 0o644},
		{user, "/abs/b", "", nil, "own/b", 1000, 0o644},
		{user, "/../../own/up/c", "", nil, "own/c", 1000, 0o644},
		{user, "../../../own/d", "own", nil, "own/d", 1000, 0o644},
		{user, "e", "own", nil, "own/e", 1000, 0o644},
		{user, "/group/f", "", nil, "group/f", 1000, 0o644},
		{admin, "g", "own/sub", nil, "own/sub/g", 0, 0o666},
		{admin, "//closed///h", "", nil, "closed/h", 0, 0o666},
		{user, "g2", "own/sub", unix.EACCES, "", 0, 0},
		{user, "/x", "", unix.EACCES, "", 0, 0},
		{user, "/closed/x", "", unix.EACCES, "", 0, 0},
		{user, "/own/a", "", unix.EEXIST, "", 0, 0},
		{user, "/own/dangling", "", unix.EEXIST, "", 0, 0},
		{admin, "/own/dangling/x", "", unix.ENOENT, "", 0, 0},
		{admin, "", "", unix.ENOENT, "", 0, 0},
		{admin, "/", "", unix.EEXIST, "", 0, 0},
		{admin, "/own/..", "", unix.EEXIST, "", 0, 0},
		{admin, "/own/", "", unix.EEXIST, "", 0, 0},
		{admin, "/new/", "", unix.ENOENT, "", 0, 0},
		{admin, "/own/a/x", "", unix.ENOTDIR, "", 0, 0},
	} {
		who := c.who
		who.path, who.base = c.path, -1
		const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
		if who.root, err = unix.Open(root, flags, 0); err != nil {
			t.Fatal(err)
		}
		if c.base != "" {
			if who.base, err = unix.Open(filepath.Join(root, c.base), flags, 0); err != nil {
				t.Fatal(err)
			}
		}
		n, err := who.create(0o666)
		if !errors.Is(err, c.err) {
			t.Errorf("%q from %q: got %v, want %v", c.path, c.base, err, c.err)
		}
		if err == nil {
			unix.Close(n.fd)
			unix.Close(n.dir)
		}
		who.close()
		if c.made == "" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, c.made), &st); err != nil || st.Uid != c.owner || st.Mode != unix.S_IFREG|c.mode {
			t.Errorf("%q from %q: %d %o, %v", c.path, c.base, st.Uid, st.Mode, err)
		}
	}
	if list, err := os.ReadDir(outside); err != nil || len(list) != 1 {
		t.Errorf("outside of the root are %v, %v", list, err)
	}
	// No other thread has become the caller.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if wd, err := os.Getwd(); err != nil || wd != before {
				t.Errorf("the process is in %s, %v", wd, err)
			}
			if uid, _ := unix.SetfsuidRetUid(-1); uid != 0 {
				t.Errorf("a thread is %d", uid)
			}
		})
	}
	wg.Wait()
}
