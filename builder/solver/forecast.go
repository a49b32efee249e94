package solver

import (
	"context"
	"sync"
)

// State is what is known of a vertex before anything runs.
type State string

// The states of vertices.
const (
	Hit  State = "hit"  // it is in the cache
	Miss State = "miss" // it will run
	// Unknown: what it is made from runs, and may come out as it was.
	Unknown State = "unknown"
)

// Forecast is what Solve would do with a vertex.
type Forecast struct {
	ID, Name string
	State    State
	// Reason says why it is not a hit.
	Reason string
	// After is the ID of the vertex on which it depends whether an Unknown one runs.
	After string
}

// Explain says what Solve would do with each vertex that is no source, as far as it is known, and runs and writes nothing.
func (s *Solver[R]) Explain(ctx context.Context, vertices []*Vertex[R]) ([]Forecast, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := s.newRun(ctx, cancel, vertices)
	r.dry = true
	r.prepare(vertices)
	var wg sync.WaitGroup
	for _, v := range vertices {
		wg.Go(func() { _, _ = r.nodes[v].hit() })
	}
	wg.Wait()
	told := make(map[*Vertex[R]]Forecast, len(vertices))
	var list []Forecast
	for _, v := range vertices {
		if v.Source {
			continue
		}
		f, err := r.forecast(v, told)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return nil, err
		}
		told[v] = f
		list = append(list, f)
	}
	return list, nil
}

func (r *run[R]) forecast(v *Vertex[R], told map[*Vertex[R]]Forecast) (Forecast, error) {
	f := Forecast{ID: v.ID, Name: v.Name}
	rec, err := r.nodes[v].hit()
	if err != nil {
		return f, err
	}
	if rec != nil {
		f.State = Hit
		return f, nil
	}
	k, err := r.nodes[v].key()
	if err != nil {
		return f, err
	}
	f.State = Miss
	earlier, err := r.earlier(v, k)
	waits := r.waits(v, told)
	if err == nil && waits != nil && !v.Fresh && r.Verify == nil && !r.disabled(v) && !r.changed(v, earlier) {
		f.State, f.After = Unknown, waits.ID
		f.Reason = "not known before " + waits.Name + " runs"
		return f, nil
	}
	r.nodes[v].ran.Store(true)
	f.Reason = r.reason(v, earlier, err, nil)
	return f, nil
}

// waits is of a vertex that v is made from and that runs, or of which it is not known; nil if there is none.
func (r *run[R]) waits(v *Vertex[R], told map[*Vertex[R]]Forecast) *Forecast {
	from := v.Inputs
	if v.Parent != nil {
		from = append([]*Vertex[R]{v.Parent}, from...)
	}
	for _, in := range from {
		if in.Pending != nil {
			return in.Pending
		}
		switch f := told[in]; f.State {
		case Miss:
			return &f
		case Unknown:
			return r.waits(in, told)
		case Hit:
		}
	}
	return nil
}
