package export_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	reg "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/registry"
	"github.com/strake-build/strake/layer/snapshot"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixture is an exporter over a real store with an image of two layers, the second of which removes a file of the first.
func fixture(t *testing.T) (*export.Exporter, *image.Image) {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal("this test mounts overlays and needs root")
		}
		t.Skip("needs root: it mounts overlays")
	}
	dir := t.TempDir()
	snapshots, err := snapshot.Open(filepath.Join(dir, "layers"), snapshot.Options{})
	must(t, err)
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	must(t, err)
	e := &export.Exporter{
		Layers: &image.Layers{Blobs: blobs, Snapshots: snapshots, Dir: filepath.Join(dir, "compressed")},
		Blobs:  blobs, Snapshots: snapshots, Client: registry.New(registry.Options{}), Temp: dir,
	}
	img := &image.Image{Config: v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}}}
	var ids []snapshot.ID
	for _, change := range []func(root string){
		func(root string) {
			must(t, os.MkdirAll(filepath.Join(root, "dir"), 0o755))
			must(t, os.WriteFile(filepath.Join(root, "dir/kept"), []byte("kept"), 0o640))
			must(t, os.WriteFile(filepath.Join(root, "gone"), bytes.Repeat([]byte("x"), 1<<20), 0o644))
		},
		func(root string) {
			must(t, os.Remove(filepath.Join(root, "gone")))
			must(t, os.Symlink("dir/kept", filepath.Join(root, "link")))
		},
	} {
		active, err := snapshots.Prepare(t.Context(), ids)
		must(t, err)
		root, err := active.Open()
		must(t, err)
		change("/proc/self/fd/" + itoa(int(root.File().Fd())))
		must(t, root.Close())
		id, err := active.Commit(t.Context())
		must(t, err)
		ids = append(ids, id)
		diffID, _, err := snapshots.DiffID(t.Context(), id)
		must(t, err)
		img.Layers = append(img.Layers, image.Layer{DiffID: diffID})
		img.Config.RootFS.DiffIDs = append(img.Config.RootFS.DiffIDs, diffID)
	}
	img.RawConfig, err = json.Marshal(img.Config)
	must(t, err)
	img.ID, _, err = v1.SHA256(bytes.NewReader(img.RawConfig))
	must(t, err)
	return e, img
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func tag(t *testing.T, s string) name.Tag {
	t.Helper()
	n, err := name.NewTag(s)
	must(t, err)
	return n
}

func readTar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		must(t, err)
		if h.Typeflag == tar.TypeSymlink {
			files[h.Name] = []byte("-> " + h.Linkname)
			continue
		}
		files[h.Name], err = io.ReadAll(tr)
		must(t, err)
	}
}

// checkLayout follows a layout from index.json to its layers, every digest checked.
func checkLayout(t *testing.T, files map[string][]byte, img *image.Image) v1.IndexManifest {
	t.Helper()
	get := func(d v1.Descriptor) []byte {
		data, ok := files[path.Join("blobs/sha256", d.Digest.Hex)]
		sum := sha256.Sum256(data)
		if !ok || int64(len(data)) != d.Size || hex.EncodeToString(sum[:]) != d.Digest.Hex {
			t.Fatalf("blob %v is missing or wrong", d)
		}
		return data
	}
	var idx v1.IndexManifest
	must(t, json.Unmarshal(files["index.json"], &idx))
	for _, d := range idx.Manifests {
		var m v1.Manifest
		must(t, json.Unmarshal(get(d), &m))
		if m.Config.Digest != img.ID {
			t.Errorf("configuration %s, want %s", m.Config.Digest, img.ID)
		}
		get(m.Config)
		for i, l := range m.Layers {
			r, _, err := compress.NewReader(bytes.NewReader(get(l)))
			must(t, err)
			diffID, _, err := v1.SHA256(r)
			must(t, err)
			if diffID != img.Layers[i].DiffID {
				t.Errorf("layer %d has diffID %s", i, diffID)
			}
		}
	}
	return idx
}

func TestLayoutTar(t *testing.T) {
	e, img := fixture(t)
	l := export.Options{Codec: compress.Gzip, Archive: true}
	one := []export.Artifact{export.One(img, tag(t, "app:1"), tag(t, "registry.example.org/x/app:2"))}
	var first, second bytes.Buffer
	res, err := e.LayoutTar(t.Context(), &first, one, l)
	must(t, err)
	_, err = e.LayoutTar(t.Context(), &second, one, l)
	must(t, err)
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two exports differ")
	}
	files := readTar(t, &first)
	idx := checkLayout(t, files, img)
	if len(idx.Manifests) != 2 || idx.Manifests[0].Digest != res.Descriptor.Digest {
		t.Errorf("index %+v", idx)
	}
	if got := idx.Manifests[0].Annotations["io.containerd.image.name"]; got != "docker.io/library/app:1" {
		t.Errorf("image name %q", got)
	}
	var docker []struct {
		Config           string
		RepoTags, Layers []string
	}
	must(t, json.Unmarshal(files["manifest.json"], &docker))
	if len(docker) != 1 || strings.Join(docker[0].RepoTags, " ") != "app:1 registry.example.org/x/app:2" || len(docker[0].Layers) != 2 {
		t.Errorf("manifest.json %+v", docker)
	}
	for _, f := range append(docker[0].Layers, docker[0].Config) {
		if _, ok := files[f]; !ok {
			t.Errorf("manifest.json names %s, which is not there", f)
		}
	}
}

