// Package solver runs a graph of vertices: each at most once, everything whose
// inputs are ready at the same time, and nothing that the cache holds.
//
// A vertex is needed when it is the target, the parent of a needed vertex, or an
// input of a needed vertex that missed the cache. Keys are computed for the whole
// graph, results only for what is needed; a vertex hits only if its parent
// hit, so a chain of layers is never put together from two different builds.
package solver

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/cache"
)

// Op is the work of a vertex; R is what vertices pass to each other.
type Op[R any] interface {
	// Parts are the ingredients of the vertex's key, without those of its parent and inputs.
	Parts(ctx context.Context) ([]cache.Part, error)
	// ContentParts are the ingredients of a second key, which is by what parent and inputs hold instead of how they
	// were made. It is asked when the first key missed and they are there: a step whose inputs were made again, and came
	// out the same, need not run again.
	ContentParts(ctx context.Context, parent R, inputs []R) ([]cache.Part, error)
	// Portable is the key of content parts on every machine; false if it cannot be told without work.
	Portable(parent R, content []cache.Part) (cache.Key, bool)
	// Load makes the result from a record of the cache, of a Source from the zero record; it is cheap.
	Load(parent R, r cache.Record) R
	// Fits says whether what r holds may lie on parent. Place returns r as a record of something that does.
	Fits(ctx context.Context, parent R, r cache.Record) bool
	Place(parent R, r cache.Record) cache.Record
	// Run does the work. earlier, if not nil, is the record of what the same step made before: if this is the same but for times,
	// Run throws it away and returns what the record leads to, with its Layer and Created.
	Run(ctx context.Context, parent R, inputs []R, earlier *cache.Record) (R, cache.Record, error)
	// Differences are the first things that differ in what two records hold, but for times; none if nothing does.
	Differences(ctx context.Context, a, b cache.Record) ([]string, error)
}

// Vertex is a node of the graph.
type Vertex[R any] struct {
	ID   string // unique in the graph
	Name string // what a person reads
	// Parent is the vertex whose result this one continues; nil for none. Run then gets the zero R.
	Parent *Vertex[R]
	// Inputs are further vertices whose results Run reads.
	Inputs []*Vertex[R]
	// Source marks a vertex that only describes where something is: its Run is cheap, is never
	// cached and takes no job.
	Source bool
	// Pending, of a Source that is only explained, is the step of another graph which runs before it is known what the source is; nil
	// if that is known.
	Pending *Forecast
	// Fresh marks a vertex that is run whatever the cache holds; what it makes is kept.
	Fresh bool
	// Further returns records that no key leads to, where there are Others; nil for none.
	Further func() []cache.Record
	Op      Op[R]
	// Title is how the vertex's reasons begin: "RUN", "COPY src/".
	Title string
	// Identity are keys that say which instruction the vertex is, and nothing of what it depends on; the first one that has an earlier
	// record counts. The first says it by the instruction's text, and is unique in the graph.
	Identity []cache.Key
	// Notes are kept in the record for Explain.
	Notes func() []cache.Part
	// Explain says what changed of the vertex itself since an earlier record, "" for nothing.
	Explain func(earlier cache.Record, parts, content []cache.Part) string
	// Wrap puts an error of Op into the words of the person who builds; nil leaves it alone.
	Wrap func(error) error
}

// Cache finds and keeps records.
type Cache interface {
	// Lookup returns an error that wraps cache.ErrMiss when there is no usable record.
	Lookup(ctx context.Context, k cache.Key) (cache.Record, error)
	Save(ctx context.Context, k cache.Key, r cache.Record) error
	// Lock waits until nobody else works on k.
	Lock(ctx context.Context, k cache.Key) (unlock func(), err error)
}

// History remembers, by what names a step, the key that it had when it was last built.
type History interface {
	// Latest returns an error that wraps cache.ErrMiss when there is none.
	Latest(ctx context.Context, id cache.Key) (cache.Key, error)
	SetLatest(ctx context.Context, id, k cache.Key) error
	// Lookup finds also the records whose layers are gone.
	Lookup(ctx context.Context, k cache.Key) (cache.Record, error)
}

// Others are caches of other machines.
type Others interface {
	// Prepare is told keys that will be looked up, all at once.
	Prepare(ctx context.Context, keys []cache.Key)
	// Lookup returns the records of k, the best first. Trouble is none.
	Lookup(ctx context.Context, k cache.Key) []cache.Record
}

// Observer is told of each vertex with a record, found or made: its keys, and what it lies on. It must not block.
type Observer[R any] func(v *Vertex[R], keys []cache.Key, parent R, r cache.Record)

