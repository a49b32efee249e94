package solver_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/builder/solver"
	"github.com/strake-build/strake/cache"
)

// world is a memory cache and a log of what ran; its results are strings that spell how they came about.
type world struct {
	mu      sync.Mutex
	records map[cache.Key]cache.Record
	locks   map[cache.Key]chan struct{}
	ran     []string
	events  []progress.Event
	now, at int // running at the same time: now and at most
}

func newWorld() *world {
	return &world{records: map[cache.Key]cache.Record{}, locks: map[cache.Key]chan struct{}{}}
}

func (w *world) Lookup(_ context.Context, k cache.Key) (cache.Record, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r, ok := w.records[k]; ok {
		return r, nil
	}
	return cache.Record{}, cache.ErrMiss
}

func (w *world) Save(_ context.Context, k cache.Key, r cache.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records[k] = r
	return nil
}

func (w *world) Lock(ctx context.Context, k cache.Key) (func(), error) {
	w.mu.Lock()
	c, ok := w.locks[k]
	if !ok {
		c = make(chan struct{}, 1)
		w.locks[k] = c
	}
	w.mu.Unlock()
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

type op struct {
	*world
	what string
	made string // the layer it makes, if that is not what
	do   func(context.Context) error
}

func (o op) Portable(string, []cache.Part) (cache.Key, bool) { return cache.Key{}, false }

func (o op) Fits(_ context.Context, parent string, r cache.Record) bool { return r.On == parent }

func (o op) Place(parent string, r cache.Record) cache.Record {
	r.On = parent
	return r
}

func (o op) Parts(context.Context) ([]cache.Part, error) {
	if strings.HasPrefix(o.what, "nokey") {
		return nil, errors.New("no key for " + o.what)
	}
	return []cache.Part{{Name: "what", Value: o.what}}, nil
}

func (o op) ContentParts(_ context.Context, parent string, inputs []string) ([]cache.Part, error) {
	parts := []cache.Part{{Name: "what", Value: o.what}, {Name: "parent", Value: o.content(parent)}}
	for _, in := range inputs {
		parts = append(parts, cache.Part{Name: "input", Value: o.content(in)})
	}
	return parts, nil
}

// content is what a result holds: versions of one thing, "a@1" and "a@2", hold the same.
func (o op) content(result string) string {
	fields := strings.FieldsFunc(result, func(r rune) bool { return r == '+' })
	for i, f := range fields {
		fields[i], _, _ = strings.Cut(f, "@")
	}
	return strings.Join(fields, "+")
}

func (o op) Differences(_ context.Context, a, b cache.Record) ([]string, error) {
	if a.Layer != b.Layer {
		return []string{a.Layer + " " + b.Layer}, nil
	}
	return nil, nil
}

func (o op) Load(parent string, r cache.Record) string { return parent + "+" + r.Layer }

func (o op) Run(ctx context.Context, parent string, inputs []string, _ *cache.Record) (string, cache.Record, error) {
	o.mu.Lock()
	o.ran = append(o.ran, o.what)
	o.now++
	o.at = max(o.at, o.now)
	o.mu.Unlock()
	defer func() { o.mu.Lock(); o.now--; o.mu.Unlock() }()
	if o.do != nil {
		if err := o.do(ctx); err != nil {
			return "", cache.Record{}, err
		}
	}
	layer := cmp.Or(o.made, o.what)
	if len(inputs) > 0 {
		layer += "(" + strings.Join(inputs, ",") + ")"
	}
	return parent + "+" + layer, cache.Record{Layer: layer, On: parent}, nil
}

func (w *world) vertex(what string, parent *solver.Vertex[string], inputs ...*solver.Vertex[string]) *solver.Vertex[string] {
	return &solver.Vertex[string]{
		ID: what, Name: what, Parent: parent, Inputs: inputs, Op: op{world: w, what: what},
		Wrap: func(err error) error { return fmt.Errorf("at %s: %w", what, err) },
	}
}

func (w *world) solve(ctx context.Context, jobs int, vs ...*solver.Vertex[string]) (string, error) {
	w.ran, w.events, w.at = nil, nil, 0
	s := solver.Solver[string]{Cache: w, Jobs: jobs, Now: time.Now, Sink: func(e progress.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	}}
	return s.Solve(ctx, vs, vs[len(vs)-1])
}

func (w *world) did() string {
	slices.Sort(w.ran)
	return strings.Join(w.ran, " ")
}

func TestEachVertexRunsOnceAndThenHits(t *testing.T) {
	w := newWorld()
	a := w.vertex("a", nil)
	b := w.vertex("b", a)
	c := w.vertex("c", a)
	d := w.vertex("d", b, c)
	for _, want := range []string{"a b c d", ""} {
		got, err := w.solve(t.Context(), 4, a, b, c, d)
		if err != nil || got != "+a+b+d(+a+c)" {
			t.Fatalf("got %q, %v", got, err)
		}
		if w.did() != want {
			t.Errorf("ran %q, want %q", w.did(), want)
		}
	}
}

// A hit reads no inputs: the stage it copies from need not exist any more.
func TestInputsOfAHitDoNotRun(t *testing.T) {
	w := newWorld()
	in := w.vertex("in", nil)
	top := w.vertex("top", nil, in)
	if _, err := w.solve(t.Context(), 1, in, top); err != nil {
		t.Fatal(err)
	}
	for k, r := range w.records {
		if r.Layer == "in" {
			delete(w.records, k)
		}
	}
	got, err := w.solve(t.Context(), 1, in, top)
	if err != nil || got != "+top(+in)" || w.did() != "" {
		t.Errorf("got %q, %v; ran %q", got, err, w.did())
	}
}

// A record above a step that has to run again belongs to another build of that step.
func TestNoHitAboveAMiss(t *testing.T) {
	w := newWorld()
	a := w.vertex("a", nil)
	b := w.vertex("b", a)
	if _, err := w.solve(t.Context(), 1, a, b); err != nil {
		t.Fatal(err)
	}
	for k, r := range w.records {
		if r.Layer == "a" {
			delete(w.records, k)
		}
	}
	a.Op = op{world: w, what: "a", made: "other"}
	if _, err := w.solve(t.Context(), 1, a, b); err != nil || w.did() != "a b" {
		t.Errorf("ran %q, %v", w.did(), err)
	}
}

// An input that was made again and holds the same does not make what reads it run again, nor what is above that.
func TestSameContentCutsOff(t *testing.T) {
	w := newWorld()
	for i, want := range []string{"a@1 copy top", "a@2"} {
		in := w.vertex(fmt.Sprint("a@", i+1), nil)
		mid := w.vertex("copy", nil, in)
		top := w.vertex("top", mid)
		got, err := w.solve(t.Context(), 1, in, mid, top)
		if err != nil || got != "+copy(+a@1)+top" || w.did() != want {
			t.Errorf("got %q, %v; ran %q, want %q", got, err, w.did(), want)
		}
		if _, err := w.solve(t.Context(), 1, in, mid, top); err != nil || w.did() != "" {
			t.Errorf("then ran %q, %v", w.did(), err)
		}
	}
}

func TestFreshVertexRunsAndIsKept(t *testing.T) {
	w := newWorld()
	a := w.vertex("a", nil)
	b := w.vertex("b", a)
	for _, fresh := range []bool{true, true, false} {
		b.Fresh = fresh
		if _, err := w.solve(t.Context(), 1, a, b); err != nil || strings.Contains(w.did(), "b") != fresh {
			t.Errorf("fresh %v: ran %q, %v", fresh, w.did(), err)
		}
	}
}

// What reads a fresh vertex waits for it, and is found by what came of it.
func TestFreshInputIsRunBeforeItsReaderHits(t *testing.T) {
	w := newWorld()
	for _, c := range []struct{ made, want string }{{"in@1", "copy in"}, {"in@2", "in"}, {"other", "copy in"}} {
		in := w.vertex("in", nil)
		in.Fresh, in.Op = true, op{world: w, what: "in", made: c.made}
		mid := w.vertex("copy", nil, in)
		if _, err := w.solve(t.Context(), 1, in, mid); err != nil || w.did() != c.want {
			t.Errorf("%s: ran %q, %v", c.made, w.did(), err)
		}
	}
}

func TestIndependentVerticesRunTogetherWithinJobs(t *testing.T) {
	for jobs, want := range map[int]time.Duration{8: time.Second, 4: 2 * time.Second, 1: 8 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			var vs []*solver.Vertex[string]
			for i := range 8 {
				v := w.vertex(fmt.Sprint("s", i), nil)
				v.Op = op{world: w, what: v.ID, do: func(context.Context) error { time.Sleep(time.Second); return nil }}
				vs = append(vs, v)
			}
			vs = append(vs, w.vertex("join", nil, vs...))
			start := time.Now()
			if _, err := w.solve(t.Context(), jobs, vs...); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d != want || w.at != jobs {
				t.Errorf("%d jobs: %v with %d at once, want %v", jobs, d, w.at, want)
			}
		})
	}
}

