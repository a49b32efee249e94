package copier

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// copied are copies of which owners, modes and attributes come out the same wherever they are made.
var copied = []Options{
	{Dest: "/x/"},
	{Dest: "/x/", Owner: &layer.Owner{UID: 7, GID: 8}},
	{Dest: "/x/", Mode: mode(0o2510), ParentMode: true},
	{Dest: "/x/", Owner: &layer.Owner{UID: 0, GID: 9}, Mode: mode(0), ParentMode: true},
	{Dest: "/new/folder/", Owner: &layer.Owner{UID: 1000, GID: 1000}, Extract: true},
}

// recordedCopies makes the copies from the layer tar, and returns the tars of the results and the digests of the sources.
func recordedCopies(t *testing.T, tar []byte, opt layer.Options) (tars [][]byte, digests []source.Digest) {
	t.Helper()
	ctx := context.Background()
	open := func() *rootfs.Root {
		dir := filepath.Join(t.TempDir(), "root")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := rootfs.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = root.Close() })
		if opt.RecordOwners {
			root = root.With(rootfs.RecordOwners(!opt.UserXattr))
		}
		return root
	}
	src := open()
	if err := layer.Apply(ctx, src, bytes.NewReader(tar), opt); err != nil {
		t.Fatal(err)
	}
	for _, c := range copied {
		tree := source.FromRoot(src, source.Options{})
		items, err := tree.Select(ctx, source.Selection{Patterns: []string{"/d", "/w/file", "/null", "/a.tar"}})
		if err != nil {
			t.Fatal(err)
		}
		digest, err := tree.Digest(ctx, items)
		if err != nil {
			t.Fatal(err)
		}
		dst := open()
		if err := MakeDir(dst, "/work/dir", &layer.Owner{UID: 12, GID: 13}, nil); err != nil {
			t.Fatal(err)
		}
		c.UserXattr, c.Epoch = opt.UserXattr, new(int64)
		if err := Copy(ctx, dst, tree, items, []Inline{{Name: "inline", Data: []byte("x")}}, c); err != nil {
			t.Fatal(err)
		}
		c.Dest, c.Below = "/d/s/linked/", src // as COPY --link
		if err := Copy(ctx, dst, tree, items[:1], nil, c); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := layer.Write(ctx, &b, dst, layer.Options{Form: opt.Form, UserXattr: opt.UserXattr, RecordOwners: opt.RecordOwners, Epoch: new(int64)}); err != nil {
			t.Fatal(err)
		}
		tars, digests = append(tars, b.Bytes()), append(digests, digest)
	}
	return tars, digests
}

// recordedSource is the tar of a layer with every kind of file in it.
func recordedSource(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	build(t, dir, "d/%2570@3:4 d/f=f%4755@5:6 d/closed=c%0@5:6 d/ro=r%444@1:1 d/l->f@9:9 d/p!%600@2:2 d/h|d/f d/s/@8:8%0 d/s/x=x%200 d/mine=m w/ w/file=w%400@1:0")
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	null := filepath.Join(dir, "null")
	err := errors.Join(
		unix.Setxattr(filepath.Join(dir, "d/ro"), "security.capability", capability, 0),
		unix.Setxattr(filepath.Join(dir, "d/closed"), "user.x", []byte("y"), 0),
		unix.Setxattr(filepath.Join(dir, "d/s"), "user.folder", []byte("y"), 0),
		unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), os.Chown(null, 0, 5),
		os.WriteFile(filepath.Join(dir, "a.tar"), archive(t, "m/", "", "m/f", "text", "m/l->", "f"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var b bytes.Buffer
	if err := layer.Write(context.Background(), &b, root, layer.Options{}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestRecordedOwners makes the same copies where owners are real, where they are recorded, and as users who can only record them.
func TestRecordedOwners(t *testing.T) {
	const env = "STRAKE_TEST_RECORDED"
	if dir := os.Getenv(env); dir != "" {
		tar, err := os.ReadFile(filepath.Join(dir, "tar"))
		if err != nil {
			t.Fatal(err)
		}
		opt := layer.Options{Form: layer.Marked, RecordOwners: true, UserXattr: os.Getuid() == 0}
		tars, digests := recordedCopies(t, tar, opt)
		for i := range tars {
			if err := os.WriteFile(filepath.Join(dir, string(rune('0'+i))), append(digests[i][:], tars[i]...), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	needRoot(t)
	tar := recordedSource(t)
	want, digests := recordedCopies(t, tar, layer.Options{})
	if !bytes.Contains(want[0], []byte("security.capability=")) {
		t.Error("the copies have no file capability")
	}
	check := func(i int, got []byte, digest source.Digest) {
		t.Helper()
		if digest != digests[i] {
			t.Errorf("copy %d: another digest of the sources", i)
		}
		if !bytes.Equal(got, want[i]) {
			t.Errorf("copy %d: another tar: %s, want %s", i, listing(t, got), listing(t, want[i]))
		}
	}
	tars, sums := recordedCopies(t, tar, layer.Options{UserXattr: true, RecordOwners: true})
	for i := range tars {
		check(i, tars[i], sums[i])
	}
	const nobody = 65534
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}}
	for name, attr := range map[string]*syscall.SysProcAttr{
		"no namespace": {Credential: &syscall.Credential{Uid: nobody, Gid: nobody}},
		"one id": {
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
			Credential: &syscall.Credential{NoSetGroups: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "strake-recorded-") //nolint:usetesting // t.TempDir is in a folder that only its owner enters
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			if err := errors.Join(os.WriteFile(filepath.Join(dir, "tar"), tar, 0o644), os.Chown(dir, nobody, nobody)); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestRecordedOwners$")
			cmd.Dir, cmd.SysProcAttr = "/", attr
			cmd.Env = []string{env + "=" + dir, "TMPDIR=" + dir, "GORACE=atexit_sleep_ms=0"} // with the race detector it would sleep for a second at its end
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for i := range want {
				b, err := os.ReadFile(filepath.Join(dir, string(rune('0'+i))))
				if err != nil {
					t.Fatal(err)
				}
				check(i, b[len(source.Digest{}):], source.Digest(b[:len(source.Digest{})]))
			}
		})
	}
}

// listing is what tar(1) says of a tar.
func listing(t *testing.T, b []byte) string {
	t.Helper()
	cmd := exec.Command("tar", "tv", "--numeric-owner", "--xattrs")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Log(err)
	}
	return "\n" + string(out)
}
