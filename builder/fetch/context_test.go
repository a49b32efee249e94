package fetch

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/compress"
)

// archive is a tar of files, all of the year 2020 but the last, a folder.
func archive(t *testing.T, a compress.Algorithm, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.Writer = &b
	if a != compress.None {
		z, err := a.Encoder().NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		w = z
	}
	tw := tar.NewWriter(w)
	for i, n := range names {
		h := &tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o640, Size: int64(len(n)), ModTime: time.Unix(1577934245+int64(i), 0)}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(tw, n)
	}
	if err := tw.WriteHeader(&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(1900000000, 0)}); err != nil {
		t.Fatal(err)
	}
	tw.Close()
	if z, ok := w.(io.Closer); ok {
		z.Close()
	}
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	mine := &layer.Owner{UID: os.Getuid(), GID: os.Getgid()}
	for name, data := range map[string][]byte{
		"tar": archive(t, compress.None, "f", "d/g", "../out"), "gzip": archive(t, compress.Gzip, "f", "d/g", "../out"),
		"zstd": archive(t, compress.Zstd, "f", "d/g", "../out"),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			is, err := unpack(t.Context(), bytes.NewReader(data), dir, layer.Options{Owner: mine, Implied: mine})
			if err != nil || !is {
				t.Fatal(is, err)
			}
			if got := list(t, dir); got != "d 755, d/g 640 d/g, f 640 f, out 640 ../out" {
				t.Errorf("unpacked: %s", got)
			}
			if is, err := unpack(t.Context(), bytes.NewReader(data[:len(data)/3]), t.TempDir(), layer.Options{Owner: mine, Implied: mine}); !is || err == nil {
				t.Errorf("cut: %v, %v", is, err)
			}
		})
	}
	for _, text := range []string{"", "FROM scratch\n", strings.Repeat("# long\n", 10_000)} {
		dir := t.TempDir()
		if is, err := unpack(t.Context(), strings.NewReader(text), dir, layer.Options{Owner: mine, Implied: mine}); is || err != nil {
			t.Error(is, err)
		}
		if got := read(t, filepath.Join(dir, ContextName)); got != text {
			t.Errorf("got %q", got)
		}
	}
}

func TestFileContext(t *testing.T) {
	tarball := archive(t, compress.Gzip, "Dockerfile", "f")
	modified := ""
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if modified != "" {
			w.Header().Set("Last-Modified", modified)
		}
		if r.URL.Path == "/Dockerfile" {
			io.WriteString(w, "FROM scratch")
			return
		}
		w.Write(tarball)
	})
	mine := &layer.Owner{UID: os.Getuid(), GID: os.Getgid()}
	tests := []struct {
		path, modified string
		archive        bool
		files          string
		epoch          int64
	}{
		{"/c.tar", "", true, "Dockerfile 640 Dockerfile, d 755, f 640 f", 1577934246},
		{"/c.tar", long, true, "Dockerfile 640 Dockerfile, d 755, f 640 f", 1577934245},
		{"/Dockerfile", long, false, "context 600 FROM scratch", 1577934245},
		{"/Dockerfile", "", false, "context 600 FROM scratch", time.Time{}.Unix()},
	}
	for _, tt := range tests {
		modified = tt.modified
		c := client(t, Options{})
		f, err := c.HTTP(t.Context(), HTTPRequest{URL: s.URL + tt.path, Name: ContextName})
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		is, err := f.Unpack(t.Context(), dir, layer.Options{Owner: mine, Implied: mine})
		if err != nil || is != tt.archive || list(t, dir) != tt.files || f.Name != "context" {
			t.Errorf("%s: %v, %v: %s", tt.path, is, err, list(t, dir))
		}
		if at, err := f.Epoch(t.Context()); err != nil || at.Unix() != tt.epoch {
			t.Errorf("%s: the epoch is %v (%v)", tt.path, at, err)
		}
		if n := len(strings.Split(s.asked(), ",")); n != 1 {
			t.Errorf("%s: asked %d times", tt.path, n)
		}
		if !tt.archive {
			fi, err := os.Stat(filepath.Join(dir, ContextName))
			if want := max(tt.epoch, 0); err != nil || fi.ModTime().Unix() != want {
				t.Errorf("the Dockerfile is of %v (%v)", fi.ModTime(), err)
			}
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte("FROM scratch"))
	f.Add([]byte{0x1f, 0x8b, 8})
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "d")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_, _ = unpack(t.Context(), bytes.NewReader(data), dir, layer.Options{Owner: &layer.Owner{UID: os.Getuid(), GID: os.Getgid()}})
		if names, err := os.ReadDir(parent); err != nil || len(names) != 1 {
			t.Errorf("%v left the folder (%v)", names, err)
		}
	})
}
