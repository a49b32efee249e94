package cache_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/strake-build/strake/cache"
)

func TestListsOfFiles(t *testing.T) {
	s, dir := open(t)
	k := cache.NewKey(nil)
	if _, err := s.LoadFiles(t.Context(), k); !errors.Is(err, cache.ErrMiss) {
		t.Fatalf("no list: %v", err)
	}
	want := []cache.File{{Path: "b/x", Sum: [8]byte{1}}, {Path: "a\nb", Sum: [8]byte{2}}, {Path: "b/y", Sum: [8]byte{3}}, {Path: ""}}
	if err := s.SaveFiles(t.Context(), k, want); err != nil {
		t.Fatal(err)
	}
	got, err := s.LoadFiles(t.Context(), k)
	if err != nil || !slices.Equal(got, []cache.File{want[3], want[1], want[0], want[2]}) {
		t.Fatalf("got %q, %v", got, err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "files", "*", "*"))
	if err != nil || len(paths) != 1 {
		t.Fatal(paths, err)
	}
	if err := os.Truncate(paths[0], 80); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadFiles(t.Context(), k); !errors.Is(err, cache.ErrDamaged) {
		t.Errorf("a torn list: %v", err)
	}
}

func TestCompareFiles(t *testing.T) {
	f := func(path string, sum byte) cache.File { return cache.File{Path: path, Sum: [8]byte{sum}} }
	got := cache.CompareFiles(
		[]cache.File{f("d/", 1), f("b", 1), f("a", 1), f("gone", 1)},
		[]cache.File{f("d/", 2), f("new", 1), f("a", 1), f("b", 2)})
	want := []cache.Change{{Path: "b", How: "changed"}, {Path: "gone", How: "removed"}, {Path: "new", How: "added"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if got := cache.CompareFiles([]cache.File{f("d/", 1)}, []cache.File{f("d/", 2)}); len(got) != 1 {
		t.Errorf("a folder alone: %v", got)
	}
}

func TestLatest(t *testing.T) {
	s, dir := open(t)
	id, k := cache.NewKey([]cache.Part{{Name: "id"}}), cache.NewKey(nil)
	if _, err := s.Latest(t.Context(), id); !errors.Is(err, cache.ErrMiss) {
		t.Fatalf("none yet: %v", err)
	}
	if err := s.SetLatest(t.Context(), id, k); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Latest(t.Context(), id); err != nil || got != k {
		t.Fatalf("got %s, %v", got, err)
	}
	path := filepath.Join(dir, "steps", id.String()[:2], id.String())
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Latest(t.Context(), id); !errors.Is(err, cache.ErrMiss) {
		t.Errorf("a torn file: %v", err)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add([]byte("\x00\x01a12345678"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01"))
	f.Fuzz(func(t *testing.T, body []byte) {
		files, err := cache.ParseFiles(body)
		if err == nil && len(files)*10 > len(body) {
			t.Errorf("%d files of %d bytes", len(files), len(body))
		}
	})
}

func TestSaltIsOne(t *testing.T) {
	s, dir := open(t)
	var all [8][]byte
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			var err error
			if all[i], err = s.Salt(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, salt := range all {
		if len(salt) != 32 || !slices.Equal(salt, all[0]) {
			t.Errorf("salts %x", all)
		}
	}
	path := filepath.Join(dir, "salt")
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := os.Truncate(path, 3); err != nil {
		t.Fatal(err)
	}
	if again, err := s.Salt(); err != nil || len(again) != 32 || slices.Equal(again, all[0]) {
		t.Errorf("after a torn one: %x, %v", again, err)
	}
}
