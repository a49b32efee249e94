package copier

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-build/strake/layer"
)

// archive makes a tar: name and content by turns; a name that ends in "/" is a folder, one in "->" a link.
func archive(t testing.TB, members ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(members); i += 2 {
		h := &tar.Header{Name: members[i], Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(members[i+1])), Uid: 7, Gid: 8}
		if name, ok := strings.CutSuffix(h.Name, "->"); ok {
			h.Name, h.Typeflag, h.Linkname, h.Size = name, tar.TypeSymlink, members[i+1], 0
		}
		if strings.HasSuffix(h.Name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		err := w.WriteHeader(h)
		if err == nil && h.Size > 0 {
			_, err = io.WriteString(w, members[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestExtract(t *testing.T) {
	needRoot(t)
	f := archive(t, "f", "f", "d/", "", "d/g", "g")
	for _, c := range []struct {
		name  string
		files map[string][]byte
		to    string
		src   []string
		dest  string
		opt   Options
		want  string
	}{
		{name: "slash", files: map[string][]byte{"t.tar": f}, src: []string{"t.tar"}, dest: "/x/", want: "x/ x/d/@7:8 x/d/g=g@7:8 x/f=f@7:8"},
		{name: "no slash", files: map[string][]byte{"t": f}, src: []string{"t"}, dest: "/x", want: "x/ x/d/@7:8 x/d/g=g@7:8 x/f=f@7:8"},
		{name: "to root", files: map[string][]byte{"t": f}, src: []string{"t"}, dest: "/", want: "d/@7:8 d/g=g@7:8 f=f@7:8"},
		{name: "gzip", files: map[string][]byte{"t.txt": gz(t, f)}, src: []string{"t.txt"}, dest: "/x/", want: "x/ x/d/@7:8 x/d/g=g@7:8 x/f=f@7:8"},
		{
			name: "owner", files: map[string][]byte{"t": f}, src: []string{"t"}, dest: "/p/x", opt: Options{Owner: &layer.Owner{UID: 1, GID: 2}},
			want: "p/@1:2 p/x/@1:2 p/x/d/@1:2 p/x/d/g=g@1:2 p/x/f=f@1:2",
		},
		{
			name: "mode is not heeded", files: map[string][]byte{"t": f}, src: []string{"t"}, dest: "/x", opt: Options{Mode: mode(0o711), ParentMode: true},
			want: "x/ x/d/@7:8 x/d/g=g@7:8 x/f=f@7:8",
		},
		{
			name: "wildcard", files: map[string][]byte{"a.tar": archive(t, "a", "a"), "b.tar": archive(t, "b", "b"), "c.tar": []byte("text")}, src: []string{"*.tar"}, dest: "/x/",
			want: "x/ x/a=a@7:8 x/b=b@7:8 x/c.tar=text",
		},
		{name: "empty archive", files: map[string][]byte{"t.tar": archive(t)}, src: []string{"t.tar"}, dest: "/x/", want: "x/ x/t.tar=" + string(archive(t))},
		{name: "empty file", files: map[string][]byte{"t.tar": nil}, src: []string{"t.tar"}, dest: "/x/", want: "x/ x/t.tar="},
		{name: "compressed text", files: map[string][]byte{"f.gz": gz(t, []byte("just text"))}, src: []string{"f.gz"}, dest: "/y", want: "y=" + strings.TrimSpace(string(gz(t, []byte("just text"))))},
		{name: "in a folder", files: map[string][]byte{"d/t": f}, src: []string{"d"}, dest: "/x/", want: "x/ x/t=" + strings.TrimSpace(string(f))},
		{name: "link to folder", files: map[string][]byte{"t": f}, to: "real/ x->/real", src: []string{"t"}, dest: "/x", want: "real/ real/d/@7:8 real/d/g=g@7:8 real/f=f@7:8 x->/real"},
		{name: "climbing", files: map[string][]byte{"t": archive(t, "../../escaped", "bad")}, src: []string{"t"}, dest: "/x/y/", want: "x/ x/y/ x/y/escaped=bad@7:8"},
		{
			name: "other types", files: map[string][]byte{"t": archive(t, "wasdir", "file", "wasfile/", "", "wasfile/f", "f")}, to: "x/wasdir/sub/ x/wasfile=a", src: []string{"t"}, dest: "/x",
			want: "x/ x/wasdir=file@7:8 x/wasfile/@7:8 x/wasfile/f=f@7:8",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			src, dst := t.TempDir(), t.TempDir()
			for name, b := range c.files {
				p := filepath.Join(src, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, b, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			build(t, dst, c.to)
			opt := c.opt
			opt.Dest, opt.Extract = c.dest, true
			if err := docopy(src, dst, true, c.src, opt); err != nil {
				t.Fatal(err)
			}
			if got := show(t, dst); got != c.want {
				t.Errorf("got  %.200s\nwant %.200s", got, c.want)
			}
		})
	}
}

func TestExtractErrors(t *testing.T) {
	needRoot(t)
	f := archive(t, "f", strings.Repeat("f", 2000))
	for _, c := range []struct {
		name, to, want string
		b              []byte
	}{
		{"to a file", "x=f", "not a directory", f},
		{"truncated", "", "unpacking", f[:900]},
	} {
		src, dst := t.TempDir(), t.TempDir()
		if err := os.WriteFile(filepath.Join(src, "t"), c.b, 0o644); err != nil {
			t.Fatal(err)
		}
		build(t, dst, c.to)
		err := docopy(src, dst, true, []string{"t"}, Options{Dest: "/x", Extract: true})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// COPY never unpacks.
	src, dst := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "t"), f, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := docopy(src, dst, true, []string{"t"}, Options{Dest: "/x/"}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dst, "x/t")); err != nil || !bytes.Equal(b, f) {
		t.Error(err)
	}
}
