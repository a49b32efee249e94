package solver

import (
	"fmt"

	"github.com/strake-build/strake/cache"
)

// expected is the record that a vertex with these keys would have been a hit by, had it not been run; nil for none.
func (r *run[R]) expected(keys ...cache.Key) *cache.Record {
	for _, k := range keys {
		if rec, err := r.Cache.Lookup(r.ctx, k); err == nil {
			return &rec
		}
	}
	return nil
}

// compare tells whether v made what the cache has.
func (r *run[R]) compare(v *Vertex[R], expected, made cache.Record) error {
	differences, err := v.Op.Differences(r.ctx, expected, made)
	if err != nil {
		return fmt.Errorf("comparing with what the cache has: %w", err)
	}
	if len(differences) > 0 {
		r.Verify(v, differences)
	}
	return nil
}
