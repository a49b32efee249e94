package builder_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

// lab makes machines that run programs, in the boxes of the rung that this process is on.
type lab struct {
	isolation runner.Isolation
	box       *runner.Linux
	layers    string  // a store with the base's layer alone
	diffID    v1.Hash // of that
}

func newLab(t testing.TB) *lab {
	t.Helper()
	needRoot(t)
	l := &lab{}
	var err error
	here := rungHere()
	l.isolation, err = runner.Choose(here.want, nil)
	must(t, err)
	if kept := (snapshot.Options{UserXattr: l.isolation.UserNS, RecordOwners: l.isolation.RecordsOwners(), Copy: l.isolation.NoOverlay}); kept != here.layers {
		t.Fatalf("this is %+v, which keeps layers with %+v and not %+v", l.isolation, kept, here.layers)
	}
	l.box = &runner.Linux{Isolation: l.isolation, Dir: t.TempDir()}
	t.Cleanup(func() { must(t, l.box.Close()) })
	files := baseFiles(t)
	sum := sha256.Sum256(files)
	l.diffID = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
	l.layers = t.TempDir()
	store, err := snapshot.Open(l.layers, here.layers)
	must(t, err)
	_, err = store.Unpack(t.Context(), l.diffID, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil })
	must(t, err)
	store.Close()
	return l
}

// baseFiles is a layer with busybox, as strake writes layers.
func baseFiles(t testing.TB) []byte {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is not installed (apt-get install busybox-static)")
	}
	program, err := os.ReadFile(path)
	must(t, err)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, data []byte) {
		h.Size, h.ModTime = int64(len(data)), time.Unix(1_600_000_000, 0)
		must(t, w.WriteHeader(&h))
		_, err := w.Write(data)
		must(t, err)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755}, nil)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	for _, name := range []string{"cat", "chmod", "find", "grep", "ln", "mkdir", "rm", "sh", "sort", "stat"} {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777}, nil)
	}
	must(t, w.Close())
	return b.Bytes()
}

// world is an empty machine, but for the base, whose files all machines share.
func (l *lab) world(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	duplicate(t, l.layers, filepath.Join(dir, "layers"), "-l")
	w := worldIn(t, dir)
	w.base = &image.Image{Layers: []image.Layer{{DiffID: l.diffID}}}
	w.base.Config.RootFS = v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{l.diffID}}
	w.box, w.NoRun = l.box, l.isolation.CheckRun()
	return w
}

// fork is a machine that has built what w has, and from then on builds for itself.
func (w *world) fork(t testing.TB) *world {
	t.Helper()
	b := *w.Builder
	n := &world{Builder: &b, t: t, dir: t.TempDir(), context: t.TempDir(), now: w.now, base: w.base, box: w.box}
	n.copyContext(w)
	duplicate(t, filepath.Join(w.dir, "cache"), filepath.Join(n.dir, "cache"))
	n.settle()
	return n
}

// duplicate copies a folder with all that is to be known of its files.
func duplicate(t testing.TB, from, to string, more ...string) {
	t.Helper()
	if out, err := exec.Command("cp", append(more, "-aT", from, to)...).CombinedOutput(); err != nil {
		t.Fatalf("copying %s: %v: %s", from, err, out)
	}
}
