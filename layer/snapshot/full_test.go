package snapshot_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/snapshot"
)

// smallDisk mounts a file system of 4 MiB until the test ends.
func smallDisk(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("strake-test", dir, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "size=4m,mode=755"); err != nil {
		t.Fatal("mounting a small file system:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Setxattr(dir, "user.test", nil, 0); userXattr() && errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel's tmpfs has no attributes that a user namespace may set (Linux 6.6 has)")
	}
	return dir
}

// fillDisk leaves no byte on the disk until the file it returns is removed.
func fillDisk(t *testing.T, dir string) string {
	t.Helper()
	filler := dir + "/filler"
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, unix.ENOSPC) {
		t.Fatal("filling the disk:", err)
	}
	return filler
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestFullDisk lets the disk be full at every step: each fails with the kernel's reason, leaves nothing, and works when there is
// room again.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t)
	dir := disk + "/layers"
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	base := unpack(t, s, "a=1")
	clean := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v, want that there is no space", what, err)
		}
		if left := temporaries(t, dir); left != nil {
			t.Errorf("%s left %v", what, left)
		}
		n := 0
		if err := s.Walk(func(snapshot.ID) error { n++; return nil }); err != nil || n != 1 {
			t.Errorf("%s: the store has %d layers, %v", what, n, err)
		}
	}

	// A layer that is larger than the disk.
	big, bigHash := makeTar(t, "small=1", "d/", "d/big="+string(bytes.Repeat([]byte("x"), 8<<20)))
	_, err = s.Unpack(t.Context(), bigHash, opener(big))
	clean("unpacking a large layer", err)

	filler := fillDisk(t, disk)
	b, h := makeTar(t, "b=2", "c/", "c/d="+string(bytes.Repeat([]byte("y"), 100_000)))
	_, err = s.Unpack(t.Context(), h, opener(b))
	clean("unpacking on a full disk", err)
	_, err = s.Prepare(t.Context(), []snapshot.ID{"aaaaaaaaaaaaaaaa"})
	if !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("preparing over a layer that is not there: %v", err)
	}
	if copying() {
		_, err := s.Prepare(t.Context(), []snapshot.ID{base})
		clean("copying a layer", err)
		_, err = s.OpenView(t.Context(), []snapshot.ID{base})
		clean("linking a layer", err)
		return
	}
	// Directories need no room on a tmpfs; what a step writes does.
	a, err := s.Prepare(t.Context(), []snapshot.ID{base})
	if err != nil {
		t.Fatal(err)
	}
	root, err := a.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path(root)+"/x", []byte("1"), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("writing in a step: %v", err)
	}
	_ = root.Close()
	id, err := a.Commit(t.Context())
	if err != nil {
		t.Fatal("committing an empty file:", err)
	}
	// Its digest is computed, but cannot be written down.
	_, _, err = s.DiffID(t.Context(), id)
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("remembering a diffID: %v", err)
	}
	if entries, err := os.ReadDir(dir + "/" + string(id)); err != nil || len(entries) != 1 {
		t.Errorf("left beside the layer: %v, %v", entries, err)
	}
	if err := s.Remove(id); err != nil {
		t.Error("removing a layer from a full disk:", err)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	again, err := s.Unpack(t.Context(), h, opener(b))
	if err != nil {
		t.Fatal("with room again:", err)
	}
	top := write(t, s, []snapshot.ID{base, again}, func(r string) error { return os.WriteFile(r+"/x", []byte("3"), 0o600) })
	if _, _, err := s.DiffID(t.Context(), top); err != nil {
		t.Error(err)
	}
	if got := list(t, s, base, again, top); len(got) != 5 {
		t.Errorf("with room again: %d entries", len(got))
	}
}
