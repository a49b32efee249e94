package builder

import (
	"context"
	"encoding/hex"
	"errors"
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
	add := func(name, value string) { parts = append(parts, cache.Part{Name: name, Value: value}) }
	for _, s := range c.Sources {
		add("source", s)
	}
	for _, e := range c.Exclude {
		add("exclude", e)
	}
	if c.Link {
		add("link", "true")
	}
	if c.Parents {
		add("parents", "true")
	}
	if c.Unpack != nil {
		add("unpack", strconv.FormatBool(*c.Unpack))
	}
	for _, f := range c.Inline {
		add("inline", f.Name)
		add("data", string(f.Data))
	}
	if w.fromStage {
		return parts, nil // the input's key stands for its files
	}
	_, sum, err := w.selection(ctx)
	if err != nil {
		return nil, err
	}
	add("files", hex.EncodeToString(sum[:]))
	return parts, nil
}

func (w *copyWork) content(ctx context.Context, below []snapshot.ID, inputs []filesystem) ([]cache.Part, error) {
	var parts []cache.Part
	if w.fromStage {
		tree, items, err := w.source(ctx, inputs)
		if err != nil {
			return nil, err
		}
		defer tree.Close()
		sum, err := tree.Digest(ctx, items)
		if err != nil {
			return nil, err
		}
		parts = append(parts, cache.Part{Name: "files", Value: hex.EncodeToString(sum[:])})
	}
	if !w.copy.Link {
		return parts, nil
	}
	root, err := w.Snapshots.OpenView(below)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	opt, err := w.options(root)
	if err != nil {
		return nil, err
	}
	ways, err := copier.Ways(root, opt)
	if err != nil {
		return nil, err
	}
	parts = append(parts, cache.Part{Name: "ways", Value: ways})
	if opt.Owner != nil {
		parts = append(parts, cache.Part{Name: "owner", Value: fmt.Sprintf("%d:%d", opt.Owner.UID, opt.Owner.GID)})
	}
	return parts, nil
}

// detached: a linked copy is a layer that can lie on others than those it was made on.
func (w *copyWork) detached() bool { return w.copy.Link }

// options are those of the copier. Names of users are looked up in root.
func (w *copyWork) options(root *rootfs.Root) (copier.Options, error) {
	opt := copier.Options{Dest: w.copy.Dest, Extract: w.copy.Add, UserXattr: w.UserXattr}
	if w.copy.Unpack != nil {
		opt.Extract = *w.copy.Unpack
	}
	if w.copy.Chmod != "" {
		mode, err := dockerfile.ParseMode(w.copy.Chmod)
		if err != nil {
			return opt, err
		}
		opt.Mode = mode.Apply
	}
	var err error
	opt.Owner, err = w.owner(root)
	return opt, err
}

func (w *copyWork) do(ctx context.Context, active *snapshot.Active, below []snapshot.ID, inputs []filesystem) error {
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
	users := dst
	if w.copy.Link {
		if users, err = w.Snapshots.OpenView(below); err != nil {
			return err
		}
		defer users.Close()
	}
	opt, err := w.options(users)
	if err != nil {
		return err
	}
	if w.copy.Link {
		opt.Below = users
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

// owner looks --chown up. A user that does not exist is taken for root, as in BuildKit, but not silently.
func (w *copyWork) owner(root *rootfs.Root) (*layer.Owner, error) {
	if w.copy.Chown == "" {
		return nil, nil //nolint:nilnil // no --chown: the copier's default
	}
	o, err := copier.Owner(root, w.copy.Chown)
	var unknown *copier.UnknownError
	if errors.As(err, &unknown) {
		w.warn(w.vertex, fmt.Sprintf("--chown=%s: %v: the files belong to %d:%d", w.copy.Chown, err, o.UID, o.GID))
		err = nil
	}
	return &o, err
}
