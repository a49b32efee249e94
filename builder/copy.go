package builder

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/strake-build/strake/builder/copier"
	"github.com/strake-build/strake/builder/fetch"
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
	tree      *source.Tree  // the context that it reads, unless
	fromStage bool          // it reads the vertex's input (none: an empty file system)
	taken     *source.Taken // what the whole build takes of tree

	itself bool // the source is the name of a file or a folder, copied as it is: a folder with its mode, and not only what is in it

	once   sync.Once // guards what follows: what the sources in a context and on the network are
	groups []group
	mode   *uint32 // of the folder that is copied itself; nil for none
	err    error

	listOnce sync.Once                  // see lists
	mu       sync.Mutex                 // guards
	listed   map[cache.Key][]cache.File // the files that digests of this build stand for; see list
}

// group is a run of sources in the order of the text: some of a context, or one that is fetched.
type group struct {
	items []source.Item
	file  *fetch.File
	repo  *fetch.Repository
	part  cache.Part
}

// selects is the selection of what the patterns match, with what --exclude and --parents say.
func (w *copyWork) selects(patterns []string) source.Selection {
	return source.Selection{Patterns: patterns, Literal: w.itself, Exclude: w.copy.Exclude, Parents: w.copy.Parents, Taken: w.taken}
}

// resolved finds and digests what is copied from a context and from the network, once.
func (w *copyWork) resolved(ctx context.Context) ([]group, error) {
	w.once.Do(func() {
		if w.groups, w.err = w.resolve(ctx); w.err == nil && w.itself {
			w.mode, w.err = w.folderMode()
		}
	})
	return w.groups, w.err
}

// folderMode is the mode of the folder that is copied itself. The top of a context has none: as with BuildKit, its files alone are the context.
func (w *copyWork) folderMode() (*uint32, error) {
	mode, ok, err := w.tree.FolderMode(w.copy.Sources[0])
	if err != nil || !ok {
		return nil, err
	}
	return &mode, nil
}

