// Package ui shows the events and errors of a build to people and programs.
//
// A Display turns builder/progress events into text: Plain writes whole lines
// for logs, TTY redraws a small area of a terminal, Quiet keeps silent until a
// step fails, and RawJSON is for programs. Report prints the error that ended a command. Bytes that a step
// wrote are untrusted: before they reach a terminal, everything that could move
// the cursor or talk to the terminal is removed (Printable).
package ui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/strake-build/strake/builder/progress"
)

// Display shows a build.
type Display interface {
	// Sink receives the build's events.
	Sink(progress.Event)
	// Close waits until everything is shown. Events that come later are dropped.
	Close()
}

// step is what a Display remembers of a vertex.
type step struct {
	number  int // counted from 1 in the order of appearance; 0 before it appeared
	name    string
	started time.Time
	cached  bool
	miss    []byte // why it was not cached
	lines   lineSplitter
	log     spool
	current int64
	total   int64
}

// steps holds the vertices of a build by their id, and the failed ones.
type steps struct {
	mu     sync.Mutex
	byID   map[string]*step
	count  int
	failed []*step
	closed bool
}

// get returns the step of an event and makes it when it is new.
func (s *steps) get(e progress.Event) *step {
	if s.byID == nil {
		s.byID = make(map[string]*step)
	}
	st := s.byID[e.Vertex]
	if st == nil {
		st = &step{name: e.Vertex}
		s.byID[e.Vertex] = st
	}
	if e.Name != "" {
		st.name = e.Name
	}
	return st
}

// appear gives the step its number.
func (s *steps) appear(st *step) {
	if st.number == 0 {
		s.count++
		st.number = s.count
	}
}

// seconds formats a duration as BuildKit does: one decimal.
func seconds(d time.Duration) string {
	return fmt.Sprintf("%.1fs", max(0, d.Seconds()))
}

// rule frames the output of a failed step.
const rule = "------"

// writeFailure shows what a failed step printed. limit bounds the bytes that are shown, from
// the end; 0 shows all that is left of them.
func writeFailure(w io.Writer, st *step, limit int64) {
	if st.log.size() == 0 {
		return
	}
	fmt.Fprintf(w, "%s\n > %s:\n", rule, Printable([]byte(st.name)))
	st.log.writeTo(&lineWriter{w: w}, limit)
	fmt.Fprintln(w, rule)
}

// canceled says whether a step ended only because the build did.
func canceled(err error) bool { return errors.Is(err, context.Canceled) }
