package remote

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/strake-build/strake/cache"
)

// Ask asks f for each key, at most atOnce of them beside each other, and returns the entries that it has. The first key is asked for alone, so that a
// server that is not there is asked once. It is for back ends that answer for one key at a time.
func Ask(ctx context.Context, keys []cache.Key, atOnce int, f func(ctx context.Context, k cache.Key) (Entry, bool, error)) ([]Entry, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	var mu sync.Mutex
	var found []Entry
	ask := func(ctx context.Context, k cache.Key) error {
		e, ok, err := f(ctx, k)
		if ok {
			mu.Lock()
			found = append(found, e)
			mu.Unlock()
		}
		return err
	}
	if err := ask(ctx, keys[0]); err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, k := range keys[1:] {
		group.Go(func() error { return ask(ctx, k) })
	}
	err := group.Wait()
	return found, err
}
