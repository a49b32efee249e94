package cache

import (
	"context"
	"sync"
)

// NoHits is a Store that finds nothing and keeps what is made: --no-cache.
type NoHits struct{ *Store }

// Lookup always misses.
func (NoHits) Lookup(context.Context, Key) (Record, error) {
	return Record{}, ErrDisabled
}

// OwnHits is a Store that finds only what was saved through it: --no-cache for several platforms, whose builds share steps. It is safe for
// concurrent use.
type OwnHits struct {
	*Store
	mu    sync.Mutex
	saved map[Key]bool
}

// NewOwnHits is the store s, of which nothing is found yet.
func NewOwnHits(s *Store) *OwnHits {
	return &OwnHits{Store: s, saved: make(map[Key]bool)}
}

// Lookup misses what others saved, as that of NoHits does.
func (o *OwnHits) Lookup(ctx context.Context, k Key) (Record, error) {
	o.mu.Lock()
	ok := o.saved[k]
	o.mu.Unlock()
	if !ok {
		return NoHits{o.Store}.Lookup(ctx, k)
	}
	return o.Store.Lookup(ctx, k)
}

// Save keeps a record, to be found.
func (o *OwnHits) Save(ctx context.Context, k Key, r Record) error {
	err := o.Store.Save(ctx, k, r)
	if err == nil {
		o.mu.Lock()
		o.saved[k] = true
		o.mu.Unlock()
	}
	return err
}
