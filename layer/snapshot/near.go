package snapshot

import (
	"cmp"
	"context"
	"slices"

	"github.com/strake-build/strake/layer/snapshot/tree"
)

// How much of a copy may be taken off so that it is used for other layers: in this process, where whoever made it may want it next, and
// when it was kept by another one. Removing files is quicker than copying them.
const (
	nearParked = 1.0 / 8
	nearKept   = 2.0 / 3
)

// near is a copy that shows the first of the layers that are wanted.
type near struct {
	parked *workTree // or
	kept   keptCopy
	layers []ID
	files  int
	common int // how many of its layers are wanted
}

// find returns a copy of the layers that was made before, or made of one; nil if there is none near enough.
func (c *copies) find(ctx context.Context, layers []ID) (*workTree, error) {
	for _, n := range c.near(layers) {
		if !c.worth(ctx, &n) {
			continue
		}
		w := c.claim(ctx, &n)
		if w == nil {
			continue
		}
		if c.shift(ctx, w, layers) == nil {
			return w, nil
		}
		w.remove() // it is neither the one nor the other
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, nil
}

// near lists the copies that have layers in common with those, the nearest first.
func (c *copies) near(layers []ID) []near {
	all := c.waiting()
	if !slices.ContainsFunc(all, func(n near) bool { return slices.Equal(n.layers, layers) }) {
		for _, k := range c.s.keptCopies() {
			all = append(all, near{kept: k, layers: k.Layers, files: k.Files})
		}
	}
	for i := range all {
		all[i].common = commonLayers(all[i].layers, layers)
	}
	all = slices.DeleteFunc(all, func(n near) bool { return n.common == 0 && len(n.layers) > 0 })
	slices.SortStableFunc(all, func(a, b near) int {
		return cmp.Or(cmp.Compare(b.common, a.common), cmp.Compare(len(a.layers), len(b.layers)))
	})
	return all
}

// waiting lists the copies of this process that wait.
func (c *copies) waiting() (all []near) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.parked {
		all = append(all, near{parked: w, layers: w.layers, files: w.tree.Len()})
	}
	return all
}

// commonLayers is how many of the first layers of both are the same.
func commonLayers(a, b []ID) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// worth says whether to take off what is not wanted of a copy costs less than another copy.
func (c *copies) worth(ctx context.Context, n *near) bool {
	if n.common == len(n.layers) {
		return true
	}
	if c.s.recordOwners {
		return false // as Rewind says
	}
	limit := nearKept * float64(n.files)
	if n.parked != nil {
		limit = nearParked * float64(n.files)
	}
	var sum float64
	for _, id := range n.layers[n.common:] {
		m, err := c.s.measure(ctx, id)
		if err != nil {
			return false // the layer is being removed, and the copy with it
		}
		sum += float64(m.entries)
	}
	return sum <= limit
}

// claim takes the copy for whoever asks; nil if somebody else has it.
func (c *copies) claim(ctx context.Context, n *near) *workTree {
	if n.parked == nil {
		return c.s.reopen(ctx, n.kept)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.parked, n.parked)
	if i < 0 || !slices.Equal(n.parked.layers, n.layers) {
		return nil
	}
	c.parked = slices.Delete(c.parked, i, i+1)
	return n.parked
}

// shift makes the copy one of the layers: at the cost of those that it has and that are not wanted, and of those that it has not.
func (c *copies) shift(ctx context.Context, w *workTree, layers []ID) error {
	n := commonLayers(w.layers, layers)
	if away := w.layers[n:]; len(away) > 0 {
		stay, err := c.s.dirs(layers[:n])
		if err == nil {
			err = w.tree.Rewind(ctx, stay)
		}
		if err != nil {
			return err
		}
		// A layer that was removed meanwhile may not have said all that it had.
		for _, id := range away {
			if err := c.s.check(id); err != nil {
				return err
			}
		}
	}
	if more := layers[n:]; len(more) > 0 {
		dirs, err := c.s.dirs(more)
		if err == nil {
			err = w.tree.Extend(ctx, dirs)
		}
		if err != nil {
			return err
		}
	}
	w.layers = slices.Clone(layers)
	return nil
}

// instead makes the waiting copy whose topmost layer is id one that has the layer by in its place.
func (c *copies) instead(ctx context.Context, id, by ID) {
	for _, w := range c.takeAll(func(w *workTree) bool { return len(w.layers) > 1 && w.layers[len(w.layers)-1] == id }) {
		layers := append(slices.Clone(w.layers[:len(w.layers)-1]), by)
		if err := c.shift(ctx, w, layers); err != nil {
			w.remove() // another one is made when it is needed
			continue
		}
		c.park(w)
	}
}

// Replace removes the layer id, in place of which by is taken, while the caller goes on. Same must have said that they are the same but for times.
func (s *Store) Replace(ctx context.Context, id, by ID) {
	if c, ok := s.driver.(*copies); ok {
		c.instead(ctx, id, by)
	}
	s.disposing.Go(func() { _ = s.Remove(id) }) // a layer that nothing refers to is the collector's
}

// reopen takes a kept copy; nil if somebody else has it, or it is not as it was kept.
func (s *Store) reopen(ctx context.Context, k keptCopy) *workTree {
	dirs, err := s.dirs(k.Layers)
	if err != nil {
		return nil
	}
	t, err := s.adopt(k.dir)
	if err != nil {
		return nil
	}
	tr, err := tree.Reopen(ctx, k.tree(t.path), dirs, s.Owners(), k.Seal)
	if err != nil {
		_ = t.remove() // a later sweep does
		return nil
	}
	return &workTree{t, tr, k.Layers}
}