// Solver runs graphs.
type Solver[R any] struct {
	Cache Cache
	// History, if not nil, is what misses are explained by.
	History History
	// Verify, if not nil, runs every vertex, and is told of each that does not make what the cache has for its key, and what differs.
	Verify func(v *Vertex[R], differences []string)
	// Others are asked for what Cache does not have; nil for none.
	Others  Others
	Observe Observer[R] // nil for none
	Jobs    int         // how many vertices run at once, at least 1
	Sink    progress.Sink
	Now     func() time.Time
}

// Solve returns the result of target. vertices is the whole graph, each vertex after those that it needs. The first
// failure cancels the rest and is returned; what had finished stays in the cache. A vertex that was given up because of
// another's failure completes with context.Canceled.
func (s *Solver[R]) Solve(ctx context.Context, vertices []*Vertex[R], target *Vertex[R]) (R, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := s.newRun(ctx, cancel, vertices)
	for _, v := range vertices {
		r.emit(v, progress.Event{Kind: progress.Declared, Name: v.Name})
	}
	r.prepare(vertices)
	var wg sync.WaitGroup
	for _, v := range vertices {
		// Looked up at once and for every vertex: a cached step of a stage that nobody needs to read is shown too.
		wg.Go(func() { _, _ = r.nodes[v].hit() })
	}
	wg.Go(func() {
		for _, v := range vertices { // told in the order of the graph, whichever was found first
			if rec, err := r.nodes[v].hit(); rec != nil && err == nil {
				r.emitCached(v)
			}
		}
	})
	result, err := r.nodes[target].result()
	wg.Wait()
	r.keeping.Wait()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause // the failure that made the others give up
		}
		var zero R
		return zero, err
	}
	return result, nil
}

func (s *Solver[R]) newRun(ctx context.Context, cancel context.CancelCauseFunc, vertices []*Vertex[R]) *run[R] {
	r := &run[R]{
		Solver: s, ctx: ctx, fail: cancel, nodes: make(map[*Vertex[R]]*node[R], len(vertices)),
		slots: make(chan struct{}, max(s.Jobs, 1)), texts: make(map[cache.Key]bool, len(vertices)),
	}
	for _, v := range vertices {
		r.add(v)
		if len(v.Identity) > 0 {
			r.texts[v.Identity[0]] = true
		}
	}
	return r
}

// run is one call of Solve.
type run[R any] struct {
	*Solver[R]
	ctx   context.Context //nolint:containedctx // it lives exactly as long as the call of Solve
	fail  context.CancelCauseFunc
	nodes map[*Vertex[R]]*node[R]
	slots chan struct{}
	texts map[cache.Key]bool // the first identities of all vertices
	dry   bool               // nothing is run or written

	keeping sync.WaitGroup // records that are being written, while what needs their vertices runs already
}

// node holds what is computed once for a vertex, by whoever asks first.
type node[R any] struct {
	key    func() (cache.Key, error) // sets parts
	parts  []cache.Part
	hit    func() (*cache.Record, error) // nil for a miss
	result func() (R, error)
	// loaded is the result of a hit or a Source.
	loaded func() R
	// stale is a record of v's key that was there when v's parent was not: what it holds was made on another build
	// of the parent. Written by hit, read after it.
	stale *cache.Record
	// fresh: v, or something that it is made from, is run whatever the cache holds. What the key leads to was made
	// of what was there before.
	fresh bool
	// missed is the error of the cache, if it had no record. Written by hit, as is
	missed error
	ran    atomic.Bool // set before the result is there
}

func (r *run[R]) add(v *Vertex[R]) {
	fresh := v.Fresh || r.Verify != nil || v.Parent != nil && r.nodes[v.Parent].fresh
	for _, in := range v.Inputs {
		fresh = fresh || r.nodes[in].fresh
	}
	r.nodes[v] = &node[R]{
		fresh:  fresh,
		key:    sync.OnceValues(func() (cache.Key, error) { return guard(r, v, func() (cache.Key, error) { return r.key(v) }) }),
		hit:    sync.OnceValues(func() (*cache.Record, error) { return r.hit(v) }),
		result: sync.OnceValues(func() (R, error) { return r.result(v) }),
		loaded: sync.OnceValue(func() R { return r.loaded(v) }),
	}
}

func (r *run[R]) emit(v *Vertex[R], e progress.Event) {
	e.Time, e.Vertex = r.Now(), v.ID
	r.Sink(e)
}

// failed is a failure that was reported already.
type failed struct{ error }

func (f failed) Unwrap() error { return f.error }

