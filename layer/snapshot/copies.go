package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/strake-build/strake/layer/rootfs"
	"github.com/strake-build/strake/layer/snapshot/tree"
)

// copies is the driver for where overlayfs cannot be mounted: what is written to is a copy of the layers, and
// what is only read a tree of links to them (views.go).
//
// To make a copy takes seconds, so it goes from step to step: when a layer was committed it is what that layer
// over the others shows, and waits for who wants to write over these, or over others of which most are the same (near.go). When
// the store is closed it is kept for later processes (kept.go).
type copies struct {
	s *Store

	mu     sync.Mutex
	parked []*workTree
}

// maxParked is how many copies wait at most. Each stage of a build that steps write to keeps one busy.
const maxParked = 4

// treeDir is where in its directory the files of a copy are.
const treeDir = "tree"

// workTree is a copy of layers in a temporary directory, which its process has the lock of.
type workTree struct {
	temp   *temporary
	tree   *tree.Tree
	layers []ID
}

func (c *copies) prepare(ctx context.Context, layers []ID) (writable, error) {
	dirs, err := c.s.dirs(layers)
	if err != nil {
		return nil, err
	}
	w, err := c.find(ctx, layers)
	if err == nil && w == nil {
		w, err = c.make(ctx, layers, dirs)
	}
	if err != nil {
		return nil, err
	}
	if err := w.tree.Settle(ctx); err != nil {
		w.remove()
		return nil, err
	}
	return &treeCopy{c: c, w: w}, nil
}

// make makes a copy of the layers, whose directories are dirs (topmost first).
func (c *copies) make(ctx context.Context, layers []ID, dirs []string) (*workTree, error) {
	t, err := c.s.newTemporary()
	if err != nil {
		return nil, err
	}
	err = rootfs.Mkdir(t.dir, treeDir, 0o755)
	var tr *tree.Tree
	if err == nil {
		tr, err = tree.New(ctx, filepath.Join(t.path, treeDir), dirs, c.s.Owners())
	}
	if err != nil {
		_ = t.remove()
		return nil, err
	}
	return &workTree{t, tr, slices.Clone(layers)}, nil
}

// park has the copy wait for who wants it. Of too many, the one goes that is made again with the least work.
func (c *copies) park(w *workTree) {
	c.mu.Lock()
	c.parked = append(c.parked, w)
	var out *workTree
	if len(c.parked) > maxParked {
		i := 0
		for j, p := range c.parked {
			if p.tree.Len() < c.parked[i].tree.Len() {
				i = j
			}
		}
		out = c.parked[i]
		c.parked = slices.Delete(c.parked, i, i+1)
	}
	c.mu.Unlock()
	if out != nil {
		out.remove()
	}
}

// takeAll returns the waiting copies that which says yes of.
func (c *copies) takeAll(which func(w *workTree) bool) []*workTree {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*workTree
	c.parked = slices.DeleteFunc(c.parked, func(w *workTree) bool {
		if which(w) {
			all = append(all, w)
			return true
		}
		return false
	})
	return all
}

func (c *copies) forget(id ID) error {
	for _, w := range c.takeAll(func(w *workTree) bool { return slices.Contains(w.layers, id) }) {
		w.remove()
	}
	return errors.Join(c.s.removeCopies(id), c.s.removeViews(id))
}

func (c *copies) close() {
	for _, w := range c.takeAll(func(*workTree) bool { return true }) {
		c.s.keep(w)
	}
}

func (w *workTree) remove() {
	w.tree.Close()
	_ = w.temp.remove() // a later sweep does
}

// treeCopy is a copy that is being written to.
type treeCopy struct {
	c       *copies
	w       *workTree
	used    bool
	mounted bool // somebody else than this process writes
	broken  bool // what it holds is not known
}

func (t *treeCopy) mount() Mount {
	t.used, t.mounted = true, true
	_ = t.w.tree.Lend("etc") // for the files that every box has there; if it cannot be, the sandbox makes it
	return Mount{Upper: t.w.tree.Dir(), UserXattr: t.c.s.userXattr}
}

func (t *treeCopy) open() (*rootfs.Root, error) {
	t.used = true
	return t.c.s.open(Mount{Upper: t.w.tree.Dir()}, nil)
}

// commit makes a layer of what differs between the copy and the layers that it was made of.
func (t *treeCopy) commit(ctx context.Context, epoch *int64) (ID, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	t.broken = true // until it succeeded, and then nobody asks any more
	s := t.c.s
	made, err := s.newTemporary()
	if err != nil {
		return "", err
	}
	defer made.remove() //nolint:errcheck // a later sweep does
	if err := rootfs.Mkdir(made.dir, "fs", 0o755); err != nil {
		return "", err
	}
	if err := t.w.tree.Commit(ctx, filepath.Join(made.path, "fs"), !t.mounted, epoch); err != nil {
		return "", err
	}
	id := newID()
	if err := s.publish(made, id); err != nil {
		return "", err
	}
	if t.w.tree.Private() {
		t.w.remove()
		return id, nil
	}
	t.w.tree.Moved(s.fs(id))
	t.w.layers = append(slices.Clone(t.w.layers), id)
	t.c.park(t.w)
	return id, nil
}

func (t *treeCopy) undo(ctx context.Context) {
	if t.broken || !t.used {
		return
	}
	t.broken = t.w.tree.Reset(ctx, !t.mounted) != nil
	t.used = t.broken
}

func (t *treeCopy) discard() {
	if !t.broken && (!t.used || t.w.tree.Untouched()) {
		t.c.park(t.w)
		return
	}
	t.w.remove()
}

// dirs returns the directories of the layers, topmost first. Of a layer that comes twice only the upper one counts, as in stack.
func (s *Store) dirs(layers []ID) ([]string, error) {
	dirs := make([]string, 0, len(layers))
	for _, id := range slices.Backward(layers) {
		if err := s.check(id); err != nil {
			return nil, err
		}
		if dir := s.fs(id); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

func (c *copies) view(ctx context.Context, layers []ID) (Mount, error) {
	dir, err := c.s.viewDir(ctx, layers)
	if err != nil {
		return Mount{}, err
	}
	return Mount{Lower: []string{dir}, UserXattr: c.s.userXattr}, nil
}

// exists says whether there is a directory of that name.
func exists(dir string) bool {
	fi, err := os.Lstat(dir)
	return err == nil && fi.IsDir()
}
