package source

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

// TestEach has every number once, also where folders hold folders and slots are few.
func TestEach(t *testing.T) {
	for _, slots := range []int{0, 1, 7} {
		tree := &Tree{slots: make(chan struct{}, slots)}
		var seen [10][10][10]atomic.Int32
		err := tree.each(t.Context(), 10, func(i int) error {
			return tree.each(t.Context(), 10, func(j int) error {
				return tree.each(t.Context(), 10, func(k int) error {
					seen[i][j][k].Add(1)
					return nil
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range seen {
			for j := range seen[i] {
				for k := range seen[i][j] {
					if n := seen[i][j][k].Load(); n != 1 {
						t.Errorf("%d slots: %d %d %d was called %d times", slots, i, j, k, n)
					}
				}
			}
		}
		if len(tree.slots) != 0 {
			t.Errorf("%d of %d slots are still taken", len(tree.slots), slots)
		}
	}
}

// TestEachBeside needs the caller and both slots at the same time.
func TestEachBeside(t *testing.T) {
	tree := &Tree{slots: make(chan struct{}, 2)}
	var all sync.WaitGroup
	all.Add(3)
	if err := tree.each(t.Context(), 3, func(int) error { all.Done(); all.Wait(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// TestEachFails begins nothing after an error, and returns the first one; so with a context that ended.
func TestEachFails(t *testing.T) {
	tree := &Tree{slots: make(chan struct{})}
	bad := errors.New("bad")
	calls := 0
	err := tree.each(t.Context(), 100, func(i int) error {
		if calls++; i == 3 {
			return bad
		}
		return nil
	})
	if !errors.Is(err, bad) || calls != 4 {
		t.Errorf("error %v after %d calls, want that of the fourth", err, calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = tree.each(ctx, 100, func(int) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}
