package builder

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"

	"github.com/strake-build/strake/builder/copier"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
	"github.com/strake-build/strake/layer/snapshot"
)

// copyWork does a COPY or an ADD.
type copyWork struct {
	*build
	vertex    *vertex
	copy      *dockerfile.Copy
	tree      *source.Tree // the context that it reads, unless
	fromStage bool         // it reads the vertex's input (none: an empty file system)

	once  sync.Once // guards what follows: the selection in the context
	items []source.Item
	sum   source.Digest
	err   error
}

// selects says what is copied.
func (w *copyWork) selects() source.Selection {
	return source.Selection{Patterns: w.copy.Sources, Exclude: w.copy.Exclude, Parents: w.copy.Parents}
}

// selection finds and digests what is copied from a context.
func (w *copyWork) selection(ctx context.Context) ([]source.Item, source.Digest, error) {
	w.once.Do(func() {
		if len(w.copy.Sources) == 0 {
			return
		}
		if w.items, w.err = w.tree.Select(ctx, w.selects()); w.err == nil {
			w.sum, w.err = w.tree.Digest(ctx, w.items)
		}
	})
	return w.items, w.sum, w.err
}

func (w *copyWork) parts(ctx context.Context) ([]cache.Part, error) {
	c := w.copy
	instruction := "COPY"
	if c.Add {
		instruction = "ADD"
	}
	parts := []cache.Part{{Name: "instruction", Value: instruction}, {Name: "dest", Value: c.Dest}, {Name: "chown", Value: c.Chown}, {Name: "chmod", Value: c.Chmod}}
	for _, s := range c.Sources {
		parts = append(parts, cache.Part{Name: "source", Value: s})
	}
	for _, e := range c.Exclude {
		parts = append(parts, cache.Part{Name: "exclude", Value: e})
	}
	if c.Parents {
		parts = append(parts, cache.Part{Name: "parents", Value: "true"})
	}
	for _, f := range c.Inline {
		parts = append(parts, cache.Part{Name: "inline", Value: f.Name}, cache.Part{Name: "data", Value: string(f.Data)})
	}
	if w.fromStage {
		return parts, nil // the input's key stands for its files
	}
	_, sum, err := w.selection(ctx)
	if err != nil {
		return nil, err
	}
	return append(parts, cache.Part{Name: "files", Value: hex.EncodeToString(sum[:])}), nil
}

func (w *copyWork) content(ctx context.Context, inputs []filesystem) ([]cache.Part, error) {
	if !w.fromStage {
		return nil, nil // parts has it
	}
	tree, items, err := w.source(ctx, inputs)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	sum, err := tree.Digest(ctx, items)
	return []cache.Part{{Name: "files", Value: hex.EncodeToString(sum[:])}}, err
}

func (w *copyWork) do(ctx context.Context, active *snapshot.Active, inputs []filesystem) error {
	opt := copier.Options{Dest: w.copy.Dest, Extract: w.copy.Add, UserXattr: w.UserXattr}
	if w.copy.Chmod != "" {
		m, err := strconv.ParseUint(w.copy.Chmod, 8, 12)
		if err != nil {
			return fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", w.copy.Chmod)
		}
		opt.Mode = func(uint32, bool) uint32 { return uint32(m) }
	}
	tree, items, err := w.source(ctx, inputs)
	if err != nil {
		return err
	}
	if w.fromStage {
		defer tree.Close()
	}
	dst, err := active.Open()
	if err != nil {
		return err
	}
	defer dst.Close()
	if opt.Owner, err = owner(dst, w.copy.Chown); err != nil {
		return err
	}
	var inline []copier.Inline
	for _, f := range w.copy.Inline {
		inline = append(inline, copier.Inline(f))
	}
	return copier.Copy(ctx, dst, tree, items, inline, opt)
}

// source opens the tree that is read, and what of it.
func (w *copyWork) source(ctx context.Context, inputs []filesystem) (*source.Tree, []source.Item, error) {
	if !w.fromStage {
		items, _, err := w.selection(ctx)
		return w.tree, items, err
	}
	var from filesystem
	if len(inputs) > 0 {
		from = inputs[0]
	}
	ids, err := w.unpacked(ctx, from, w.vertex)
	if err != nil {
		return nil, nil, err
	}
	root, err := w.Snapshots.OpenView(ids)
	if err != nil {
		return nil, nil, err
	}
	tree := source.FromRoot(root, source.Options{Now: w.Now})
	items, err := tree.Select(ctx, w.selects())
	if err != nil {
		_ = tree.Close()
		return nil, nil, err
	}
	return tree, items, nil
}

func owner(root *rootfs.Root, chown string) (*layer.Owner, error) {
	if chown == "" {
		return nil, nil //nolint:nilnil // no --chown: the copier's default
	}
	o, err := copier.Owner(root, chown)
	return &o, err
}
