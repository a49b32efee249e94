package snapshot_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/strake-build/strake/layer/snapshot"
)

// TestPowerFailure tears the layers that were made after the last Sync and opens the store in another boot.
func TestPowerFailure(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	openIn := func(boot string) *snapshot.Store {
		t.Helper()
		s, err := snapshot.Open(dir, snapshot.Options{UserXattr: userXattr(), Copy: copying(), Boot: boot})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := openIn("one")
	synced := unpack(t, s, "a=1")
	if n, err := s.Sync(); n != 1 || err != nil {
		t.Fatalf("Sync = %d, %v", n, err)
	}
	if n, err := s.Sync(); n != 0 || err != nil {
		t.Fatalf("second Sync = %d, %v", n, err)
	}
	b, h := makeTar(t, "b=22222")
	torn, err := s.Unpack(t.Context(), h, opener(b))
	if err != nil {
		t.Fatal(err)
	}
	made := write(t, s, []snapshot.ID{synced}, func(root string) error {
		return os.WriteFile(filepath.Join(root, "c"), []byte("333"), 0o600)
	})
	whole := write(t, s, nil, func(root string) error {
		return os.WriteFile(filepath.Join(root, "d"), []byte("4444"), 0o600)
	})
	if _, _, err := s.DiffID(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	want := list(t, s, torn)
	for _, name := range []string{filepath.Join(string(torn), "fs", "b"), filepath.Join(string(torn), "meta"), filepath.Join(string(made), "fs", "c")} {
		if err := os.Truncate(filepath.Join(dir, name), 0); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	// Of a process that was killed before its layer appeared.
	if err := os.WriteFile(filepath.Join(dir, "unsynced", "aaaaaaaaaaaaaaaa"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Close()

	if s = openIn("one"); !s.Has(torn) || !s.Has(made) {
		t.Error("layers are gone in the same boot")
	}
	s.Close()
	if s = openIn(""); !s.Has(torn) || !s.Has(made) {
		t.Error("layers are gone though the boot is not known")
	}
	s.Close()
	s = openIn("two")
	defer s.Close()
	if s.Has(torn) || s.Has(made) {
		t.Error("a torn layer is there in the next boot")
	}
	if !s.Has(synced) {
		t.Error("a layer that was synced is gone")
	}
	if !s.Has(whole) {
		t.Error("a layer that is whole is gone")
	}
	if marks, _ := os.ReadDir(filepath.Join(dir, "unsynced")); len(marks) != 1 || marks[0].Name() != string(whole) {
		t.Errorf("%d marks are left", len(marks))
	}
	again, err := s.Unpack(t.Context(), h, opener(b))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the layer after the failure", list(t, s, again), want...)
}
