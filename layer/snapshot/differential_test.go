package snapshot_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/snapshot"
)

// twin is the same layers in a store with overlayfs and in one without.
type twin struct {
	t             *testing.T
	overlay, copy *snapshot.Store
	above, beside []snapshot.ID
}

const twinEpoch = 1_600_000_000

func newTwin(t *testing.T) *twin {
	t.Helper()
	needRoot(t)
	w := &twin{t: t}
	var err error
	if w.overlay, err = snapshot.Open(t.TempDir(), snapshot.Options{UserXattr: userXattr()}); err != nil {
		t.Fatal(err)
	}
	if w.copy, err = snapshot.Open(t.TempDir(), snapshot.Options{UserXattr: userXattr(), Copy: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.copy.Close)
	return w
}

// step does the same in both, and returns the tar of the layer, which must be the same.
func (w *twin) step(do func(root string)) []byte {
	w.t.Helper()
	one := w.commit(w.overlay, &w.above, do)
	two := w.commit(w.copy, &w.beside, do)
	if !bytes.Equal(one, two) {
		w.t.Errorf("the layers differ:\nby overlay %s\nby copy    %s", describe(one), describe(two))
	}
	return one
}

func (w *twin) commit(s *snapshot.Store, layers *[]snapshot.ID, do func(root string)) []byte {
	w.t.Helper()
	a, err := s.Prepare(w.t.Context(), *layers)
	if err != nil {
		w.t.Fatal(err)
	}
	defer a.Discard()
	// As a process would write to it, of which nothing is known.
	root, err := a.Mount().Open()
	if err != nil {
		w.t.Fatal(err)
	}
	do(path(root))
	_ = root.Close()
	a.Clamp(twinEpoch)
	id, err := a.Commit(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	*layers = append(*layers, id)
	var b bytes.Buffer
	if err := s.WriteTar(w.t.Context(), id, &b); err != nil {
		w.t.Fatal(err)
	}
	return b.Bytes()
}

// unpack unpacks the same layer in both.
func (w *twin) unpack(b []byte) {
	w.t.Helper()
	for _, s := range []*snapshot.Store{w.overlay, w.copy} {
		id, err := s.Unpack(w.t.Context(), digest(b), opener(b))
		if err != nil {
			w.t.Fatal(err)
		}
		if s == w.overlay {
			w.above = append(w.above, id)
		} else {
			w.beside = append(w.beside, id)
		}
	}
}

// describe lists what a tar holds.
func describe(b []byte) string {
	var s strings.Builder
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return s.String()
		}
		if err != nil {
			return err.Error()
		}
		data, _ := io.ReadAll(io.LimitReader(r, 20))
		fmt.Fprintf(&s, "\n  %s -> %q %c %o %d:%d size %d at %d %q %v", h.Name, h.Linkname, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Size, h.ModTime.Unix(), data, h.PAXRecords)
	}
}

// disturb does random things to the tree, with few names so that they meet. What overlayfs does by its nature otherwise is left out:
// it does not rename directories of layers below, breaks links of files there, and has files in the layer that were only opened.
func disturb(r *rand.Rand, root string, steps int) {
	name := func() string {
		p := root
		for range 1 + r.IntN(3) {
			p = filepath.Join(p, string(rune('a'+r.IntN(4))))
		}
		return p
	}
	// several says that the file has several names: then it is only removed.
	several := func(p string) bool {
		var st unix.Stat_t
		return unix.Lstat(p, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1
	}
	isDir := func(p string) bool {
		fi, err := os.Lstat(p)
		return err == nil && fi.IsDir()
	}
	for range steps {
		p := name()
		op := r.IntN(18)
		if fi, err := os.Stat(filepath.Dir(p)); op > 1 && (err != nil || !fi.IsDir()) {
			continue // to open a fifo for a directory waits for ever
		}
		if several(p) {
			op = 5
		}
		content := bytes.Repeat([]byte(fmt.Sprint(r.IntN(1000))), 1+r.IntN(3))
		switch op { // much of it fails, which does not matter
		case 0, 1:
			_ = os.MkdirAll(p, 0o755)
		case 2, 3:
			if fi, err := os.Stat(p); err != nil || fi.Mode().IsRegular() && !several(p) {
				_ = os.WriteFile(p, content, 0o644)
			}
		case 4:
			_ = os.Symlink(string(rune('a'+r.IntN(3))), p)
		case 5, 6:
			_ = os.RemoveAll(p)
		case 7:
			if q := name(); !isDir(p) && !isDir(q) && !several(q) {
				_ = os.Rename(p, q)
			}
		case 8:
			if !isDir(p) {
				_ = os.Link(p, name())
			}
		case 9:
			if fi, err := os.Lstat(p); err == nil && fi.Mode()&os.ModeSymlink == 0 {
				_ = unix.Chmod(p, []uint32{0o600, 0o4755, 0o2711, 0o1777}[r.IntN(4)])
			}
		case 10:
			_ = os.Lchown(p, r.IntN(3)*100, r.IntN(3)*7)
		case 11:
			_ = unix.Lsetxattr(p, "user.x", content, 0)
		case 12:
			ts := []unix.Timespec{{Sec: 5}, {Sec: int64(r.IntN(2)) * 2 * twinEpoch, Nsec: 7}}
			_ = unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
		case 13:
			_ = unix.Mkfifo(p, 0o640)
		case 14: // sparse
			if f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644); err == nil {
				_, _ = f.WriteAt(content, 300_000)
				_ = f.Close()
			}
		case 15: // in place of a file or a directory
			_ = os.RemoveAll(p)
			if r.IntN(2) == 0 {
				_ = os.Mkdir(p, 0o700)
			} else {
				_ = os.WriteFile(p, content, 0o640)
			}
		case 16: // as editors and package managers replace a file
			if tmp := p + ".tmp"; !isDir(p) {
				_ = os.WriteFile(tmp, content, 0o644)
				_ = os.Rename(tmp, p)
				_ = os.Remove(tmp)
			}
		case 17:
			if fi, err := os.Lstat(p); err == nil && fi.Mode().IsRegular() {
				_ = os.Truncate(p, int64(r.IntN(5)))
			}
		}
	}
}

// TestSameLayers does random things to file systems by overlayfs and to copies: byte for byte, the same layers come of it.
func TestSameLayers(t *testing.T) {
	needOverlay(t)
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newTwin(t)
			for n := range uint64(6) {
				if n == 3 && seed%3 == 0 {
					w.copy.Close() // so that a new copy is made
				}
				if n == 4 && seed%4 == 0 {
					// A layer from elsewhere, which the copy goes on with.
					b, _ := makeTar(t, "a/", "a/b=new", "a/.wh.c=", ".wh.b=", "c/", "c/.wh..wh..opq=", "c/d->x", "d/d/d=3")
					w.unpack(b)
				}
				w.step(func(root string) { disturb(rand.New(rand.NewPCG(seed, n)), root, 25) })
				if t.Failed() {
					t.Fatalf("seed %d, step %d", seed, n)
				}
			}
			equal(t, "view", list(t, w.copy, w.beside...), list(t, w.overlay, w.above...)...)
		})
	}
}