// guard runs a part of v's own work: its first error is reported as v's and stops the others, and a
// panic is an error that names v.
func guard[R, T any](r *run[R], v *Vertex[R], f func() (T, error)) (t T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: internal error: %v\n%s", v.Name, p, debug.Stack())
		}
		var seen failed
		if err == nil || errors.As(err, &seen) {
			return
		}
		if cause := context.Cause(r.ctx); cause != nil { // another vertex failed, or the person who builds gave up
			r.emit(v, progress.Event{Kind: progress.Completed, Err: context.Canceled})
			err = failed{cause}
			return
		}
		if v.Wrap != nil {
			err = v.Wrap(err)
		}
		r.emit(v, progress.Event{Kind: progress.Completed, Err: err})
		r.fail(err)
		err = failed{err}
	}()
	return f()
}

// prepare tells the other caches all keys.
func (r *run[R]) prepare(vertices []*Vertex[R]) {
	if r.Others == nil {
		return
	}
	var keys []cache.Key
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, v := range vertices {
		if v.Source || r.nodes[v].fresh {
			continue
		}
		wg.Go(func() {
			if k, err := r.nodes[v].key(); err == nil {
				mu.Lock()
				defer mu.Unlock()
				keys = append(keys, k)
			}
		})
	}
	wg.Wait()
	r.Others.Prepare(r.ctx, keys)
}

// loaded is the result of v, which is a hit or a Source.
func (r *run[R]) loaded(v *Vertex[R]) R {
	var parent R
	if v.Parent != nil {
		parent = r.nodes[v.Parent].loaded()
	}
	rec, _ := r.nodes[v].hit()
	if rec == nil {
		rec = &cache.Record{}
	}
	return v.Op.Load(parent, *rec)
}

func (r *run[R]) hit(v *Vertex[R]) (*cache.Record, error) {
	k, err := r.nodes[v].key()
	if err != nil || v.Source || r.nodes[v].fresh {
		return nil, err
	}
	rec, miss := r.Cache.Lookup(r.ctx, k)
	var parent R
	if v.Parent != nil {
		if !v.Parent.Source {
			if below, err := r.nodes[v.Parent].hit(); below == nil || err != nil {
				if r.nodes[v].missed = miss; miss == nil {
					r.nodes[v].stale = &rec
				}
				return nil, err
			}
		} else if v.Parent.Pending != nil {
			r.nodes[v].missed = miss
			return nil, nil //nolint:nilnil // a miss
		}
		parent = r.nodes[v.Parent].loaded()
	}
	if miss == nil {
		if v.Op.Fits(r.ctx, parent, rec) {
			r.remember(r.ctx, v, k, rec)
			r.observe(v, parent, rec, k)
			return &rec, nil
		}
		r.nodes[v].stale = &rec
	} else {
		r.nodes[v].missed = miss
	}
	fits := func(rec cache.Record) bool { return v.Op.Fits(r.ctx, parent, rec) }
	found, ok := r.elsewhere(v, k, fits)
	if !ok && r.Others != nil && v.Further != nil {
		found, ok = first(v.Further(), fits)
	}
	if rec := found; ok {
		if rec = v.Op.Place(parent, rec); !r.dry {
			rec = r.complete(v, rec, rec.Content)
			r.keep(v, rec, k)
		}
		r.observe(v, parent, rec, k)
		return &rec, nil
	}
	return nil, nil //nolint:nilnil // a miss
}

// elsewhere looks for a record of v in other caches.
func (r *run[R]) elsewhere(v *Vertex[R], k cache.Key, fits func(cache.Record) bool) (cache.Record, bool) {
	if r.Others == nil || r.nodes[v].fresh {
		return cache.Record{}, false
	}
	return first(r.Others.Lookup(r.ctx, k), fits)
}

// first returns the first record that fits.
func first(records []cache.Record, fits func(cache.Record) bool) (cache.Record, bool) {
	if i := slices.IndexFunc(records, fits); i >= 0 {
		return records[i], true
	}
	return cache.Record{}, false
}

func (r *run[R]) observe(v *Vertex[R], parent R, rec cache.Record, keys ...cache.Key) {
	if r.Observe != nil && !r.dry {
		r.Observe(v, keys, parent, rec)
	}
}

func (r *run[R]) emitCached(v *Vertex[R]) {
	r.emit(v, progress.Event{Kind: progress.Cached})
	r.emit(v, progress.Event{Kind: progress.Completed})
}

func (r *run[R]) result(v *Vertex[R]) (R, error) {
	var parent, zero R
	var g errgroup.Group
	if v.Parent != nil {
		g.Go(func() (err error) { parent, err = r.nodes[v.Parent].result(); return err })
	}
	rec, err := r.nodes[v].hit()
	inputs := make([]R, len(v.Inputs))
	if err == nil && rec == nil {
		for i, in := range v.Inputs {
			g.Go(func() (err error) { inputs[i], err = r.nodes[in].result(); return err })
		}
	}
	if err := errors.Join(err, g.Wait()); err != nil {
		return zero, err
	}
	if rec != nil {
		return v.Op.Load(parent, *rec), nil
	}
	return guard(r, v, func() (R, error) { return r.work(v, parent, inputs) })
}

