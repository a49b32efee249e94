package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-build/strake/layer"
)

// archive makes a tar of files; a name that ends in "->" is a link.
func archive(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(files[i+1])), Uid: 1234, Gid: 99}
		if name, ok := strings.CutSuffix(files[i], "->"); ok {
			h.Name, h.Typeflag, h.Linkname, h.Size = name, tar.TypeSymlink, files[i+1], 0
		}
		err := w.WriteHeader(h)
		if err == nil && h.Size > 0 {
			_, err = io.WriteString(w, files[i+1])
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

// me owns what tests unpack, who may not give files away.
var me = &layer.Owner{UID: os.Geteuid(), GID: os.Getegid()}

func TestStdin(t *testing.T) {
	ctx := context.Background()
	plain := archive(t, "Dockerfile", "FROM scratch\n", "d/f", "f", "out->", "../../../../../../d", "out/escaped", "x", "../../climbed", "y")
	for name, b := range map[string][]byte{"plain": plain, "gzip": gz(t, plain)} {
		dir := filepath.Join(t.TempDir(), "context")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		df, err := Stdin(ctx, bytes.NewReader(b), dir, layer.Options{Owner: me, Implied: me})
		if err != nil || df != nil {
			t.Errorf("%s: %q, %v", name, df, err)
			continue
		}
		got, err := os.ReadFile(filepath.Join(dir, "d/f"))
		if err != nil || string(got) != "f" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		for _, inside := range []string{"Dockerfile", "d/escaped", "climbed"} {
			if _, err := os.Lstat(filepath.Join(dir, inside)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	text := "FROM scratch\n" + strings.Repeat("# a comment that makes it longer than a header of an archive\n", 100)
	for _, s := range []string{"FROM scratch", text, "x"} {
		df, err := Stdin(ctx, strings.NewReader(s), t.TempDir(), layer.Options{Owner: me, Implied: me})
		if err != nil || string(df) != s {
			t.Errorf("%.20q: %.20q, %v", s, df, err)
		}
	}
	if df, err := Stdin(ctx, bytes.NewReader(archive(t)), t.TempDir(), layer.Options{Owner: me, Implied: me}); err != nil || df != nil {
		t.Errorf("an archive without members: %q, %v", df, err)
	}
}

func TestStdinErrors(t *testing.T) {
	plain := archive(t, "a", strings.Repeat("x", 100000))
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":      {nil, "standard input is empty"},
		"truncated":  {plain[:2000], "unpacking the context from standard input"},
		"gzip text":  {gz(t, []byte("hello")), "but not of a tar archive"},
		"cut gzip":   {gz(t, plain)[:60], "standard input"},
		"gzip magic": {[]byte{0x1f, 0x8b, 8}, "standard input"},
		"zip":        {[]byte("PK\x03\x04\x14\x00\x00\x00"), "neither a Dockerfile nor a tar archive"},
		"long text":  {bytes.Repeat([]byte("RUN x\n"), maxDockerfile/6+1), "too long for a Dockerfile"},
	} {
		df, err := Stdin(context.Background(), bytes.NewReader(c.b), t.TempDir(), layer.Options{Owner: me, Implied: me})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %.20q, %v, want %s", name, df, err, c.want)
		}
	}
	broken := io.MultiReader(strings.NewReader("FROM scratch\n"), readerFunc(func([]byte) (int, error) { return 0, errors.New("broken pipe") }))
	if _, err := Stdin(context.Background(), broken, t.TempDir(), layer.Options{Owner: me, Implied: me}); err == nil || !strings.Contains(err.Error(), "broken pipe") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Stdin(ctx, bytes.NewReader(plain), t.TempDir(), layer.Options{Owner: me, Implied: me}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
