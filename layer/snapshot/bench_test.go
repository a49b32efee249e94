package snapshot_test

import (
	"os"
	"testing"

	"github.com/strake-build/strake/layer/snapshot"
)

// BenchmarkEmptyStep is what a step that changes nothing costs the store: Prepare, Commit and DiffID.
func BenchmarkEmptyStep(b *testing.B) {
	s, _ := newStore(b)
	layers := []snapshot.ID{unpack(b, s, "a/", "a/b=1"), unpack(b, s, "c=1")}
	for b.Loop() {
		a, err := s.Prepare(b.Context(), layers)
		if err != nil {
			b.Fatal(err)
		}
		id, err := a.Commit(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := s.DiffID(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMount is Prepare, Open and Discard.
func BenchmarkMount(b *testing.B) {
	s, _ := newStore(b)
	layers := []snapshot.ID{unpack(b, s, "a/", "a/b=1"), unpack(b, s, "c=1")}
	for b.Loop() {
		a, err := s.Prepare(b.Context(), layers)
		if err != nil {
			b.Fatal(err)
		}
		root, err := a.Open()
		if err != nil {
			b.Fatal(err)
		}
		_ = root.Close()
		a.Discard()
	}
}

// BenchmarkPrune commits 1,000 new directories, which the kernel marks opaque, over ten layers.
func BenchmarkPrune(b *testing.B) {
	s, _ := newStore(b)
	var layers []snapshot.ID
	for i := range 10 {
		layers = append(layers, unpack(b, s, "top/", "top/"+string(rune('a'+i))+"=1"))
	}
	for b.Loop() {
		b.StopTimer()
		a, err := s.Prepare(b.Context(), layers)
		if err != nil {
			b.Fatal(err)
		}
		root, err := a.Open()
		if err != nil {
			b.Fatal(err)
		}
		for i := range 1000 {
			if err := os.Mkdir(path(root)+"/top/"+string(rune('A'+i%26))+string(rune('0'+i/26)), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		_ = root.Close()
		b.StartTimer()
		if _, err := a.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
