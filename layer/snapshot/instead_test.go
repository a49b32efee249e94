package snapshot

import (
	"os"
	"testing"
	"time"
)

// An empty layer that makes way for an earlier one leaves the waiting copy to who builds on that.
func TestReplaceKeepsSharedCopy(t *testing.T) {
	s, err := Open(t.TempDir(), Options{Copy: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var ids []ID
	for range 2 {
		a, err := s.Prepare(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		id, err := a.Commit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for _, id := range ids {
		if err := os.Chtimes(s.fs(id), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	s.Replace(ids[1], ids[0])
	s.disposing.Wait()
	if n := len(s.driver.(*copies).parked); n != 2 {
		t.Errorf("%d copies wait, want 2", n)
	}
	if s.Has(ids[1]) {
		t.Error("the layer that was replaced is there still")
	}
}