func TestFirstFailureStopsTheRest(t *testing.T) {
	w := newWorld()
	bad := errors.New("bad")
	slow := w.vertex("slow", nil)
	slow.Op = op{world: w, what: "slow", do: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	fail := w.vertex("fail", nil)
	fail.Op = op{world: w, what: "fail", do: func(context.Context) error { return bad }}
	join := w.vertex("join", nil, slow, fail)
	_, err := w.solve(t.Context(), 4, slow, fail, join)
	if !errors.Is(err, bad) || err.Error() != "at fail: bad" {
		t.Errorf("got %v", err)
	}
	if strings.Contains(w.did(), "join") {
		t.Error("join ran")
	}
	for _, e := range w.events {
		if e.Kind == progress.Completed && e.Vertex == "slow" && !errors.Is(e.Err, context.Canceled) {
			t.Errorf("slow ended with %v", e.Err)
		}
	}
}

func TestErrorOfAKeyIsTheVertexs(t *testing.T) {
	w := newWorld()
	v := w.vertex("nokey", nil)
	top := w.vertex("top", v)
	if _, err := w.solve(t.Context(), 1, v, top); err == nil || err.Error() != "at nokey: no key for nokey" {
		t.Errorf("got %v", err)
	}
}

func TestPanicIsAnErrorThatNamesTheVertex(t *testing.T) {
	w := newWorld()
	v := w.vertex("boom", nil)
	v.Op = op{world: w, what: "boom", do: func(context.Context) error { panic("oops") }}
	if _, err := w.solve(t.Context(), 1, v); err == nil || !strings.Contains(err.Error(), "boom: internal error: oops") {
		t.Errorf("got %v", err)
	}
}

func TestCancel(t *testing.T) {
	w := newWorld()
	stop := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	v := w.vertex("v", nil)
	v.Op = op{world: w, what: "v", do: func(ctx context.Context) error { cancel(stop); <-ctx.Done(); return ctx.Err() }}
	if _, err := w.solve(ctx, 1, v); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// Two vertices that are the same work, as two stages with equal lines, do it once.
func TestEqualVerticesWorkOnce(t *testing.T) {
	w := newWorld()
	a, b := w.vertex("same", nil), w.vertex("same", nil)
	join := w.vertex("join", nil, a, b)
	if _, err := w.solve(t.Context(), 4, a, b, join); err != nil || w.did() != "join same" {
		t.Errorf("ran %q, %v", w.did(), err)
	}
}

func TestEventsOfAVertexAreInOrder(t *testing.T) {
	w := newWorld()
	a := w.vertex("a", nil)
	b := w.vertex("b", a)
	for _, want := range [][]progress.Kind{
		{progress.Declared, progress.Started, progress.Completed},
		{progress.Declared, progress.Cached, progress.Completed},
	} {
		if _, err := w.solve(t.Context(), 1, a, b); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"a", "b"} {
			var got []progress.Kind
			for _, e := range w.events {
				if e.Vertex == id {
					got = append(got, e.Kind)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", id, got, want)
			}
		}
	}
}

func BenchmarkSolveCached1000(b *testing.B) {
	w := newWorld()
	var vs []*solver.Vertex[string]
	var parent *solver.Vertex[string]
	for i := range 1000 {
		parent = w.vertex(fmt.Sprint(i), parent)
		vs = append(vs, parent)
	}
	for b.Loop() {
		if _, err := w.solve(b.Context(), 4, vs...); err != nil {
			b.Fatal(err)
		}
	}
}

// A build that ended between two steps leaves the upper one's record of an older build: what that made was laid on another layer.
func TestRecordOfAnotherParentIsAMiss(t *testing.T) {
	w := newWorld()
	parent := &solver.Vertex[string]{ID: "1", Name: "a", Op: op{world: w, what: "a"}}
	child := &solver.Vertex[string]{ID: "2", Name: "b", Parent: parent, Op: op{world: w, what: "b"}}
	solve := func() string {
		t.Helper()
		s := solver.Solver[string]{Cache: w, Jobs: 2, Sink: func(progress.Event) {}, Now: time.Now}
		got, err := s.Solve(t.Context(), []*solver.Vertex[string]{parent, child}, child)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := solve()
	if len(w.ran) != 2 || solve() != first || len(w.ran) != 2 {
		t.Fatalf("ran %v", w.ran)
	}
	for k, r := range w.records {
		if r.On == "" {
			r.Layer = "another a"
			w.records[k] = r
		}
	}
	if got := solve(); got != "+another a+b" || len(w.ran) != 3 {
		t.Errorf("got %q, ran %v", got, w.ran)
	}
}

// history is a solver.History over a world.
type history struct {
	*world
	latest map[cache.Key]cache.Key
}

func (h history) Latest(_ context.Context, id cache.Key) (cache.Key, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k, ok := h.latest[id]; ok {
		return k, nil
	}
	return cache.Key{}, cache.ErrMiss
}

func (h history) SetLatest(_ context.Context, id, k cache.Key) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.latest[id] = k
	return nil
}

// Explain runs and writes nothing, and says of what follows a miss that it is not known, unless it was changed itself.
func TestExplainForecasts(t *testing.T) {
	w := newWorld()
	h := history{w, map[cache.Key]cache.Key{}}
	graph := func(a, c string) []*solver.Vertex[string] {
		va := w.vertex(a, nil)
		vb := w.vertex("b", va)
		vc := w.vertex(c, vb)
		vd := w.vertex("d", vb, vc)
		for i, v := range []*solver.Vertex[string]{va, vb, vc, vd} {
			v.Identity = []cache.Key{cache.NewKey([]cache.Part{{Name: "id", Value: fmt.Sprint(i)}})}
			v.Explain = func(earlier cache.Record, parts, _ []cache.Part) string {
				if old, now := earlier.Parts[len(earlier.Parts)-1], parts[len(parts)-1]; old != now {
					return "what changed"
				}
				return ""
			}
		}
		return []*solver.Vertex[string]{va, vb, vc, vd}
	}
	s := solver.Solver[string]{Cache: w, History: h, Jobs: 1, Now: time.Now, Sink: progress.Discard}
	said := func(a, c string) (all []string) {
		list, err := s.Explain(t.Context(), graph(a, c))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			all = append(all, fmt.Sprintf("%s %s %s %s", f.ID, f.State, f.Reason, f.After))
		}
		return all
	}
	never := []string{"a miss never built here ", "b miss never built here ", "c miss never built here ", "d miss never built here "}
	for range 2 {
		if got := said("a", "c"); !slices.Equal(got, never) {
			t.Errorf("at first %q", got)
		}
	}
	vs := graph("a", "c")
	if _, err := s.Solve(t.Context(), vs, vs[3]); err != nil {
		t.Fatal(err)
	}
	if got, want := said("a", "c"), []string{"a hit  ", "b hit  ", "c hit  ", "d hit  "}; !slices.Equal(got, want) {
		t.Errorf("built: %q", got)
	}
	want := []string{"a2 miss what changed ", "b unknown not known before a2 runs a2", "c2 miss what changed ", "d unknown not known before a2 runs a2"}
	if got := said("a2", "c2"); !slices.Equal(got, want) {
		t.Errorf("changed: %q", got)
	}
	want = []string{"a hit  ", "b hit  ", "c2 miss what changed ", "d unknown not known before c2 runs c2"}
	if got := said("a", "c2"); !slices.Equal(got, want) {
		t.Errorf("an input changed: %q", got)
	}
	if got := w.did(); got != "a b c d" {
		t.Errorf("explaining ran something: %q", got)
	}
}
