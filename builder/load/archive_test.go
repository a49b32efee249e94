package load

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// tarOf makes a tar of headers; the content of a file is its name.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			w.Write([]byte(h.Name))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func indexOf(t testing.TB, content []byte) (*Archive, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "a.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	return indexTar(f)
}

func TestIndexTar(t *testing.T) {
	a, err := indexOf(t, tarOf(t,
		tar.Header{Name: "dir/", Typeflag: tar.TypeDir},
		tar.Header{Name: "dir/file"},
		tar.Header{Name: "./dotted"},
		tar.Header{Name: fmt.Sprintf("%0200d", 1)},
		tar.Header{Name: "../../up"},
		tar.Header{Name: "dir/link", Typeflag: tar.TypeSymlink, Linkname: "file"},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "dir/file"},
		tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../../../etc/passwd"},
		tar.Header{Name: "loop", Typeflag: tar.TypeSymlink, Linkname: "loop"},
		tar.Header{Name: "fifo", Typeflag: tar.TypeFifo},
	))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for name, want := range map[string]string{
		"dir/file": "dir/file", "dotted": "./dotted", "up": "../../up", "dir/link": "dir/file", "hard": "dir/file",
		fmt.Sprintf("%0200d", 1): fmt.Sprintf("%0200d", 1), "/dir/../dir/file": "dir/file",
	} {
		if got, err := a.read(name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"out", "loop", "fifo", "dir", "nowhere", "/etc/passwd"} {
		if got, err := a.read(name); err == nil || a.has(name) {
			t.Errorf("%s can be read: %q", name, got)
		}
	}
}

func TestOpenFolderStaysInside(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600),
		os.Symlink("/etc/passwd", filepath.Join(dir, "out")),
		os.Symlink("file", filepath.Join(dir, "in")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a, err := OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if got, err := a.read("in"); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	for _, name := range []string{"out", "../" + filepath.Base(dir) + "/file", "/etc/passwd", "."} {
		if got, err := a.read(name); err == nil {
			t.Errorf("%s can be read: %q", name, got)
		}
	}
}

func FuzzIndexTar(f *testing.F) {
	f.Add(tarOf(f, tar.Header{Name: "a"}, tar.Header{Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a"}))
	f.Fuzz(func(t *testing.T, content []byte) {
		a, err := indexOf(t, content)
		if err != nil {
			return
		}
		defer a.Close()
		for _, name := range []string{"a", "b", "index.json", "manifest.json"} {
			if a.has(name) {
				a.read(name)
			}
		}
	})
}
