package snapshot_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
	"github.com/strake-build/strake/layer/snapshot"
)

// Variables that tell the test binary what it was started again for.
const (
	inUserNS = "STRAKE_TEST_USERNS" // run the tests as root of a user namespace
	helper   = "STRAKE_TEST_HELPER" // be the named helper process instead
	storeDir = "STRAKE_TEST_STORE"  // the helper's store
	byCopies = "STRAKE_TEST_COPIES" // run the tests on stores without overlayfs
)

func TestMain(m *testing.M) {
	if h := os.Getenv(helper); h != "" {
		if err := runHelper(h, os.Getenv(storeDir)); err != nil {
			fmt.Fprintln(os.Stderr, h+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// needRoot skips a test that mounts, unless it runs where everything has to.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// TestUserNamespace runs all other tests again as root of a user namespace with 65536 ids.
func TestUserNamespace(t *testing.T) {
	needRoot(t)
	if os.Getenv(inUserNS) != "" || copying() {
		t.Skip("already there")
	}
	const first = 100000
	dir, err := os.MkdirTemp("", "strake-userns-") //nolint:usetesting // t.TempDir is in a folder that only its owner enters
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, first, first); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.v="+fmt.Sprint(testing.Verbose()), "-test.short="+fmt.Sprint(testing.Short()))
	cmd.Env = append(os.Environ(), inUserNS+"=1", "TMPDIR="+dir)
	cmd.Dir = dir
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings:                ids,
		GidMappings:                ids,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{}, // root of the namespace: the host's has no id in it
		Pdeathsig:                  syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
}

// TestCopies runs all other tests again on stores that make copies.
func TestCopies(t *testing.T) {
	if os.Getenv(byCopies) != "" || os.Getenv(inUserNS) != "" {
		t.Skip("already there")
	}
	cmd := exec.Command("/proc/self/exe", "-test.v="+fmt.Sprint(testing.Verbose()), "-test.short="+fmt.Sprint(testing.Short()))
	cmd.Env = append(os.Environ(), byCopies+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
}

// needOverlay skips a test of mounts where the tests are run on stores that make none.
func needOverlay(t testing.TB) {
	t.Helper()
	if copying() {
		t.Skip("about overlayfs")
	}
}

func userXattr() bool { return os.Getenv(inUserNS) != "" }

func copying() bool { return os.Getenv(byCopies) != "" }

func openStore(dir string) (*snapshot.Store, error) {
	return snapshot.Open(dir, snapshot.Options{UserXattr: userXattr(), Copy: copying()})
}

// newStore opens a store in a new folder.
func newStore(t testing.TB) (*snapshot.Store, string) {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, dir
}

// makeTar makes an archive of entries: "dir/", "file=content", "link->target", "hard=>target".
func makeTar(t testing.TB, entries ...string) ([]byte, v1.Hash) {
	t.Helper()
	return mustTar(entries...)
}

// mustTar is makeTar where there is no test to fail.
func mustTar(entries ...string) ([]byte, v1.Hash) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		var h tar.Header
		var content string
		if name, target, ok := strings.Cut(e, "->"); ok {
			h = tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
		} else if name, target, ok := strings.Cut(e, "=>"); ok {
			h = tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}
		} else if name, c, ok := strings.Cut(e, "="); ok {
			content = c
			h = tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(c))}
		} else {
			h = tar.Header{Typeflag: tar.TypeDir, Name: e, Mode: 0o755}
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes(), digest(b.Bytes())
}

func digest(b []byte) v1.Hash {
	d := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(d[:])}
}

func opener(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// unpack makes a layer of entries as for makeTar.
func unpack(t testing.TB, s *snapshot.Store, entries ...string) snapshot.ID {
	t.Helper()
	b, h := makeTar(t, entries...)
	id, err := s.Unpack(t.Context(), h, opener(b))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// write commits what do does to the file system over layers.
func write(t testing.TB, s *snapshot.Store, layers []snapshot.ID, do func(root string) error) snapshot.ID {
	t.Helper()
	a, err := s.Prepare(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Discard()
	root, err := a.Open()
	if err != nil {
		t.Fatal(err)
	}
	err = do(path(root))
	_ = root.Close()
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// path is where the open root can be reached by name.
func path(root *rootfs.Root) string { return fmt.Sprintf("/proc/self/fd/%d", root.File().Fd()) }

// tarNames lists the entries of the layer's tar.
func tarNames(t testing.TB, s *snapshot.Store, id snapshot.ID) []string {
	t.Helper()
	var b bytes.Buffer
	if err := s.WriteTar(t.Context(), id, &b); err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

// list shows a view of layers as "dir/", "file=content" and "link->target", sorted.
func list(t testing.TB, s *snapshot.Store, layers ...snapshot.ID) []string {
	t.Helper()
	root, err := s.OpenView(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	return listDir(t, path(root))
}

func listDir(t testing.TB, top string) []string {
	t.Helper()
	lines := []string{}
	err := filepath.WalkDir(top+"/", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p, top), "/")
		switch {
		case name == "":
		case d.IsDir():
			lines = append(lines, name+"/")
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			lines = append(lines, name+"->"+target)
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			lines = append(lines, name+"="+string(b))
		default:
			lines = append(lines, name+" "+d.Type().String())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

func equal(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// temporaries lists what is unfinished in the store.
func temporaries(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	for _, d := range []string{"tmp", "lock"} {
		entries, err := os.ReadDir(filepath.Join(dir, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, d+"/"+e.Name())
		}
	}
	return names
}

// removeTree is rm -rf, and fails where os.RemoveAll does not.
func removeTree(p string) error {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return err
	}
	return os.RemoveAll(p)
}
