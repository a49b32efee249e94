package snapshot_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/strake-build/strake/layer/lease"
	"github.com/strake-build/strake/layer/snapshot"
)

// TestLease removes layers from a store that another process uses.
func TestLease(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	process := func() (*snapshot.Store, *lease.Lease) {
		t.Helper()
		l, err := lease.Open(filepath.Join(dir, "leases"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := snapshot.Open(filepath.Join(dir, "layers"), snapshot.Options{UserXattr: userXattr(), Copy: copying(), Lease: l})
		if err != nil {
			t.Fatal(err)
		}
		return s, l
	}
	s, own := process()
	found, viewed, byDiffID, free := unpack(t, s, "a=1"), unpack(t, s, "b=1"), unpack(t, s, "c=1"), unpack(t, s, "d=1")
	diffID, _, err := s.DiffID(t.Context(), byDiffID)
	if err != nil {
		t.Fatal(err)
	}
	view, err := s.OpenView(t.Context(), []snapshot.ID{found, free}) // which processes that open the store look at
	if err == nil {
		err = view.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	own.Release()

	user, lease := process()
	made := write(t, user, []snapshot.ID{viewed}, func(string) error { return nil })
	unpacked := unpack(t, user, "e=1")
	if !user.Has(found) {
		t.Error("a layer is not found")
	}
	if id, err := user.ByDiffID(diffID); err != nil || id != byDiffID {
		t.Error(id, err)
	}
	if _, err := user.Sync(); err != nil {
		t.Error(err)
	}
	c, err := own.Collect()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { c.Close() }()
	collect := func(id snapshot.ID, want bool) {
		t.Helper()
		if gone, err := s.Collect(c, id); err != nil || gone != want {
			t.Errorf("removed: %t, %v; want %t", gone, err, want)
		}
		if s.Has(id) == want {
			t.Errorf("there: %t", want)
		}
	}
	for _, id := range []snapshot.ID{found, viewed, byDiffID, made, unpacked} {
		collect(id, false)
	}
	collect(free, true)
	if _, err := user.Prepare(t.Context(), []snapshot.ID{free}); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("over a layer that was removed: %v", err)
	}
	user.Close()
	lease.Release()
	c.Close()
	if c, err = own.Collect(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []snapshot.ID{found, viewed, byDiffID, made, unpacked} {
		collect(id, true)
	}
	if left := temporaries(t, filepath.Join(dir, "layers")); left != nil {
		t.Errorf("left %v", left)
	}
}
