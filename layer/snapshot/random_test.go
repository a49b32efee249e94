package snapshot_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/strake-build/strake/layer/snapshot"
)

// scramble does random things to the tree at root, with few names so that they meet.
func scramble(r *rand.Rand, root string, steps int) {
	name := func() string {
		p := root
		for range 1 + r.IntN(3) {
			p = filepath.Join(p, string(rune('a'+r.IntN(3))))
		}
		return p
	}
	for range steps {
		switch p := name(); r.IntN(7) { // much of it fails, which does not matter
		case 0, 1:
			_ = os.MkdirAll(p, 0o755)
		case 2, 3:
			_ = os.WriteFile(p, []byte(fmt.Sprint(r.IntN(1000))), 0o644)
		case 4:
			_ = os.Symlink(string(rune('a'+r.IntN(3))), p)
		case 5:
			_ = os.RemoveAll(p)
		case 6:
			_ = os.Rename(p, name())
		}
	}
}

// TestRandomSteps stacks random changes: what a step saw is what its layer shows over the others, and so is
// what the layer's tar shows when it is unpacked elsewhere.
func TestRandomSteps(t *testing.T) {
	for seed := range uint64(15) {
		s, _ := newStore(t)
		elsewhere, _ := newStore(t)
		r := rand.New(rand.NewPCG(seed, 1))
		var layers, copies []snapshot.ID
		for range 5 {
			var seen []string
			id := write(t, s, layers, func(root string) error {
				scramble(r, root, 12)
				seen = listDir(t, root)
				return nil
			})
			layers = append(layers, id)
			equal(t, fmt.Sprintf("seed %d, view", seed), list(t, s, layers...), seen...)
			var b bytes.Buffer
			if err := s.WriteTar(t.Context(), id, &b); err != nil {
				t.Fatal(err)
			}
			copied, err := elsewhere.Unpack(t.Context(), digest(b.Bytes()), opener(b.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			copies = append(copies, copied)
			equal(t, fmt.Sprintf("seed %d, unpacked", seed), list(t, elsewhere, copies...), seen...)
			if err := elsewhere.WriteTar(t.Context(), copied, &b); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		}
	}
}
