package snapshot_test

import (
	"os"
	"testing"
	"time"

	"github.com/strake-build/strake/layer/snapshot"
)

// Layers that change nothing are left out of stacks; those that change the root only are not.
func TestBareLayers(t *testing.T) {
	s, _ := newStore(t)
	then := time.Unix(2000, 0)
	one := unpack(t, s, "a=1")
	layers := []snapshot.ID{one}
	for range 3 {
		layers = append(layers, write(t, s, layers, func(r string) error { _, err := os.Stat(r + "/a"); return err }))
	}
	layers = append(layers, write(t, s, layers, func(r string) error { return os.Chtimes(r, then, then) }))
	layers = append(layers, write(t, s, layers, func(string) error { return nil }))
	equal(t, "view", list(t, s, layers...), "a=1")
	a, err := s.Prepare(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Discard()
	if m := a.Mount(); m.Work != "" && len(m.Lower) != 2 { // no copy
		t.Errorf("the stack is %v", m.Lower)
	}
	root, err := a.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	st, err := root.File().Stat()
	if err != nil || !st.ModTime().Equal(then) {
		t.Errorf("the root is %v, %v", st, err)
	}
}