func (r *run[R]) isStale(v *Vertex[R], rec cache.Record) bool {
	stale := r.nodes[v].stale
	return stale != nil && stale.Layer == rec.Layer && stale.Created.Equal(rec.Created)
}

// work runs v's Op, unless somebody else made the same thing while it waited for its turn.
func (r *run[R]) work(v *Vertex[R], parent R, inputs []R) (R, error) {
	var zero R
	if v.Source {
		r.emit(v, progress.Event{Kind: progress.Started})
		result, _, err := v.Op.Run(r.ctx, parent, inputs, nil)
		if err == nil {
			r.emit(v, progress.Event{Kind: progress.Completed})
		}
		return result, err
	}
	k, err := r.nodes[v].key()
	if err != nil {
		return zero, err
	}
	// The lock comes before the job: who waits for another process must not keep this one's steps waiting.
	unlock, err := r.Cache.Lock(r.ctx, k)
	if err != nil {
		return zero, err
	}
	result, keep, err := r.turn(v, k, parent, inputs)
	if keep == nil {
		unlock()
		return result, err
	}
	r.keeping.Go(func() { // what lies on v need not wait for that
		defer unlock()
		keep()
	})
	return result, nil
}

// turn does v's work with its lock held. keep, if not nil, writes the record of what was made.
func (r *run[R]) turn(v *Vertex[R], k cache.Key, parent R, inputs []R) (result R, keep func(), err error) {
	if rec, err := r.Cache.Lookup(r.ctx, k); err == nil && !r.nodes[v].fresh && !r.isStale(v, rec) && v.Op.Fits(r.ctx, parent, rec) {
		r.observe(v, parent, rec, k)
		r.emitCached(v)
		return v.Op.Load(parent, rec), nil, nil
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-r.ctx.Done():
		return result, nil, context.Cause(r.ctx)
	}
	return r.perform(v, k, parent, inputs)
}

// perform finds v by its content or runs it. keep keeps what came of it under both keys.
func (r *run[R]) perform(v *Vertex[R], k cache.Key, parent R, inputs []R) (result R, keep func(), err error) {
	parts, err := v.Op.ContentParts(r.ctx, parent, inputs)
	if err != nil {
		return result, nil, err
	}
	content := cache.NewKey(append([]cache.Part{{Name: "by", Value: "content"}}, parts...))
	rec, err := r.Cache.Lookup(r.ctx, content)
	usable := !v.Fresh && r.Verify == nil
	found := err == nil && usable
	if !found && usable && r.Others != nil {
		if k, ok := v.Op.Portable(parent, parts); ok {
			// What is below is in the key.
			rec, found = r.elsewhere(v, k, func(cache.Record) bool { return true })
		}
	}
	if found {
		rec = r.complete(v, v.Op.Place(parent, rec), parts)
		r.observe(v, parent, rec, k, content)
		r.emitCached(v)
		return v.Op.Load(parent, rec), func() { r.keep(v, rec, k) }, nil
	}
	earlier := r.explain(v, k, parts)
	if r.Verify != nil {
		earlier = r.expected(k, content)
	}
	r.emit(v, progress.Event{Kind: progress.Started})
	r.nodes[v].ran.Store(true)
	result, rec, err = v.Op.Run(r.ctx, parent, inputs, earlier)
	if err == nil && r.Verify != nil && earlier != nil {
		err = r.compare(v, *earlier, rec)
	}
	if err != nil {
		return result, nil, err
	}
	rec = r.complete(v, rec, parts)
	r.observe(v, parent, rec, k, content)
	r.emit(v, progress.Event{Kind: progress.Completed})
	return result, func() { r.keep(v, rec, k, content) }, nil
}

// complete adds to a record what it is explained and found by.
func (r *run[R]) complete(v *Vertex[R], rec cache.Record, content []cache.Part) cache.Record {
	rec.Parts, rec.Content = r.nodes[v].parts, content
	if v.Notes != nil {
		rec.Notes = append(sourceNotes(v), v.Notes()...)
	}
	return rec
}

// keep writes a complete record, also when the build has been given up; trouble with the cache is a warning.
func (r *run[R]) keep(v *Vertex[R], rec cache.Record, keys ...cache.Key) {
	ctx := context.WithoutCancel(r.ctx)
	for _, k := range keys {
		if err := r.Cache.Save(ctx, k, rec); err != nil {
			r.emit(v, progress.Event{Kind: progress.Warned, Data: []byte("the step will not be cached: " + err.Error())})
			return
		}
	}
	r.remember(ctx, v, keys[0], rec)
}
