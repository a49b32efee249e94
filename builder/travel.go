package builder

import (
	"context"
	"encoding/json"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/solver"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/snapshot"
)

// Uploads takes what steps made to other machines.
type Uploads interface {
	// Send is told of a step that was found or made. It does not block.
	Send(m remote.Made)
}

// observed is what the cache knows of a vertex after the solver came by.
type observed struct {
	keys   []cache.Key
	record cache.Record
}

// travel is the part of a build that has to do with caches of other machines.
type travel struct {
	*build
	mu   sync.Mutex
	seen map[*vertex]observed
	away map[cache.Key]cache.Record // records of layers that were not here
}

// save keeps a record. One of a layer that is not here is kept by settle, if the layer came meanwhile.
func (t *travel) save(ctx context.Context, k cache.Key, r cache.Record, next solver.Cache) error {
	if r.Away != nil && r.Layer == "" {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.away[k] = r
		return nil
	}
	return next.Save(ctx, k, r)
}

// settle keeps the records of layers that came to this machine during the build.
func (t *travel) settle(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, r := range t.away {
		d, err := v1.NewHash(r.DiffID)
		if err != nil {
			continue
		}
		if id, err := t.Snapshots.ByDiffID(d); err == nil {
			r.Layer = string(id)
			_ = t.Cache.Save(ctx, k, r) // a later build finds it where this one did
		}
	}
}

func newTravel(b *build) *travel {
	return &travel{build: b, seen: map[*vertex]observed{}, away: map[cache.Key]cache.Record{}}
}

// observe is the solver's Observer.
func (t *travel) observe(v *vertex, keys []cache.Key, parent filesystem, r cache.Record) {
	t.mu.Lock()
	t.seen[v] = observed{keys, r}
	t.mu.Unlock()
	s, ok := v.Op.(*step)
	if !ok || t.Uploads == nil || s.private || r.Local() {
		return
	}
	m := remote.Made{
		Key: keys[0], Name: s.vertex.Name, Created: r.Created, Result: s.exported,
		Layer: func(ctx context.Context) (v1.Hash, image.Layer, error) { return t.describe(ctx, parent, newRef(r)) },
	}
	if len(r.Content) > 0 {
		m.Portable = func(below v1.Hash) cache.Key { return portable(r.Content, below) }
	}
	t.Uploads.Send(m)
}

// describe returns a layer, and the identity of the layers below it.
func (b *Builder) describe(ctx context.Context, parent filesystem, l layerRef) (v1.Hash, image.Layer, error) {
	ids, err := b.diffIDs(ctx, parent.with(l))
	if err != nil {
		return v1.Hash{}, image.Layer{}, err
	}
	layer := image.Layer{DiffID: ids[len(ids)-1]}
	if l.base != nil {
		layer = *l.base
	}
	return remote.Chain(ids[:len(ids)-1]), layer, nil
}

// inline is the cache that an image carries: the steps of its own layers.
func (t *travel) inline(top *vertex, layers int, limits times) (json.RawMessage, error) {
	var steps []remote.Step
	for v := top; v != nil; v = v.Parent {
		o, ok := t.seen[v]
		if _, made := v.Op.(*step); !made {
			break // the base image's layers
		}
		layers--
		if !ok {
			continue
		}
		// Nothing that depends on whether the step ran here, ran now, or is from another machine: the same build is the same image.
		steps = append(steps, remote.Step{Layer: layers, Keys: o.keys[:1], Created: limits.of(v1.Time{Time: o.record.Created}).Time, Name: v.Name})
	}
	return remote.EncodeSteps(steps)
}

// usable is a cache whose records point to layers that are there.
type usable struct {
	solver.Cache
	snapshots *snapshot.Store
	travel    *travel
}

func (u usable) Lookup(ctx context.Context, k cache.Key) (cache.Record, error) {
	r, err := u.Cache.Lookup(ctx, k)
	if err == nil && !u.snapshots.Has(snapshot.ID(r.Layer)) {
		return cache.Record{}, cache.ErrGone
	}
	return r, err
}

func (u usable) Save(ctx context.Context, k cache.Key, r cache.Record) error {
	return u.travel.save(ctx, k, r, u.Cache)
}
