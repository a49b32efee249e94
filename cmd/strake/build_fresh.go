package main

import (
	"context"
	"sync"

	"github.com/strake-build/strake/cache"
)

// fresh is a cache that finds only what was made since it was opened: --no-cache for several platforms, whose builds
// share steps.
type fresh struct {
	*cache.Store
	mu   *sync.Mutex
	made map[cache.Key]bool
}

func newFresh(s *cache.Store) fresh {
	return fresh{s, new(sync.Mutex), make(map[cache.Key]bool)}
}

// Lookup misses what others made.
func (f fresh) Lookup(ctx context.Context, k cache.Key) (cache.Record, error) {
	f.mu.Lock()
	ok := f.made[k]
	f.mu.Unlock()
	if !ok {
		return cache.NoHits{Store: f.Store}.Lookup(ctx, k)
	}
	return f.Store.Lookup(ctx, k)
}

// Save keeps a record, to be found.
func (f fresh) Save(ctx context.Context, k cache.Key, r cache.Record) error {
	err := f.Store.Save(ctx, k, r)
	if err == nil {
		f.mu.Lock()
		f.made[k] = true
		f.mu.Unlock()
	}
	return err
}
