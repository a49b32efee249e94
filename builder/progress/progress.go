// Package progress defines the events that a build emits while it works.
//
// Events are data: nothing here prints. cmd/ui turns them into text, a terminal
// display or JSON. For one vertex the order is always
//
//	Declared → (Cached | Missed? → Started → (Output | Transfer)*) → Completed
//
// with Warned possible anywhere after Declared.
package progress

import "time"

// Kind says what an Event reports.
type Kind int

// The kinds of events.
const (
	Declared  Kind = iota // the vertex is part of this build
	Started               // work on it began
	Cached                // it was found in the cache and will not run
	Output                // Data holds bytes that the step wrote
	Transfer              // Current of Total bytes are done; Total is 0 when unknown
	Warned                // Data holds a warning for the person who builds
	Completed             // it ended; Err says how it failed, if it did
	Missed                // it will run, for Data says why it was not found in the cache
)

// The standard streams of a step, for Event.Stream.
const (
	Stdout = 1
	Stderr = 2
)

// Event is one thing that happened.
type Event struct {
	Time   time.Time
	Kind   Kind
	Vertex string // identifies the vertex within the build; empty for the build itself
	Name   string // what a person reads, such as "[build 2/4] RUN make"; set on Declared
	Stream int    // Stdout or Stderr, for Output
	Data   []byte // for Output, Warned and Missed; valid only during the call of the Sink
	// Current and Total are bytes, for Transfer.
	Current, Total int64
	Err            error
}

// Sink receives events. It is safe for concurrent use, and quick: a build waits for it.
type Sink func(Event)

// Discard is a Sink that drops every event.
func Discard(Event) {}
