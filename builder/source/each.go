package source

import (
	"context"
	"sync"
	"sync/atomic"
)

// each calls f for the numbers below n, and returns the first error, after which nothing new begins. The caller takes one number after the
// other, and so do as many goroutines beside it as the tree has slots for: recursion needs no queue, and nothing waits for a slot.
// A slot that becomes free is taken again by whoever still has numbers left.
func (t *Tree) each(ctx context.Context, n int, f func(i int) error) error {
	var (
		wg     sync.WaitGroup
		next   atomic.Int64
		failed sync.Once
		err    error
		work   func()
	)
	work = func() {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			if i < n-1 {
				t.beside(&wg, work)
			}
			e := ctx.Err()
			if e == nil {
				e = f(i)
			}
			if e != nil {
				failed.Do(func() { err = e })
				next.Store(int64(n))
			}
		}
	}
	work()
	wg.Wait()
	return err
}

// beside runs f in a goroutine if the tree has a slot for it.
func (t *Tree) beside(wg *sync.WaitGroup, f func()) {
	select {
	case t.slots <- struct{}{}:
		wg.Go(func() {
			defer func() { <-t.slots }()
			f()
		})
	default:
	}
}
