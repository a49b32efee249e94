package snapshot_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/strake-build/strake/layer/snapshot"
)

func TestVerify(t *testing.T) {
	s, dir := newStore(t)
	ctx := t.Context()
	made := write(t, s, nil, func(root string) error {
		return os.WriteFile(filepath.Join(root, "f"), []byte("made"), 0o600)
	})
	if err := s.Verify(ctx, made, nil); err != nil {
		t.Errorf("whose diffID is not known: %v", err)
	}
	if _, _, err := s.DiffID(ctx, made); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx, made, nil); err != nil {
		t.Errorf("made here: %v", err)
	}
	meta := filepath.Join(dir, string(made), "meta")
	if err := os.WriteFile(meta, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx, made, nil); err != nil {
		t.Errorf("made here, without its meta: %v", err)
	}
	// The order of entries is not the one that strake writes.
	b, h := makeTar(t, "z=1", "a=2")
	foreign, err := s.Unpack(ctx, h, opener(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx, foreign, nil); !errors.Is(err, snapshot.ErrUnverifiable) {
		t.Errorf("without its tar: %v", err)
	}
	if err := s.Verify(ctx, foreign, opener(b)); err != nil {
		t.Errorf("with its tar: %v", err)
	}
	other, _ := makeTar(t, "z=1", "a=3")
	if err := s.Verify(ctx, foreign, opener(other)); err == nil || errors.Is(err, snapshot.ErrDamaged) {
		t.Errorf("with another tar: %v", err)
	}
	for id, name := range map[snapshot.ID]string{made: "f", foreign: "a"} {
		if err := os.WriteFile(filepath.Join(dir, string(id), "fs", name), []byte("evil"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Verify(ctx, made, nil); !errors.Is(err, snapshot.ErrDamaged) {
		t.Errorf("made here, damaged: %v", err)
	}
	if err := s.Verify(ctx, foreign, opener(b)); !errors.Is(err, snapshot.ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	if err := s.Verify(ctx, "aaaaaaaaaaaaaaaa", nil); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
	s.Close() // which lets go of a working tree
	equal(t, "temporary directories", temporaries(t, dir))
}

func TestInfoAndStale(t *testing.T) {
	s, dir := newStore(t)
	id := unpack(t, s, "a=1", "b/", "b/c=2")
	info, err := s.Info(id)
	if err != nil || !info.Unpacked || info.Disk < 4096 || info.Made.IsZero() {
		t.Fatalf("Info = %+v, %v", info, err)
	}
	if again, err := s.Info(id); err != nil || again != info {
		t.Errorf("Info = %+v the second time, %v; the first was %+v", again, err, info)
	}
	if _, err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		if err := s.Stale(func(_ string, remove func() error) {
			n++
			if err := remove(); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 0 {
		t.Errorf("%d stale entries in a good store", n)
	}
	if err := os.Symlink("gone", filepath.Join(dir, "diffid", "abc")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "unsynced", "gone"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 2 {
		t.Errorf("%d stale entries, want 2", n)
	}
	if n := count(); n != 0 {
		t.Errorf("%d stale entries after they were removed", n)
	}
}
