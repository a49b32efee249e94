package cache_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strake-build/strake/cache"
)

func open(t *testing.T) (*cache.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func TestKeysDiffer(t *testing.T) {
	lists := [][]cache.Part{
		nil,
		{{}},
		{{}, {}},
		{{Name: "a", Value: "b"}},
		{{Name: "ab", Value: ""}},
		{{Name: "", Value: "ab"}},
		{{Name: "a", Value: "b"}, {Name: "c", Value: "d"}},
		{{Name: "a", Value: "bc"}, {Name: "", Value: "d"}},
		{{Name: "c", Value: "d"}, {Name: "a", Value: "b"}},
		{{Name: "a", Value: "b\x00"}},
	}
	seen := map[cache.Key]int{}
	for i, l := range lists {
		k := cache.NewKey(l)
		if j, dup := seen[k]; dup {
			t.Errorf("lists %d and %d have one key", i, j)
		}
		seen[k] = i
		if k != cache.NewKey(l) {
			t.Errorf("list %d has two keys", i)
		}
	}
}

// A key must not change between releases without a change of the salt.
func TestKeyIsStable(t *testing.T) {
	got := cache.NewKey([]cache.Part{{Name: "instruction", Value: "RUN"}, {Name: "args", Value: "make"}}).String()
	const want = "2924c7a2"
	if got[:8] != want {
		t.Errorf("key begins with %s, not %s", got[:8], want)
	}
}

func TestSaveLookup(t *testing.T) {
	s, _ := open(t)
	ctx := context.Background()
	k := cache.NewKey([]cache.Part{{Name: "a", Value: "b"}})
	if _, err := s.Lookup(ctx, k); !errors.Is(err, cache.ErrMiss) {
		t.Fatalf("empty store: %v", err)
	}
	want := cache.Record{Layer: "abc", Created: time.Unix(1700000000, 5).UTC(), Name: "RUN x", Parts: []cache.Part{{Name: "a", Value: "b"}}}
	if err := s.Save(ctx, k, want); err != nil {
		t.Fatal(err)
	}
	got, err := s.Lookup(ctx, k)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if _, err := (cache.NoHits{Store: s}).Lookup(ctx, k); !errors.Is(err, cache.ErrMiss) {
		t.Errorf("NoHits: %v", err)
	}
	own := cache.NewOwnHits(s)
	if _, err := own.Lookup(ctx, k); !errors.Is(err, cache.ErrMiss) {
		t.Errorf("OwnHits finds what others saved: %v", err)
	}
	if err := own.Save(ctx, k, want); err != nil {
		t.Fatal(err)
	}
	if _, err := own.Lookup(ctx, k); err != nil {
		t.Errorf("OwnHits does not find what it saved: %v", err)
	}
	n := 0
	if err := s.Walk(ctx, func(wk cache.Key, _ cache.Record) error {
		n++
		if wk != k {
			t.Errorf("Walk gave %s", wk)
		}
		return nil
	}); err != nil || n != 1 {
		t.Errorf("Walk: %d records, %v", n, err)
	}
	n = 0
	if err := s.Entries(ctx, func(e cache.Entry) error {
		n++
		if e.Key != k || e.Err != nil || !reflect.DeepEqual(e.Record, want) || e.Disk == 0 {
			t.Errorf("Entries gave %+v", e)
		}
		return nil
	}); err != nil || n != 1 {
		t.Errorf("Entries: %d records, %v", n, err)
	}
}

// The last use is noted roughly, and a time in the future does not stay.
func TestTouch(t *testing.T) {
	s, dir := open(t)
	ctx := context.Background()
	k, other := cache.NewKey(nil), cache.NewKey([]cache.Part{{Name: "a", Value: "b"}})
	for key, layer := range map[cache.Key]string{k: "one", other: "two"} {
		if err := s.Save(ctx, key, cache.Record{Layer: layer}); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := cache.Open(dir); err != nil {
		t.Fatal(err)
	} else if _, err := s.Lookup(ctx, k); err != nil {
		t.Fatal(err)
	} else {
		path := filepath.Join(dir, "records", k.String()[:2], k.String())
		now := time.Now().Truncate(time.Second)
		for _, c := range []struct{ before, after time.Duration }{
			{-30 * 24 * time.Hour, 0}, {-time.Hour, -time.Hour}, {48 * time.Hour, 0},
		} {
			if err := os.Chtimes(path, time.Time{}, now.Add(c.before)); err != nil {
				t.Fatal(err)
			}
			s.Touch(now)
			if fi, err := os.Stat(path); err != nil || !fi.ModTime().Equal(now.Add(c.after)) {
				t.Errorf("%v: touched to %v, %v", c.before, fi.ModTime().Sub(now), err)
			}
		}
		if used := s.Used(); len(used) != 1 || used[0] != "one" {
			t.Errorf("Used = %q", used)
		}
	}
	if used := s.Used(); len(used) != 2 {
		t.Errorf("Used = %q", used)
	}
}

// Whatever happened to a record's file, the answer is a miss.
func TestDamagedRecordIsAMiss(t *testing.T) {
	ctx := context.Background()
	k := cache.NewKey(nil)
	for name, damage := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"cut":       func(b []byte) []byte { return b[:len(b)-3] },
		"flipped":   func(b []byte) []byte { b[len(b)-9] ^= 1; return b },
		"no header": func(b []byte) []byte { return b[65:] },
		"garbage":   func([]byte) []byte { return []byte("\x00\x01\n{}") },
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := open(t)
			if err := s.Save(ctx, k, cache.Record{Layer: "l"}); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "records", k.String()[:2], k.String())
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Lookup(ctx, k); !errors.Is(err, cache.ErrMiss) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLockLetsOneIn(t *testing.T) {
	s, dir := open(t)
	k := cache.NewKey(nil)
	var inside, total atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			unlock, err := s.Lock(context.Background(), k)
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			if n := inside.Add(1); n != 1 {
				t.Errorf("%d holders at once", n)
			}
			time.Sleep(time.Millisecond)
			total.Add(1)
			inside.Add(-1)
		})
	}
	wg.Wait()
	if total.Load() != 16 {
		t.Errorf("%d of 16 got the lock", total.Load())
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "locks")); len(left) != 0 {
		t.Errorf("lock files left: %v", left)
	}
}

func TestLockGivesUpWhenCanceled(t *testing.T) {
	s, _ := open(t)
	k := cache.NewKey(nil)
	unlock, err := s.Lock(context.Background(), k)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	if _, err := s.Lock(ctx, k); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkLookup(b *testing.B) {
	s, err := cache.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	k := cache.NewKey(nil)
	if err := s.Save(context.Background(), k, cache.Record{Layer: "l", Parts: make([]cache.Part, 8)}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Lookup(context.Background(), k); err != nil {
			b.Fatal(err)
		}
	}
}

// Processes that open the store sweep what dead ones left; what a living one is writing must not go with it.
func TestSaveBesideOpen(t *testing.T) {
	_, dir := open(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := cache.Open(dir); err != nil {
					t.Error(err)
				}
			}
		})
	}
	s, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		if err := s.Save(ctx, cache.NewKey([]cache.Part{{Name: "n", Value: strconv.Itoa(i)}}), cache.Record{Layer: "l"}); err != nil {
			t.Errorf("record %d: %v", i, err)
		}
	}
	stop()
	wg.Wait()
}
