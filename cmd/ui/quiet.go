package ui

import (
	"io"

	"github.com/strake-build/strake/builder/progress"
)

// Quiet shows nothing but the output of a step that failed, and that when it is closed.
func Quiet(w io.Writer) Display { return &quiet{w: w} }

type quiet struct {
	steps
	w io.Writer
}

// Sink remembers what a step prints until it succeeds.
func (q *quiet) Sink(e progress.Event) {
	if e.Vertex == "" {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	st := q.get(e)
	switch e.Kind {
	case progress.Output:
		st.log.Write(e.Data)
	case progress.Completed:
		if e.Err != nil && !canceled(e.Err) {
			q.failed = append(q.failed, st)
			return
		}
		st.log.discard()
	case progress.Declared, progress.Started, progress.Cached, progress.Transfer, progress.Warned, progress.Missed:
	}
}

// Close shows the output of failed steps.
func (q *quiet) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	for _, st := range q.failed {
		writeFailure(q.w, st, 0)
	}
	for _, st := range q.byID {
		st.log.discard()
	}
}
