package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

func TestWriteEmpty(t *testing.T) {
	root, _ := newRoot(t)
	if got := write(t, root, layer.Options{}); !bytes.Equal(got, make([]byte, 1024)) {
		t.Errorf("%d bytes for an empty tree", len(got))
	}
	// The diffID of every empty layer that Docker and BuildKit make.
	const want = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
	if got := fmt.Sprintf("%x", sha256.Sum256(write(t, root, layer.Options{}))); got != want {
		t.Error(got)
	}
}

// TestWriteOrder makes a layer as overlayfs leaves it.
func TestWriteOrder(t *testing.T) {
	needRoot(t)
	root, top := newRoot(t)
	for _, d := range []string{"a", "a-b", "a/sub", "opq"} {
		if err := os.MkdirAll(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(top, "a/file"), nil, 0o644))
	must(os.Link(filepath.Join(top, "a/file"), filepath.Join(top, "Z")))
	must(unix.Mknod(filepath.Join(top, "gone"), unix.S_IFCHR, 0))
	must(os.Link(filepath.Join(top, "gone"), filepath.Join(top, "a/gone"))) // overlayfs shares its whiteouts
	must(unix.Lsetxattr(filepath.Join(top, "opq"), "trusted.overlay.opaque", []byte("y"), 0))
	must(unix.Lsetxattr(filepath.Join(top, "a"), "trusted.overlay.origin", []byte("x"), 0))
	must(unix.Lsetxattr(filepath.Join(top, "a/sub"), "user.overlay.opaque", []byte("y"), 0))
	must(unix.Mknod(filepath.Join(top, "sock"), unix.S_IFSOCK|0o600, 0))
	const want = "Z a/ a/file->Z a/.wh.gone a/sub/ a-b/ .wh.gone opq/ opq/.wh..wh..opq"
	b := write(t, root, layer.Options{})
	if got := names(t, b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if bytes.Contains(b, []byte("overlay")) || bytes.Contains(b, []byte("root\x00")) {
		t.Error("the tar holds overlay's attributes or names of users")
	}
	const plain = "Z a/ a/file->Z a/gone a/sub/ a-b/ gone->a/gone opq/"
	if got := names(t, write(t, root, layer.Options{Form: layer.Plain})); got != plain {
		t.Errorf("Plain: got  %s\nwant %s", got, plain)
	}
	must(unix.Lsetxattr(top, "trusted.overlay.opaque", []byte("y"), 0))
	if got := names(t, write(t, root, layer.Options{})); got != ".wh..wh..opq "+want {
		t.Errorf("opaque root: %s", got)
	}
}

func TestWriteEpoch(t *testing.T) {
	root, top := newRoot(t)
	if err := errors.Join(os.Mkdir(filepath.Join(top, "d"), 0o755), os.WriteFile(filepath.Join(top, "d/f"), nil, 0o644),
		os.Link(filepath.Join(top, "d/f"), filepath.Join(top, "d/g")), os.Symlink("f", filepath.Join(top, "d/l"))); err != nil {
		t.Fatal(err)
	}
	for _, epoch := range []int64{-1, 0, 1_000_000_000, 1 << 40} {
		r := tar.NewReader(bytes.NewReader(write(t, root, layer.Options{Epoch: &epoch})))
		for range 4 {
			if h, err := r.Next(); err != nil || h.ModTime.Unix() != epoch {
				t.Errorf("%d: %+v, %v", epoch, h, err)
			}
		}
	}
}

func TestOthersReadIt(t *testing.T) {
	needRoot(t)
	root, top := newRoot(t)
	apply(t, root, everything(t), layer.Options{})
	b := write(t, root, layer.Options{Form: layer.Plain, Attributes: true})
	cmd := exec.Command("tar", "tvf", "-")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("tar:")) {
		t.Errorf("tar: %v\n%s", err, out)
	}
	if len(b)%512 != 0 {
		t.Errorf("%d bytes are not whole blocks", len(b))
	}
	to := t.TempDir()
	cmd = exec.Command("tar", "xpf", "-", "-C", to, "--xattrs", "--xattrs-include=*")
	cmd.Stdin = bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("tar: %v\n%s", err, out)
	}
	// The mark is overlay's, not the tree's.
	if err := unix.Lremovexattr(filepath.Join(top, "dir"), "trusted.overlay.opaque"); err != nil {
		t.Error(err)
	}
	if d := diff(describe(t, top), describe(t, to)); d != "" {
		t.Errorf("tar unpacks something else:\n%s", d)
	}
}

// slow is a writer that lets something happen in the middle.
type slow struct {
	n int
	f func()
}

func (s *slow) Write(p []byte) (int, error) {
	if s.n += len(p); s.f != nil && s.n > 2<<20 {
		s.f()
		s.f = nil
	}
	return len(p), nil
}

