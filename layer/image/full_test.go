package image_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// TestFullDisk stores blobs and images on a disk that is full: they are there whole or not at all, and the error says why not.
func TestFullDisk(t *testing.T) {
	needRoot(t)
	disk := t.TempDir()
	if err := unix.Mount("strake-test", disk, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "size=4m"); err != nil {
		t.Fatal("mounting a small file system:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	blobs, err := blob.Open(filepath.Join(disk, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := image.Open(filepath.Join(disk, "images"), blobs)
	if err != nil {
		t.Fatal(err)
	}
	old := put(t, s, newImage(t, "old", 1))
	tag(t, s, "app:1", old)
	filler, err := os.Create(filepath.Join(disk, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	fill := func() {
		t.Helper()
		if _, err := io.Copy(filler, endless{}); !errors.Is(err, unix.ENOSPC) {
			t.Fatal("filling the disk:", err)
		}
	}
	before := tree(t, disk)
	full := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v, want that there is no space", what, err)
		}
		if after := tree(t, disk); after != before {
			t.Errorf("%s changed the store:\n%s\nbefore:\n%s", what, after, before)
		}
	}
	large := bytes.Repeat([]byte("x"), 8<<20)
	full("a large blob", blobs.Put(t.Context(), digest(large), bytes.NewReader(large)))
	fill()
	full("a small blob", blobs.Put(t.Context(), digest([]byte("x")), bytes.NewReader([]byte("x"))))
	_, err = blobs.PutBytes([]byte("x"))
	full("bytes", err)
	full("an image", s.Put(newImage(t, "new", 2)))
	full("another name", s.Tag(ref(t, "app:2"), old))
	known := image.Layers{Blobs: blobs, Dir: filepath.Join(disk, "images")}
	full("a layer's blob", known.Remember(image.Layer{DiffID: digest(nil)}, compress.Gzip.Encoder(), v1.Descriptor{Digest: digest(nil)}))
	if img, err := s.Find("app:1"); err != nil || img.ID != old {
		t.Errorf("reading on a full disk: %v", err)
	}

	if err := errors.Join(filler.Truncate(0), filler.Close()); err != nil {
		t.Fatal(err)
	}
	tag(t, s, "app:2", put(t, s, newImage(t, "new", 2)))
	if err := s.Remove(old, &image.Layers{Blobs: blobs}, nil); err != nil {
		t.Error("removing:", err)
	}
	if _, err := s.Find("app:2"); err != nil {
		t.Error(err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// tree lists the files below dir, but for empty locks.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b bytes.Buffer
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Base(p) != "lock" {
			b.WriteString(p + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
