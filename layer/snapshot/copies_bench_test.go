package snapshot_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/strake-build/strake/layer/snapshot"
)

// largeBase makes a store without overlayfs that has a layer of 70,000 files in 7,000 directories.
func largeBase(b *testing.B) (*snapshot.Store, snapshot.ID) {
	b.Helper()
	dir := b.TempDir()
	s, err := snapshot.Open(dir, snapshot.Options{Copy: true, Boot: "this"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	return s, write(b, s, nil, func(root string) error {
		for i := range 70 {
			for j := range 100 {
				d := fmt.Sprintf("%s/%d/%d", root, i, j)
				if err := os.MkdirAll(d, 0o755); err != nil {
					return err
				}
				for k := range 9 {
					if err := os.WriteFile(fmt.Sprintf("%s/f%d", d, k), make([]byte, 200+700*k), 0o644); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
}

// step is Prepare, what do does, and Commit.
func step(b *testing.B, s *snapshot.Store, layers []snapshot.ID, do func(root string) error) snapshot.ID {
	b.Helper()
	a, err := s.Prepare(b.Context(), layers)
	if err != nil {
		b.Fatal(err)
	}
	if err := do(a.Mount().Upper); err != nil {
		b.Fatal(err)
	}
	id, err := a.Commit(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return id
}

// BenchmarkCopyStep is what a step on a base of 70,000 files costs the store: one that changes nothing, one that writes a file,
// and one that makes a directory, after which every file is looked at.
func BenchmarkCopyStep(b *testing.B) {
	s, base := largeBase(b)
	for name, do := range map[string]func(root string) error{
		"nothing":   func(string) error { return nil },
		"file":      func(root string) error { return os.WriteFile(root+"/1/1/f1", []byte("x"), 0o644) },
		"directory": func(root string) error { return os.MkdirAll(root+"/new", 0o755) },
	} {
		b.Run(name, func(b *testing.B) {
			layers := []snapshot.ID{base}
			layers = append(layers, step(b, s, layers, do)) // makes the copy
			for b.Loop() {
				layers = append(layers, step(b, s, layers, do))
				if len(layers) > 100 {
					b.StopTimer()
					layers = []snapshot.ID{base}
					layers = append(layers, step(b, s, layers, do))
					b.StartTimer()
				}
			}
		})
		s.Close()
	}
}

// BenchmarkFirstStep is the first step of a process on a base of 70,000 files, which writes one: with a copy that is made for it, and with one that
// was kept after such a step.
func BenchmarkFirstStep(b *testing.B) {
	s, base := largeBase(b)
	for _, kept := range []bool{false, true} {
		b.Run(fmt.Sprintf("kept=%v", kept), func(b *testing.B) {
			for b.Loop() {
				step(b, s, []snapshot.ID{base}, func(root string) error { return os.WriteFile(root+"/1/1/f1", []byte("x"), 0o644) })
				b.StopTimer()
				s.Close()
				for _, c := range s.Copies() {
					if kept {
						break
					}
					if _, err := s.RemoveCopy(c.ID); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkMakeView links 70,000 files.
func BenchmarkMakeView(b *testing.B) {
	s, base := largeBase(b)
	empty := write(b, s, nil, func(string) error { return nil })
	layers := []snapshot.ID{base}
	for b.Loop() {
		layers = append(layers, empty) // another stack
		if _, err := s.View(b.Context(), layers); err != nil {
			b.Fatal(err)
		}
	}
}