func TestWriteOfChangingTree(t *testing.T) {
	root, top := newRoot(t)
	big := filepath.Join(top, "big")
	for _, size := range []int64{100, 1 << 30} { // the rest is cut off, or more appears
		if err := os.WriteFile(big, make([]byte, 8<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		w := &slow{f: func() { _ = os.Truncate(big, size) }}
		if err := layer.Write(context.Background(), w, root, layer.Options{}); err == nil || !strings.Contains(err.Error(), "changed") {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

func TestWriteStops(t *testing.T) {
	root, top := newRoot(t)
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(top, strings.Repeat("x", i%50+1)+string(rune('a'+i/50))), make([]byte, 100<<(i%12)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	goroutines, fds := runtime.NumGoroutine(), openFiles(t)
	full := errors.New("disk full")
	w := writerFunc(func(p []byte) (int, error) { return 0, full })
	if err := layer.Write(context.Background(), w, root, layer.Options{}); !errors.Is(err, full) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("enough")
	w = func(p []byte) (int, error) { cancel(cause); return len(p), nil }
	if err := layer.Write(ctx, w, root, layer.Options{}); !errors.Is(err, cause) {
		t.Error(err)
	}
	for i := 0; runtime.NumGoroutine() > goroutines && i < 10_000; i++ {
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines are left", n-goroutines)
	}
	if n := openFiles(t); n > fds {
		t.Errorf("%d files are left open", n-fds)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func openFiles(t testing.TB) int {
	t.Helper()
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

func TestWriteStreams(t *testing.T) {
	root, top := newRoot(t)
	f, err := os.Create(filepath.Join(top, "big"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 9 << 30 // a hole; beyond what ustar can say
	if err := f.Truncate(size); err != nil {
		t.Skip(err)
	}
	f.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- layer.Write(ctx, w, root, layer.Options{})
	}()
	h, err := tar.NewReader(r).Next()
	if err != nil || h.Size != size {
		t.Error(h, err)
	}
	if _, err := io.CopyN(io.Discard, r, 256<<20); err != nil {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
		t.Errorf("%d bytes were allocated", used)
	}
	cancel()
	r.Close()
	if err := <-done; err == nil {
		t.Error("no error from a closed pipe")
	}
}

func TestOverrideStat(t *testing.T) {
	root, top := newRoot(t)
	for name, value := range map[string]string{
		"char": "5:6:620:char-4-64", "block": "0:0:0660:block-8-1", "file": "1:2:4755", "dir": "33:33:1777:dir", "bad": "x:y:z", "white": "0:0:644:char-0-0",
		"big": "1:1:600:char-5000-1",
	} {
		p := filepath.Join(top, name)
		var err error
		if name == "dir" {
			err = os.Mkdir(p, 0o700)
		} else {
			err = os.WriteFile(p, nil, 0o644)
		}
		if err == nil {
			err = unix.Lsetxattr(p, "user.containers.override_stat", []byte(value), 0)
		}
		if err != nil {
			t.Skip(err)
		}
	}
	got := map[string]*tar.Header{}
	r := tar.NewReader(bytes.NewReader(write(t, root, layer.Options{UserXattr: true})))
	for {
		h, err := r.Next()
		if err != nil {
			break
		}
		got[h.Name] = h
		if len(h.PAXRecords) > 0 {
			t.Errorf("%s: %v", h.Name, h.PAXRecords)
		}
	}
	if h := got["char"]; h.Typeflag != tar.TypeChar || h.Uid != 5 || h.Gid != 6 || h.Mode != 0o620 || h.Devmajor != 4 || h.Devminor != 64 {
		t.Error(h)
	}
	if h := got["block"]; h.Typeflag != tar.TypeBlock || h.Devmajor != 8 || h.Mode != 0o660 {
		t.Error(h)
	}
	if h := got["file"]; h.Typeflag != tar.TypeReg || h.Mode != 0o4755 || h.Uid != 1 || h.Gid != 2 {
		t.Error(h)
	}
	if h := got["dir/"]; h.Typeflag != tar.TypeDir || h.Mode != 0o1777 || h.Uid != 33 {
		t.Error(h)
	}
	for _, name := range []string{"bad", "white", "big"} {
		if h := got[name]; h.Typeflag != tar.TypeReg || h.Mode != 0o644 {
			t.Error(h)
		}
	}
}

// TestUserNamespace runs TestInUserNamespace in one, with 65536 ids.
func TestUserNamespace(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"", "/tmp"} {
		if err := os.MkdirAll(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir+d, 200000, 200000); err != nil {
			t.Fatal(err)
		}
	}
	root, _ := newRoot(t)
	apply(t, root, everything(t), layer.Options{})
	if err := os.WriteFile(dir+"/want.tar", write(t, root, layer.Options{}), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestInUserNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), "LAYER_TEST_USERNS="+dir, "TMPDIR="+dir+"/tmp")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 200000, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{},
	}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("--- PASS: TestInUserNamespace")) {
		t.Errorf("it did not run:\n%s", out)
	}
}

func TestInUserNamespace(t *testing.T) {
	dir := os.Getenv("LAYER_TEST_USERNS")
	if dir == "" {
		t.Skip("is run by TestUserNamespace")
	}
	want, err := os.ReadFile(dir + "/want.tar")
	if err != nil {
		t.Fatal(err)
	}
	opt := layer.Options{UserXattr: true}
	root, top := newRoot(t)
	apply(t, root, want, opt)
	if got := write(t, root, opt); !bytes.Equal(got, want) {
		t.Errorf("other bytes than outside:\n%s\n%s", strings.Join(list(t, got), "\n"), strings.Join(list(t, want), "\n"))
	}
	if st, err := root.Lstat("char"); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		t.Error("a device was made", err)
	}
	if st, err := root.Lstat("gone"); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		t.Error("no whiteout was made", err)
	}
	if n, _ := unix.Lgetxattr(filepath.Join(top, "dir"), "user.overlay.opaque", make([]byte, 9)); n != 1 {
		t.Error("dir is not opaque")
	}
	for _, c := range []struct {
		uid, gid int
		want     string
	}{{70000, 1, "owner 70000:1"}, {1, 70001, "owner 1:70001"}} {
		e := file("x", "")
		e.Uid, e.Gid = c.uid, c.gid
		err := layer.Apply(context.Background(), root, bytes.NewReader(archive(t, e)), opt)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "subordinate") {
			t.Error(err)
		}
	}
	if _, err := rootfs.Open(top); err != nil {
		t.Error(err)
	}
}
