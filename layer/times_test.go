package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strake-build/strake/layer/rootfs"
)

// timed is an entry with a time of its own.
func timed(typ byte, name, link string, at int64) *tar.Header {
	return &tar.Header{Typeflag: typ, Name: name, Linkname: link, Mode: 0o755, ModTime: time.Unix(at, 0)}
}

// unpackTimed unpacks entries, and returns the unpacker as it is after the last of them and the directory.
func unpackTimed(t *testing.T, form Form, entries ...*tar.Header) (*unpacker, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	me := &Owner{os.Getuid(), os.Getgid()}
	u := &unpacker{root: root, opt: Options{Form: form, Owner: me, Implied: me}, owners: root.Owners(), buf: make([]byte, 4096)}
	t.Cleanup(func() {
		u.leave()
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	})
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		err = errors.Join(err, w.WriteHeader(e))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&b)
	for {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return u, dir
		}
		if err == nil {
			err = u.entry(t.Context(), hdr, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestReplacedDirectories unpacks directories that something else takes the place of: what is remembered of them and of all others is set
// and forgotten at once, and what changes later keeps its time all the same.
func TestReplacedDirectories(t *testing.T) {
	replaced := []*tar.Header{timed(tar.TypeDir, "gone", "", 1), timed(tar.TypeReg, "gone", "", 2)}
	for name, c := range map[string]struct {
		form    Form
		entries []*tar.Header
		want    map[string]int64
	}{
		"by a link to another": {Plain, []*tar.Header{
			timed(tar.TypeDir, "x/b", "", 10), timed(tar.TypeDir, "z/b", "", 20), timed(tar.TypeSymlink, "z", "x", 30),
		}, map[string]int64{"x/b": 10}},
		"in a directory with a time": {Plain, []*tar.Header{
			timed(tar.TypeDir, "x", "", 10), timed(tar.TypeDir, "x/b", "", 20), timed(tar.TypeReg, "x/b", "", 30), timed(tar.TypeReg, "x/c", "", 40),
		}, map[string]int64{"x": 10, "x/b": 30}},
		"before a link leads to what is missing": {Overlay, append([]*tar.Header{
			timed(tar.TypeDir, "x", "", 10), timed(tar.TypeSymlink, "l", "x/y", 20),
		}, append(replaced, timed(tar.TypeReg, "l/file", "", 30))...), map[string]int64{"x": 10, "x/y": 30}},
		"before a directory is made opaque": {Marked, append([]*tar.Header{
			timed(tar.TypeDir, "x", "", 10),
		}, append(replaced, timed(tar.TypeReg, ".wh.x", "", 30))...), map[string]int64{"x": 10}},
	} {
		t.Run(name, func(t *testing.T) {
			u, dir := unpackTimed(t, c.form, c.entries...)
			if err := u.flush(); err != nil {
				t.Fatal(err)
			}
			for name, want := range c.want {
				if fi, err := os.Lstat(filepath.Join(dir, name)); err != nil || fi.ModTime().Unix() != want {
					t.Errorf("%s: %v, %v; want %d", name, fi.ModTime().Unix(), err, want)
				}
			}
		})
	}
	t.Run("many", func(t *testing.T) {
		var entries []*tar.Header
		for range 100 {
			entries = append(entries, timed(tar.TypeDir, "a/"+string(rune('a'+len(entries)%26))+string(rune('a'+len(entries)/26)), "", 10))
		}
		u, _ := unpackTimed(t, Plain, append(entries, replaced...)...)
		if n := len(u.times.of); n > 1 { // the root's alone
			t.Errorf("the times of %d directories are looked through when the next one is replaced", n)
		}
	})
}
