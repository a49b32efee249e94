package load

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/registry"
	"github.com/strake-build/strake/layer/snapshot"
)

// newLoader reads content, a tar, into stores of its own.
func newLoader(t *testing.T, content []byte) *Loader {
	t.Helper()
	from, err := Spool(bytes.NewReader(content), t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, from.Close()) })
	l := &Loader{From: from, Client: registry.New(registry.Options{}), Platform: v1.Platform{OS: "linux", Architecture: "amd64"}}
	l.Blobs, err = blob.Open(t.TempDir())
	must(t, err)
	l.Images, err = image.Open(t.TempDir(), l.Blobs)
	must(t, err)
	snapshots, err := snapshot.Open(t.TempDir(), snapshot.Options{RecordOwners: true, Copy: true})
	must(t, err)
	t.Cleanup(snapshots.Close)
	l.Layers = &image.Layers{Blobs: l.Blobs, Snapshots: snapshots, Dir: t.TempDir()}
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dockerArchive is what docker save writes of an image of a layer whose tar is said to have the sha256 sum.
func dockerArchive(t *testing.T, layer []byte, sum string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct{ name, text string }{
		{"manifest.json", `[{"Config":"config.json","RepoTags":["app:1"],"Layers":["layer.tar"]}]`},
		{"config.json", fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}`, sum)},
		{"layer.tar", string(layer)},
	} {
		must(t, w.WriteHeader(&tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f.text))}))
		_, err := w.Write([]byte(f.text))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// TestLoad gives no image a place: whoever loads does, or removes what was begun.
func TestLoad(t *testing.T) {
	layer := tarOf(t, tar.Header{Name: "file", Mode: 0o644})
	sum := sha256.Sum256(layer)
	for name, c := range map[string]struct {
		sum, want string // what is in the error; empty for none
	}{
		"good":          {hex.EncodeToString(sum[:]), ""},
		"another layer": {strings.Repeat("0", 64), "sha256:" + strings.Repeat("0", 64)},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoader(t, dockerArchive(t, layer, c.sum))
			loaded, err := l.Load(t.Context())
			switch {
			case c.want == "" && (err != nil || len(loaded) != 1 || len(loaded[0].Tags) != 1 || !strings.HasSuffix(loaded[0].Tags[0].Name(), "/app:1")):
				t.Errorf("loaded %+v, %v", loaded, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("loaded %+v, %v; want an error with %q", loaded, err, c.want)
			}
			if begun := l.Begun(); len(begun) != 1 || len(begun[0].Layers) != 1 {
				t.Errorf("begun are %+v", begun)
			}
			if list, err := l.Images.List(); err != nil || len(list) > 0 {
				t.Errorf("there are the images %+v, %v", list, err)
			}
		})
	}
}
