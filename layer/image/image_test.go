package image_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/image"
)

func newStore(t testing.TB) (*image.Store, *blob.Store, string) {
	t.Helper()
	dir := t.TempDir()
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := image.Open(filepath.Join(dir, "images"), blobs)
	if err != nil {
		t.Fatal(err)
	}
	return s, blobs, dir
}

// newImage makes an image of layers whose configuration has the given author.
func newImage(t testing.TB, author string, created int, layers ...image.Layer) *image.Image {
	t.Helper()
	c := v1.ConfigFile{Author: author, Created: v1.Time{Time: time.Unix(int64(created), 0)}, RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}}}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.DiffID)
	}
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return &image.Image{RawConfig: raw, Layers: layers}
}

func put(t testing.TB, s *image.Store, img *image.Image) v1.Hash {
	t.Helper()
	if err := s.Put(img); err != nil {
		t.Fatal(err)
	}
	return img.ID
}

func ref(t testing.TB, s string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(s, name.WeakValidation)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tag(t testing.TB, s *image.Store, n string, id v1.Hash) {
	t.Helper()
	if err := s.Tag(ref(t, n), id); err != nil {
		t.Fatal(err)
	}
}

func TestPutAndFind(t *testing.T) {
	s, _, _ := newStore(t)
	img := newImage(t, "me", 1)
	id := put(t, s, img)
	again := newImage(t, "me", 1)
	if put(t, s, again) != id {
		t.Error("the same configuration has another ID")
	}
	other := put(t, s, newImage(t, "you", 2))
	digest := "sha256:" + strings.Repeat("ab", 32)
	long := "registry.example:5000/" + strings.Repeat("long/", 45) + "name:" + strings.Repeat("t", 120)
	for _, n := range []string{"app", "docker.io/library/app:1.0", "localhost:5000/a/b:x", "quay.io/x@" + digest, long} {
		tag(t, s, n, id)
	}
	for find, want := range map[string]bool{
		"app":                           true,
		"app:latest":                    true,
		"library/app:1.0":               true,
		"docker.io/app:1.0":             true,
		"localhost:5000/a/b:x":          true,
		"quay.io/x@" + digest:           true,
		"quay.io/x:tag@" + digest:       true,
		long:                            true,
		id.String():                     true,
		id.Hex:                          true,
		id.Hex[:12]:                     true,
		"sha256:" + id.Hex[:20]:         true,
		"app:2.0":                       false,
		"other/app":                     false,
		"quay.io/x":                     false,
		"App":                           false,
		"":                              false,
		"sha256:":                       false,
		"sha256:xyz":                    false,
		digest:                          false,
		strings.Repeat("0", 64):         false,
		"../../etc/passwd":              false,
		strings.ToUpper(id.Hex[:12]):    false,
		"sha256:" + id.Hex + "00000000": false,
	} {
		got, err := s.Find(find)
		if want && (err != nil || got.ID != id || got.Config.Author != "me") {
			t.Errorf("Find(%q) = %v, %v", find, got, err)
		}
		if !want && !errors.Is(err, image.ErrNotFound) {
			t.Errorf("Find(%q) = %v, want ErrNotFound", find, err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Image.ID != other || list[1].Image.ID != id {
		t.Fatalf("List: %v, %v", list, err)
	}
	want := []string{"app:1.0", "app:latest", "localhost:5000/a/b:x", "quay.io/x@" + digest, long}
	if len(list[0].Names) != 0 || !slices.Equal(list[1].Names, want) {
		t.Errorf("names: %q", list[1].Names)
	}
}

func TestAmbiguous(t *testing.T) {
	s, _, _ := newStore(t)
	first := map[byte]v1.Hash{}
	for i := range 40 { // more than 16: two IDs begin alike
		id := put(t, s, newImage(t, fmt.Sprint(i), i))
		other, ok := first[id.Hex[0]]
		first[id.Hex[0]] = id
		if !ok {
			continue
		}
		_, err := s.Find(id.Hex[:1])
		if err == nil || errors.Is(err, image.ErrNotFound) || !strings.Contains(err.Error(), id.Hex) || !strings.Contains(err.Error(), other.Hex) {
			t.Errorf("Find(%q): %v", id.Hex[:1], err)
		}
		return
	}
}

func TestTagMoves(t *testing.T) {
	s, _, _ := newStore(t)
	one, two := put(t, s, newImage(t, "1", 1)), put(t, s, newImage(t, "2", 2))
	tag(t, s, "app", one)
	tag(t, s, "app", two)
	if img, err := s.Resolve(ref(t, "app")); err != nil || img.ID != two {
		t.Errorf("Resolve = %v, %v", img, err)
	}
	if err := s.Tag(ref(t, "app"), v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("tagging what is not there: %v", err)
	}
	if img, err := s.Untag(ref(t, "app")); err != nil || img.ID != two {
		t.Errorf("Untag = %v, %v", img, err)
	}
	if _, err := s.Untag(ref(t, "app")); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("second Untag: %v", err)
	}
	if _, err := s.Get(two); err != nil {
		t.Errorf("Untag removed the image: %v", err)
	}
}

func TestPutMerges(t *testing.T) {
	s, _, _ := newStore(t)
	h := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("1", 64)}
	pulled := newImage(t, "me", 1, image.Layer{DiffID: h, Blob: &v1.Descriptor{Digest: h, Size: 7}, Origin: "quay.io/x"})
	pulled.Manifest = h
	id := put(t, s, pulled)
	put(t, s, newImage(t, "me", 1, image.Layer{DiffID: h}))
	img, err := s.Get(id)
	if err != nil || img.Manifest != h || img.Layers[0].Blob == nil || img.Layers[0].Origin != "quay.io/x" {
		t.Errorf("%+v, %v", img, err)
	}
	bad := newImage(t, "me", 1)
	bad.Layers = []image.Layer{{DiffID: h}}
	if err := s.Put(bad); err == nil {
		t.Error("layers that the configuration does not have are no error")
	}
	bad.RawConfig = []byte("{")
	if err := s.Put(bad); err == nil {
		t.Error("a broken configuration is no error")
	}
}

func TestDamagedFiles(t *testing.T) {
	s, _, dir := newStore(t)
	good, bad := put(t, s, newImage(t, "1", 1)), put(t, s, newImage(t, "2", 2))
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", bad.Hex), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	list, err := s.List()
	if len(list) != 1 || list[0].Image.ID != good || err == nil || !strings.Contains(err.Error(), bad.Hex) {
		t.Errorf("List: %v, %v", list, err)
	}
	if put(t, s, newImage(t, "2", 2)) != bad {
		t.Error("another ID")
	}
	if _, err := s.Get(bad); err != nil {
		t.Errorf("Put did not mend: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "images", "images", bad.Hex+".json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(bad); err == nil || errors.Is(err, image.ErrNotFound) {
		t.Errorf("Get of a damaged record: %v", err)
	}
	if err := s.Remove(bad, &image.Layers{}, nil); err != nil {
		t.Errorf("Remove of a damaged record: %v", err)
	}
	// What a killed process left is cleaned and not taken for a name.
	if err := os.WriteFile(filepath.Join(dir, "images", "refs", ".new-1"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(); err != nil {
		t.Error(err)
	}
	tag(t, s, "app", good)
	if left, _ := filepath.Glob(filepath.Join(dir, "images", "*", ".new-*")); left != nil {
		t.Error("left:", left)
	}
}

func TestConcurrentTags(t *testing.T) {
	s, blobs, dir := newStore(t)
	id := put(t, s, newImage(t, "1", 1))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			other, err := image.Open(filepath.Join(dir, "images"), blobs)
			if err == nil {
				err = other.Tag(ref(t, fmt.Sprintf("app:%d", i)), id)
			}
			if err == nil {
				err = other.Tag(ref(t, "app:same"), id)
			}
			if err == nil {
				_, err = other.List()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := s.List(); err != nil || len(list[0].Names) != 9 {
		t.Errorf("%v, %v", list, err)
	}
}

// FuzzFind looks for anything that a user may write: it finds the one image, or nothing.
func FuzzFind(f *testing.F) {
	for _, s := range []string{"app", "sha256:", "a@sha256:b", "../x", "a:b:c", "0", "localhost:5000/a", "\x00", "~"} {
		f.Add(s)
	}
	s, _, _ := newStore(f)
	id := put(f, s, newImage(f, "me", 1))
	tag(f, s, "app", id)
	f.Fuzz(func(t *testing.T, ref string) {
		img, err := s.Find(ref)
		if err == nil && img.ID != id || err != nil && !errors.Is(err, image.ErrNotFound) {
			t.Errorf("Find(%q) = %v, %v", ref, img, err)
		}
	})
}
