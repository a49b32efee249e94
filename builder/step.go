package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/copier"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

// work is what distinguishes RUN, COPY, ADD and WORKDIR: what they are made of, and what they do to a file system.
type work interface {
	parts(ctx context.Context) ([]cache.Part, error)
	// content digests what it takes from its inputs, and from the layers below if it is detached.
	content(ctx context.Context, below []snapshot.ID, inputs []filesystem) ([]cache.Part, error)
	// do writes to active, which is empty for detached work.
	do(ctx context.Context, active *snapshot.Active, below []snapshot.ID, inputs []filesystem) error
	// detached says that the layer depends on the layers below in nothing but what content says: it may lie on others.
	detached() bool
}

// step is the solver.Op of an instruction that makes one layer.
type step struct {
	*build
	vertex   *vertex
	work     work
	identity cache.Key // the first of the vertex's
	exported bool      // the layer is part of the image: its diffID will be needed
	private  bool      // the layer is of files of a context alone: it does not travel by itself
}

func (s *step) Parts(ctx context.Context) ([]cache.Part, error) {
	parts, err := s.work.parts(ctx)
	if err == nil && s.clamps() {
		parts = append(parts, cache.Part{Name: "clamp", Value: strconv.FormatInt(*s.bound, 10)})
	}
	return parts, err
}

// clamps says that no file of the layer is later than the bound.
func (s *step) clamps() bool { return s.bound != nil && s.opt.RewriteTimestamps }

// ContentParts name the layers below, which are what they are however they were made, and the files that are read.
func (s *step) ContentParts(ctx context.Context, parent filesystem, inputs []filesystem) ([]cache.Part, error) {
	parts, err := s.Parts(ctx)
	if err != nil {
		return nil, err
	}
	var below []snapshot.ID
	if s.work.detached() {
		if below, err = s.unpacked(ctx, parent, s.vertex); err != nil {
			return nil, err
		}
	} else {
		parts = append(parts, cache.Part{Name: belowPart, Value: cache.NewKey(belowParts(parent)).String()})
	}
	own, err := s.work.content(ctx, below, inputs)
	return append(parts, own...), err
}

// Portable names the layers below by their diffIDs. Those that nobody has computed yet are not waited for.
func (s *step) Portable(parent filesystem, content []cache.Part) (cache.Key, bool) {
	ids := make([]v1.Hash, len(parent.layers))
	for i, l := range parent.layers {
		if l.base != nil {
			ids[i] = l.base.DiffID
			continue
		}
		d, ok := s.Snapshots.KnownDiffID(l.made)
		if !ok && !s.work.detached() {
			return cache.Key{}, false
		}
		ids[i] = d
	}
	return portable(content, remote.Chain(ids)), true
}

// portable is the key of content parts on layers.
func portable(content []cache.Part, below v1.Hash) cache.Key {
	parts := []cache.Part{{Name: "by", Value: "content, on any machine"}}
	for _, p := range content {
		if p.Name == belowPart {
			p.Value = below.String()
		}
		parts = append(parts, p)
	}
	return cache.NewKey(parts)
}

// belowPart is the content part that names the layers below, for work that is not detached.
const belowPart = "below"

func belowParts(parent filesystem) []cache.Part {
	var parts []cache.Part
	for _, l := range parent.layers {
		parts = append(parts, cache.Part{Name: "below", Value: l.identity()})
	}
	return parts
}

func (s *step) Load(parent filesystem, r cache.Record) filesystem {
	return parent.with(newRef(r))
}

// Fits says whether the record's layer was made on the layers of parent.
func (s *step) Fits(ctx context.Context, parent filesystem, r cache.Record) bool {
	if r.Away == nil || r.On != "" {
		return r.On == parent.identity()
	}
	below, err := s.chain(ctx, parent)
	return err == nil && r.Away.Below == below
}

// Place says of a record that its layer lies on parent.
func (s *step) Place(parent filesystem, r cache.Record) cache.Record {
	r.On = parent.identity()
	return r
}

