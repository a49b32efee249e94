package snapshot

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A layer that makes way for an earlier one, which is the same but for times, leaves the waiting copy to who builds on that.
func TestReplaceKeepsCopy(t *testing.T) {
	s, err := Open(t.TempDir(), Options{Copy: true, RecordOwners: os.Geteuid() != 0})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.recordOwners {
		t.Skip("layers are not taken off where owners are recorded")
	}
	commit := func(layers []ID, at int64) ID {
		a, err := s.Prepare(t.Context(), layers)
		if err != nil {
			t.Fatal(err)
		}
		dir := a.Mount().Upper
		for _, name := range []string{"d/new", "d/f", "top"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte("1"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(filepath.Join(dir, name), time.Unix(at, 0), time.Unix(at, 0)); err != nil {
				t.Fatal(err)
			}
		}
		id, err := a.Commit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	base := commit(nil, 1)
	earlier, later := commit([]ID{base}, 5), commit([]ID{base}, 7)
	if same, err := s.Same(t.Context(), earlier, later); !same || err != nil {
		t.Fatal(same, err)
	}
	s.Replace(t.Context(), later, earlier)
	s.disposing.Wait()
	if s.Has(later) {
		t.Error("the layer that was replaced is there still")
	}
	c, ok := s.driver.(*copies)
	if !ok {
		t.Fatal("no copies")
	}
	w := c.takeAll(func(w *workTree) bool { return len(w.layers) == 2 && w.layers[1] == earlier })
	if len(w) == 0 {
		t.Fatal("no copy waits")
	}
	defer w[0].remove()
	fi, err := os.Stat(filepath.Join(w[0].tree.Dir(), "d/f"))
	if err != nil || fi.ModTime().Unix() != 5 {
		t.Errorf("the copy has %v, %v", fi.ModTime(), err)
	}
}