// resolve finds and digests the sources, in their order: those in the context that follow one another at once, each remote one by itself.
func (w *copyWork) resolve(ctx context.Context) ([]group, error) {
	var groups []group
	next := 0
	local := func(end int) error {
		if next == end {
			return nil
		}
		items, err := w.tree.Select(ctx, w.selects(w.copy.Sources[next:end]))
		if err != nil {
			return err
		}
		sum, err := w.tree.Digest(ctx, items)
		groups = append(groups, group{items: items, part: filesPart(sum)})
		return err
	}
	for _, r := range w.copy.Remotes {
		if err := local(r.Index); err != nil {
			return nil, err
		}
		next = r.Index + 1
		g, err := w.remote(ctx, r)
		if err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	return groups, local(len(w.copy.Sources))
}

// parts are all that a copy depends on but the files of stages and images, which content names.
func (w *copyWork) parts(ctx context.Context) ([]cache.Part, error) {
	c := w.copy
	instruction := "COPY"
	if c.Add {
		instruction = "ADD"
	}
	parts := []cache.Part{{Name: "instruction", Value: instruction}, {Name: "dest", Value: c.Dest}, {Name: "chown", Value: c.Chown}, {Name: "chmod", Value: c.Chmod}}
	add := func(name, value string) { parts = append(parts, cache.Part{Name: name, Value: value}) }
	for _, s := range c.Sources {
		add(cache.PartSource, s)
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
	groups, err := w.resolved(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		parts = append(parts, g.part)
	}
	if w.mode != nil {
		add("folder-mode", strconv.FormatUint(uint64(*w.mode), 8))
	}
	return parts, nil
}

// filesPart is the part of a key that says what the files are.
func filesPart(sum source.Digest) cache.Part {
	return cache.Part{Name: cache.PartFiles, Value: hex.EncodeToString(sum[:])}
}

// content names what the copy depends on that is known only once its inputs are there: the files that come from a stage or an image, and what a linked
// copy asks of the layers below.
func (w *copyWork) content(ctx context.Context, below []snapshot.ID, inputs []filesystem) ([]cache.Part, error) {
	var parts []cache.Part
	if w.fromStage {
		tree, items, err := w.stage(ctx, inputs)
		if err != nil {
			return nil, err
		}
		defer tree.Close()
		sum, err := tree.Digest(ctx, items)
		if err != nil {
			return nil, err
		}
		part := filesPart(sum)
		if err := w.list(ctx, tree, items, part.Value); err != nil { // while the tree is open
			return nil, err
		}
		parts = append(parts, part)
	}
	if !w.copy.Link {
		return parts, nil
	}
	root, err := w.Snapshots.OpenView(ctx, below)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	opt, err := w.options(root, len(below))
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

// options are those of the copier. Names of users are looked up in root, which has so many layers.
func (w *copyWork) options(root *rootfs.Root, layers int) (copier.Options, error) {
	opt := copier.Options{Dest: w.copy.Dest, Extract: w.copy.Add, UserXattr: w.UserXattr}
	if w.copy.Unpack != nil {
		opt.Extract = *w.copy.Unpack
	}
	if w.copy.Chmod != "" {
		mode, err := dockerfile.ParseMode(w.copy.Chmod)
		if err != nil {
			return opt, err
		}
		opt.Mode, opt.ParentMode = mode.Apply, mode.Octal()
	}
	var err error
	opt.Owner, err = w.owner(root, layers)
	return opt, err
}

// do copies into the file system that active is to become the top layer of.
func (w *copyWork) do(ctx context.Context, active *snapshot.Active, below []snapshot.ID, inputs []filesystem) error {
	dst, err := active.Open()
	if err != nil {
		return err
	}
	defer dst.Close()
	users := dst
	if w.copy.Link {
		if users, err = w.Snapshots.OpenView(ctx, below); err != nil {
			return err
		}
		defer users.Close()
	}
	opt, err := w.options(users, len(below))
	if err != nil {
		return err
	}
	if w.copy.Link {
		opt.Below = users
	}
	if w.fromStage {
		err = w.fromInput(ctx, dst, inputs, opt)
	} else {
		err = w.fromGroups(ctx, dst, opt)
	}
	if err != nil || len(w.copy.Inline) == 0 {
		return err
	}
	var inline []copier.Inline
	for _, f := range w.copy.Inline {
		inline = append(inline, copier.Inline(f))
	}
	return copier.Copy(ctx, dst, nil, nil, inline, opt)
}

func (w *copyWork) fromInput(ctx context.Context, dst *rootfs.Root, inputs []filesystem, opt copier.Options) error {
	tree, items, err := w.stage(ctx, inputs)
	if err != nil {
		return err
	}
	defer tree.Close()
	return copier.Copy(ctx, dst, tree, items, nil, opt)
}

func (w *copyWork) fromGroups(ctx context.Context, dst *rootfs.Root, opt copier.Options) error {
	groups, err := w.resolved(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		switch {
		case g.file != nil:
			err = w.addFile(ctx, dst, g.file, opt)
		case g.repo != nil:
			err = w.addRepository(ctx, dst, g.repo, opt)
		default:
			err = copier.Copy(ctx, dst, w.tree, g.items, nil, opt)
		}
		if err != nil {
			return err
		}
	}
	if w.mode == nil {
		return nil
	}
	dir, base, err := dst.Parent(w.copy.Dest)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dst.Owners().Chmod(dir, base, *w.mode)
}

// stage opens the file system of the input, and selects what is read of it. The tree must be closed.
func (w *copyWork) stage(ctx context.Context, inputs []filesystem) (*source.Tree, []source.Item, error) {
	var from filesystem
	if len(inputs) > 0 {
		from = inputs[0]
	}
	ids, err := w.unpacked(ctx, from, w.vertex)
	if err != nil {
		return nil, nil, err
	}
	root, err := w.Snapshots.OpenView(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	tree := source.FromRoot(root, source.Options{Unwritten: true, Now: w.Now})
	items, err := tree.Select(ctx, w.selects(w.copy.Sources))
	if err != nil {
		_ = tree.Close()
		return nil, nil, err
	}
	return tree, items, nil
}

// owner is whom --chown names, by the users and groups of root; nil without --chown.
func (w *copyWork) owner(root *rootfs.Root, layers int) (*layer.Owner, error) {
	if w.copy.Chown == "" {
		return nil, nil //nolint:nilnil // no --chown: the copier's default
	}
	o, err := w.lookOwner(w.vertex, "--chown="+w.copy.Chown, root, w.copy.Chown, layers)
	return &o, err
}

// lookOwner looks up who owns what a step makes; said is where its name is from. A user that does not exist is taken for root, as
// in BuildKit, but not silently; where there are no layers to look into it is an error.
func (b *build) lookOwner(v *vertex, said string, root *rootfs.Root, name string, layers int) (layer.Owner, error) {
	o, err := copier.Owner(root, name)
	var unknown *copier.UnknownError
	if errors.As(err, &unknown) && layers > 0 {
		b.warn(v, fmt.Sprintf("%s: %v: the files belong to %d:%d", said, err, o.UID, o.GID))
		err = nil
	}
	return o, err
}