// Run does the work on the layers below, and makes a layer of what it changed.
func (s *step) Run(ctx context.Context, parent filesystem, inputs []filesystem, earlier *cache.Record) (filesystem, cache.Record, error) {
	var none filesystem
	ids, err := s.unpacked(ctx, parent, s.vertex)
	if err != nil {
		return none, cache.Record{}, err
	}
	under := ids
	if s.work.detached() {
		under = nil
	}
	active, err := s.Snapshots.Prepare(ctx, under)
	if err != nil {
		return none, cache.Record{}, err
	}
	defer active.Discard()
	if err := s.work.do(ctx, active, ids, inputs); err != nil {
		var exit *runner.ExitError
		if errors.As(err, &exit) { // nobody writes any more
			active.Undo(ctx)
		}
		return none, cache.Record{}, err
	}
	if s.clamps() {
		active.Clamp(*s.bound)
	}
	id, err := active.Commit(ctx)
	if err != nil {
		return none, cache.Record{}, err
	}
	rec := cache.Record{Layer: string(id), Created: s.Now().UTC(), Name: s.vertex.Name}
	if same, err := s.sameAs(ctx, id, earlier); err != nil {
		return none, cache.Record{}, err
	} else if same {
		s.Snapshots.Replace(ctx, id, snapshot.ID(earlier.Layer))
		rec.Layer, rec.Created, rec.DiffID = earlier.Layer, earlier.Created, earlier.DiffID
		id = snapshot.ID(earlier.Layer)
	}
	if s.exported {
		s.hash(id)
	}
	rec = s.Place(parent, rec)
	s.keepLists(ctx)
	return s.Load(parent, rec), rec, nil
}

// Differences are the first paths that differ in the layers of two records.
func (s *step) Differences(ctx context.Context, a, b cache.Record) ([]string, error) {
	const shown = 5
	if a.Layer == b.Layer {
		return nil, nil
	}
	return s.Snapshots.Differences(ctx, snapshot.ID(a.Layer), snapshot.ID(b.Layer), shown)
}

// sameAs says whether the layer id is what the step made before, but for times: then the earlier one is taken, so that what lies
// on it needs not be made again. It is not taken if the build says something else of times now.
func (s *step) sameAs(ctx context.Context, id snapshot.ID, earlier *cache.Record) (bool, error) {
	if earlier == nil || !s.Snapshots.Has(snapshot.ID(earlier.Layer)) || !slices.Equal(timeNotes(earlier.Notes), timeNotes(s.notes())) {
		return false, nil
	}
	same, err := s.Snapshots.Same(ctx, snapshot.ID(earlier.Layer), id)
	if err != nil && ctx.Err() == nil {
		return false, nil // an earlier layer that cannot be read is none
	}
	return same, err
}

// workdirWork makes a working directory.
type workdirWork struct {
	*build
	vertex    *vertex
	dir, user string
	at        *int64 // SOURCE_DATE_EPOCH; nil for none
}

func (w *workdirWork) parts(context.Context) ([]cache.Part, error) {
	parts := []cache.Part{{Name: "instruction", Value: "WORKDIR"}, {Name: "dir", Value: w.dir}, {Name: "user", Value: w.user}}
	if w.at != nil {
		parts = append(parts, cache.Part{Name: "time", Value: strconv.FormatInt(*w.at, 10)})
	}
	return parts, nil
}

func (w *workdirWork) content(context.Context, []snapshot.ID, []filesystem) ([]cache.Part, error) {
	return nil, nil
}

func (w *workdirWork) detached() bool { return false }

func (w *workdirWork) do(_ context.Context, active *snapshot.Active, below []snapshot.ID, _ []filesystem) error {
	root, err := active.Open()
	if err != nil {
		return err
	}
	defer root.Close()
	var owner *layer.Owner
	if w.user != "" {
		var o layer.Owner
		o, err = w.lookOwner(w.vertex, "USER "+w.user, root, w.user, len(below))
		owner = &o
	}
	if err == nil {
		err = copier.MakeDir(root, w.dir, owner, w.at)
	}
	if err != nil {
		return fmt.Errorf("making the working directory %s: %w", w.dir, err)
	}
	return nil
}
