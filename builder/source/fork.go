package source

import (
	"context"
	"sync"
)

// group runs functions beside the caller as long as the tree has slots, else in place: so
// recursion needs no queue, and nothing waits for a slot.
type group struct {
	t *Tree

	wg  sync.WaitGroup
	mu  sync.Mutex
	err error
}

// fork makes a group. Who makes it must wait for it.
func (t *Tree) fork() *group { return &group{t: t} }

// run runs f, unless the context or an earlier function of the group failed.
func (g *group) run(ctx context.Context, f func() error) {
	if err := ctx.Err(); err != nil {
		g.fail(err)
		return
	}
	if g.failed() {
		return
	}
	select {
	case g.t.slots <- struct{}{}:
		g.wg.Go(func() {
			defer func() { <-g.t.slots }()
			g.fail(f())
		})
	default:
		g.fail(f())
	}
}

func (g *group) fail(err error) {
	if err == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
}

func (g *group) failed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err != nil
}

// wait waits for every function and returns the first error.
func (g *group) wait() error {
	g.wg.Wait()
	return g.err
}