func TestLayoutFolder(t *testing.T) {
	e, img := fixture(t)
	dir := filepath.Join(t.TempDir(), "out")
	for range 2 { // also over itself
		_, err := e.LayoutFolder(t.Context(), dir, []export.Artifact{export.One(img)}, export.Options{Codec: compress.Zstd})
		must(t, err)
	}
	files := map[string][]byte{}
	must(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		files[rel], err = os.ReadFile(p)
		return err
	}))
	checkLayout(t, files, img)
	if len(files) != 2+4 { // oci-layout, index.json; manifest, configuration, two layers
		t.Errorf("%d files", len(files))
	}
}

func TestTarAndFiles(t *testing.T) {
	e, img := fixture(t)
	var buf bytes.Buffer
	must(t, e.Tar(t.Context(), &buf, img, nil))
	files := readTar(t, &buf)
	if string(files["dir/kept"]) != "kept" || string(files["link"]) != "-> dir/kept" || files["gone"] != nil || files[".wh.gone"] != nil {
		t.Errorf("tar holds %v", files)
	}
	dir := filepath.Join(t.TempDir(), "out")
	must(t, e.Files(t.Context(), dir, img, nil, time.Now))
	if data, err := os.ReadFile(filepath.Join(dir, "link")); err != nil || string(data) != "kept" {
		t.Errorf("folder: %q, %v", data, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "gone")); err == nil {
		t.Error("folder: a removed file is there")
	}
}

// With an epoch every file of a tar or a folder has this time, be it later or earlier than its own.
func TestEpoch(t *testing.T) {
	e, img := fixture(t)
	for _, epoch := range []int64{1_000_000_000, 4_000_000_000} {
		want := time.Unix(epoch, 0)
		a := export.Artifact{Images: []*image.Image{img}, Index: true, Epochs: []*int64{&epoch}}
		var b bytes.Buffer
		must(t, e.SplitTar(t.Context(), &b, a, func(*image.Image) string { return "one" }))
		tr, n := tar.NewReader(&b), 0
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			if n++; !h.ModTime.Equal(want) {
				t.Errorf("tar: %s has the time %v", h.Name, h.ModTime)
			}
		}
		if n != 4 { // one, one/dir, one/dir/kept, one/link
			t.Errorf("tar: %d entries", n)
		}
		dir := filepath.Join(t.TempDir(), "out")
		must(t, e.Files(t.Context(), dir, img, &epoch, time.Now))
		must(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if st, err := d.Info(); err != nil || !st.ModTime().Equal(want) {
				t.Errorf("folder: %s: %v, %v", p, st, err)
			}
			return nil
		}))
	}
}

func TestPushSendsNothingTwice(t *testing.T) {
	e, img := fixture(t)
	srv := httptest.NewServer(reg.New())
	defer srv.Close()
	ref := tag(t, strings.TrimPrefix(srv.URL, "http://")+"/app:1")
	sent := func() (n int64) {
		seen := map[v1.Hash]int64{}
		var mu sync.Mutex // layers are pushed at once
		_, err := e.Push(t.Context(), export.One(img), ref, export.Options{Codec: compress.Gzip}, func(l v1.Hash, current int64) {
			mu.Lock()
			defer mu.Unlock()
			seen[l] = max(seen[l], current)
		})
		must(t, err)
		for _, c := range seen {
			n += c
		}
		return n
	}
	if sent() == 0 {
		t.Error("the first push sent nothing")
	}
	m, err := e.Client.Resolve(t.Context(), ref, v1.Platform{OS: "linux", Architecture: "amd64"})
	must(t, err)
	if m.Manifest.Config.Digest != img.ID {
		t.Errorf("pushed configuration %s", m.Manifest.Config.Digest)
	}
	if d, ok := e.Layers.Descriptor(img.Layers[0], compress.Gzip.Encoder()); !ok || d.Digest != m.Manifest.Layers[0].Digest {
		t.Errorf("the blob's digest is not remembered: %v", d)
	}
}

// A failed export leaves no file behind.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	broken := errors.New("broken")
	err := export.WriteFile(filepath.Join(dir, "f"), func(w io.Writer) error {
		_, _ = io.WriteString(w, "half")
		return broken
	})
	left, _ := os.ReadDir(dir)
	if !errors.Is(err, broken) || len(left) != 0 {
		t.Errorf("%v, left %v", err, left)
	}
}

// What is no regular file is written to, and not replaced: /dev/null belongs to everybody.
func TestWriteFileInPlace(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	must(t, unix.Mkfifo(pipe, 0o600))
	reader, err := os.OpenFile(pipe, os.O_RDWR, 0)
	must(t, err)
	defer reader.Close()
	file, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	defer file.Close()
	for path, from := range map[string]*os.File{pipe: reader, fmt.Sprintf("/proc/self/fd/%d", file.Fd()): file} {
		before, err := os.Stat(path)
		must(t, err)
		must(t, export.WriteFile(path, func(w io.Writer) error {
			_, err := io.WriteString(w, "text")
			return err
		}))
		if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
			t.Fatalf("%s is another file now: %v", path, err)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(from, got); err != nil || string(got) != "text" {
			t.Errorf("%s: read %q, %v", path, got, err)
		}
	}
}

func TestCanceledExport(t *testing.T) {
	e, img := fixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.LayoutTar(ctx, io.Discard, []export.Artifact{export.One(img)}, export.Options{Codec: compress.Gzip}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
