package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/lease"
	"github.com/strake-build/strake/layer/snapshot"
)

// needRoot skips a test that unpacks layers, unless it runs where everything has to.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// remote is a registry of one repository; it counts.
type remote struct {
	mu    sync.Mutex
	blobs map[v1.Hash][]byte
	asked int
}

func (r *remote) FetchBlob(_ context.Context, repository string, d v1.Descriptor) (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	b, ok := r.blobs[d.Digest]
	if !ok || repository != "reg.example/repo" {
		return nil, errors.New("404")
	}
	return io.NopCloser(iotest.HalfReader(bytes.NewReader(b))), nil
}

func digest(b []byte) v1.Hash {
	d := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(d[:])}
}

// layerTar is a tar with one file.
func layerTar(t testing.TB, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content)), Format: tar.FormatPAX}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compressed(t testing.TB, a compress.Algorithm, b []byte) []byte {
	t.Helper()
	if a == compress.None {
		return b
	}
	var out bytes.Buffer
	w, err := a.Encoder().NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(b)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type world struct {
	dir    string
	images *image.Store
	blobs  *blob.Store
	layers *image.Layers
	remote *remote
}

func newWorld(t testing.TB) *world {
	t.Helper()
	needRoot(t)
	images, blobs, dir := newStore(t)
	snapshots, err := snapshot.Open(filepath.Join(dir, "layers"), snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{blobs: map[v1.Hash][]byte{}}
	return &world{dir, images, blobs, &image.Layers{Blobs: blobs, Snapshots: snapshots, Remote: r, Dir: filepath.Join(dir, "compressed")}, r}
}

// process is the same store as another process sees it, with a lease of its own.
func (w *world) process(t testing.TB) *world {
	t.Helper()
	l, err := lease.Open(filepath.Join(w.dir, "leases"))
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := blob.Open(filepath.Join(w.dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	blobs.Lease = l
	images, err := image.Open(filepath.Join(w.dir, "images"), blobs)
	if err != nil {
		t.Fatal(err)
	}
	snapshots, err := snapshot.Open(filepath.Join(w.dir, "layers"), snapshot.Options{Lease: l})
	if err != nil {
		t.Fatal(err)
	}
	layers := *w.layers
	layers.Blobs, layers.Snapshots = blobs, snapshots
	return &world{w.dir, images, blobs, &layers, w.remote}
}

// remoteLayer puts a layer into the registry.
func (w *world) remoteLayer(t testing.TB, a compress.Algorithm, content string) image.Layer {
	t.Helper()
	b := layerTar(t, content)
	c := compressed(t, a, b)
	w.remote.blobs[digest(c)] = c
	return image.Layer{
		DiffID: digest(b), Origin: "reg.example/repo",
		Blob: &v1.Descriptor{MediaType: types.OCILayer, Digest: digest(c), Size: int64(len(c))},
	}
}

// madeLayer commits a layer with one file.
func (w *world) madeLayer(t testing.TB, content string) (image.Layer, snapshot.ID) {
	t.Helper()
	a, err := w.layers.Snapshots.Prepare(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Discard()
	root, err := a.Open()
	if err != nil {
		t.Fatal(err)
	}
	f, err := root.OpenFile("file", os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(content)
	}
	if err := errors.Join(err, f.Close(), root.Close()); err != nil {
		t.Fatal(err)
	}
	id, err := a.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h, _, err := w.layers.Snapshots.DiffID(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return image.Layer{DiffID: h}, id
}

// left fails the test if anything unfinished is in the store, or a blob or layer if none is wanted.
func (w *world) left(t testing.TB, anything bool) {
	t.Helper()
	w.layers.Snapshots.Close() // waits for what is removed while others go on
	_ = filepath.WalkDir(w.dir, func(p string, d fs.DirEntry, err error) error {
		if parent := filepath.Base(filepath.Dir(p)); parent == "tmp" {
			t.Error("left:", p)
		}
		return err
	})
	if anything {
		return
	}
	_ = w.blobs.Walk(func(h v1.Hash, _ int64) error { t.Error("left blob", h); return nil })
	_ = w.layers.Snapshots.Walk(func(id snapshot.ID) error { t.Error("left layer", id); return nil })
}

func readAll(t testing.TB, r io.ReadCloser, err error) ([]byte, error) {
	t.Helper()
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

func TestUnpackedFetchesOnce(t *testing.T) {
	for _, a := range []compress.Algorithm{compress.Gzip, compress.Zstd, compress.None} {
		t.Run(string(a), func(t *testing.T) {
			w := newWorld(t)
			l := w.remoteLayer(t, a, strings.Repeat("content ", 1000))
			var mu sync.Mutex
			var last, total int64
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					if _, err := w.layers.Unpacked(t.Context(), l, func(c, n int64) { mu.Lock(); last, total = c, n; mu.Unlock() }); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if w.remote.asked != 1 || last != l.Blob.Size || total != l.Blob.Size {
				t.Errorf("asked %d times, %d of %d bytes", w.remote.asked, last, total)
			}
			w.left(t, true)
			if _, err := w.blobs.Size(l.Blob.Digest); err != nil {
				t.Error("the blob was not kept:", err)
			}
			r, err := w.layers.Compressed(t.Context(), l, compress.Zstd.Encoder())
			if b, err := readAll(t, r, err); err != nil || digest(b) != l.Blob.Digest {
				t.Error("Compressed:", err)
			}
			r, err = w.layers.Uncompressed(t.Context(), l)
			if b, err := readAll(t, r, err); err != nil || digest(b) != l.DiffID {
				t.Error("Uncompressed:", err)
			}
			if w.remote.asked != 1 {
				t.Error("asked again")
			}
		})
	}
}

func TestBadLayers(t *testing.T) {
	w := newWorld(t)
	good := w.remoteLayer(t, compress.Gzip, "good")
	other := w.remoteLayer(t, compress.Gzip, "other")
	change := func(f func(l *image.Layer, d *v1.Descriptor)) image.Layer {
		l, d := good, *good.Blob
		l.Blob = &d
		f(&l, &d)
		return l
	}
	serve := func(key string, b []byte) image.Layer {
		h := digest([]byte(key))
		w.remote.blobs[h] = b
		return change(func(_ *image.Layer, d *v1.Descriptor) { d.Digest = h })
	}
	whole := w.remote.blobs[good.Blob.Digest]
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		canceled bool
		l        image.Layer
		want     string
	}{
		"wrong diffID":     {false, change(func(l *image.Layer, _ *v1.Descriptor) { l.DiffID = other.DiffID }), good.DiffID.Hex},
		"wrong digest":     {false, serve("wrong", whole), "it has the digest " + good.Blob.Digest.String()},
		"ends early":       {false, serve("early", whole[:len(whole)-9]), "of its"},
		"too long":         {false, serve("long", append(bytes.Clone(whole), 'x')), "longer"},
		"garbage":          {false, serve("garbage", bytes.Repeat([]byte{'x'}, len(whole))), "it has the digest"},
		"not there":        {false, change(func(_ *image.Layer, d *v1.Descriptor) { d.Digest = digest(nil) }), "404"},
		"foreign":          {false, change(func(_ *image.Layer, d *v1.Descriptor) { d.Digest, d.MediaType = digest(nil), types.DockerForeignLayer }), "may not be distributed"},
		"no origin":        {false, change(func(l *image.Layer, _ *v1.Descriptor) { l.Origin = "" }), "blob not found"},
		"no blob":          {false, image.Layer{DiffID: good.DiffID}, "neither unpacked"},
		"canceled":         {true, good, "canceled"},
		"a path as digest": {false, change(func(_ *image.Layer, d *v1.Descriptor) { d.Digest.Hex = "../x" }), "not a sha256"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if c.canceled {
				ctx = canceled
			}
			_, err := w.layers.Unpacked(ctx, c.l, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Unpacked: %v, want something with %q", err, c.want)
			}
			w.left(t, false)
			if c.l.Blob == nil || c.canceled || name == "wrong diffID" {
				return
			}
			r, err := w.layers.Compressed(ctx, c.l, compress.Gzip.Encoder())
			if _, err := readAll(t, r, err); err == nil {
				t.Error("Compressed: no error")
			}
			w.left(t, false)
		})
	}
	r, err := w.layers.Uncompressed(t.Context(), change(func(l *image.Layer, _ *v1.Descriptor) { l.DiffID = other.DiffID }))
	if _, err := readAll(t, r, err); err == nil || !strings.Contains(err.Error(), "its tar is another one") {
		t.Errorf("Uncompressed with a wrong diffID: %v", err)
	}
}

// TestDamagedBlob damages the copies in the blob store.
func TestDamagedBlob(t *testing.T) {
	for _, a := range []compress.Algorithm{compress.Gzip, compress.None} {
		w := newWorld(t)
		l := w.remoteLayer(t, a, "content")
		path := filepath.Join(w.dir, "blobs", "sha256", l.Blob.Digest.Hex)
		whole := w.remote.blobs[l.Blob.Digest]
		for name, damage := range map[string][]byte{
			"cut": whole[:len(whole)/2], "empty": {}, "turned": append(bytes.Clone(whole[:len(whole)-20]), make([]byte, 20)...),
			"garbage": bytes.Repeat([]byte{1}, len(whole)),
		} {
			if bytes.Equal(damage, whole) {
				damage[0] ^= 1
			}
			if err := os.WriteFile(path, damage, 0o644); err != nil {
				t.Fatal(err)
			}
			alone := l
			alone.Origin = ""
			if _, err := w.layers.Unpacked(t.Context(), alone, nil); err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("%s: %v", name, err)
			}
			r, err := w.layers.Compressed(t.Context(), alone, a.Encoder())
			if _, err := readAll(t, r, err); err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("Compressed, %s: %v", name, err)
			}
			id, err := w.layers.Unpacked(t.Context(), l, nil)
			if err != nil {
				t.Errorf("%s, with an origin: %v", name, err)
			}
			if err := w.layers.Snapshots.Remove(id); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestMadeLayer(t *testing.T) {
	w := newWorld(t)
	l, id := w.madeLayer(t, strings.Repeat("content ", 10000))
	if got, err := w.layers.Unpacked(t.Context(), l, nil); got != id || err != nil {
		t.Errorf("Unpacked = %q, %v", got, err)
	}
	if _, ok := w.layers.Descriptor(l, compress.Gzip.Encoder()); ok {
		t.Error("a descriptor of what was never compressed")
	}
	for _, a := range []compress.Algorithm{compress.Gzip, compress.Zstd, compress.None} {
		r, err := w.layers.Compressed(t.Context(), l, a.Encoder())
		b, err := readAll(t, r, err)
		if err != nil || compress.Detect(b) != a {
			t.Fatal(a, err)
		}
		d := v1.Descriptor{Digest: digest(b), Size: int64(len(b)), MediaType: types.OCILayer}
		if err := w.layers.Remember(l, a.Encoder(), d); err != nil {
			t.Fatal(err)
		}
		if got, ok := w.layers.Descriptor(l, a.Encoder()); !ok || got.Digest != d.Digest || got.Size != d.Size {
			t.Errorf("%s: Descriptor = %v, %v", a, got, ok)
		}
		// The remembered blob serves when it is in the store.
		if _, err := w.blobs.PutBytes(b); err != nil {
			t.Fatal(err)
		}
		r, err = w.layers.Compressed(t.Context(), l, a.Encoder())
		if again, err := readAll(t, r, err); err != nil || !bytes.Equal(b, again) {
			t.Error(a, err)
		}
		if err := w.blobs.Remove(d.Digest); err != nil {
			t.Fatal(err)
		}
	}
	// A reader that is closed early ends its writer.
	r, err := w.layers.Compressed(t.Context(), l, compress.Gzip.Encoder())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 2)); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	w.left(t, true)
}

func TestRemove(t *testing.T) {
	w := newWorld(t)
	shared, own := w.remoteLayer(t, compress.Gzip, "shared"), w.remoteLayer(t, compress.Gzip, "own")
	made, _ := w.madeLayer(t, "made")
	cached, cachedID := w.madeLayer(t, "cached")
	for _, l := range []image.Layer{shared, own} {
		if _, err := w.layers.Unpacked(t.Context(), l, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.layers.Remember(made, compress.Gzip.Encoder(), v1.Descriptor{Digest: digest(nil)}); err != nil {
		t.Fatal(err)
	}
	manifest, err := w.blobs.PutBytes([]byte("manifest"))
	if err != nil {
		t.Fatal(err)
	}
	img := newImage(t, "1", 1, shared, own, made, cached)
	img.Manifest = manifest
	one, two := put(t, w.images, img), put(t, w.images, newImage(t, "2", 2, shared))
	tag(t, w.images, "app", one)
	tag(t, w.images, "other", two)
	keep := func(id snapshot.ID) bool { return id == cachedID }

	// Somebody uses the image: it goes, and what it consists of stays.
	user := w.process(t)
	if _, err := user.images.Find("app"); err != nil {
		t.Fatal(err)
	}
	w = w.process(t)
	w.blobs.Lease.Release()
	if err := w.images.Remove(one, w.layers, keep); err != nil {
		t.Fatal(err)
	}
	if _, err := w.images.Find("app"); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("the name is there: %v", err)
	}
	for _, h := range []v1.Hash{shared.Blob.Digest, own.Blob.Digest, manifest, one} {
		if _, err := w.blobs.Size(h); err != nil {
			t.Errorf("a blob of an image in use went: %v", err)
		}
	}
	for _, h := range []v1.Hash{own.DiffID, made.DiffID} {
		if _, err := w.layers.Snapshots.ByDiffID(h); err != nil {
			t.Errorf("a layer of an image in use went: %v", err)
		}
	}
	if done, err := w.images.Collect(w.layers, keep); done || err != nil {
		t.Errorf("Collect beside a user: %v, %v", done, err)
	}
	user.blobs.Lease.Release()
	if done, err := w.images.Collect(w.layers, keep); !done || err != nil {
		t.Errorf("Collect: %v, %v", done, err)
	}
	for h, want := range map[v1.Hash]bool{
		shared.Blob.Digest: true, own.Blob.Digest: false, manifest: false, one: false, two: true,
	} {
		if _, err := w.blobs.Size(h); (err == nil) != want {
			t.Errorf("blob %s: %v", h, err)
		}
	}
	for h, want := range map[v1.Hash]bool{shared.DiffID: true, own.DiffID: false, made.DiffID: false, cached.DiffID: true} {
		if _, err := w.layers.Snapshots.ByDiffID(h); (err == nil) != want {
			t.Errorf("layer %s: %v", h, err)
		}
	}
	if _, ok := w.layers.Descriptor(made, compress.Gzip.Encoder()); ok {
		t.Error("a removed layer is remembered")
	}
	if err := w.images.Remove(one, w.layers, keep); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("second Remove: %v", err)
	}
	if err := w.images.Remove(two, w.layers, nil); err != nil {
		t.Error(err)
	}
	if _, err := w.layers.Snapshots.ByDiffID(shared.DiffID); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("the shared layer: %v", err)
	}
}

func TestMediaType(t *testing.T) {
	for a, want := range map[compress.Algorithm]types.MediaType{
		compress.None: types.OCIUncompressedLayer, compress.Gzip: types.OCILayer, compress.Zstd: types.OCILayerZStd, compress.XZ: "",
	} {
		if got, err := image.MediaType(a); got != want || (err != nil) != (want == "") {
			t.Errorf("MediaType(%s) = %q, %v", a, got, err)
		}
	}
}
