package ui

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"github.com/strake-build/strake/builder/progress"
)

// failureTail is how much of a failed step's output Plain shows once more at the end, in bytes.
const failureTail = 64 << 10

// Plain prints a line per step with its name, then CACHED or its time, and the steps' output.
//
// Every line begins with the number of its step, so that lines of steps that run
// at once can be told apart. At the end the output of a failed step is shown
// once more, without what others printed in between.
func Plain(w io.Writer) Display { return &plain{w: bufio.NewWriter(w)} }

type plain struct {
	steps
	w *bufio.Writer
}

// Sink prints one event.
func (p *plain) Sink(e progress.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	defer p.w.Flush()
	if e.Vertex == "" {
		p.build(e)
		return
	}
	st := p.get(e)
	switch e.Kind {
	case progress.Declared:
	case progress.Started:
		p.head(st)
		st.started = e.Time
	case progress.Cached:
		p.head(st)
		st.cached = true
		fmt.Fprintf(p.w, "#%d CACHED\n", st.number)
	case progress.Output:
		p.head(st)
		st.log.Write(e.Data)
		st.lines.write(e.Data, func(line []byte) { p.line(st, e.Time, line) })
	case progress.Transfer:
		p.transfer(st, e)
	case progress.Warned:
		p.head(st)
		fmt.Fprintf(p.w, "#%d WARN: %s\n", st.number, Printable(e.Data))
	case progress.Missed:
		p.head(st)
		fmt.Fprintf(p.w, "#%d miss: %s\n", st.number, Printable(e.Data))
	case progress.Completed:
		p.completed(st, e)
	}
}

// build prints an event of the build itself.
func (p *plain) build(e progress.Event) {
	switch e.Kind {
	case progress.Warned:
		fmt.Fprintf(p.w, "WARN: %s\n", Printable(e.Data))
	case progress.Output:
		p.w.Write(e.Data)
	case progress.Declared:
		if e.Name != "" {
			fmt.Fprintln(p.w, e.Name)
		}
	case progress.Started, progress.Cached, progress.Transfer, progress.Completed, progress.Missed:
	}
}

// head prints the name of a step when it is seen first.
func (p *plain) head(st *step) {
	if st.number == 0 {
		p.appear(st)
		fmt.Fprintf(p.w, "#%d %s\n", st.number, Printable([]byte(st.name)))
	}
}

func (p *plain) line(st *step, now time.Time, line []byte) {
	var since time.Duration
	if !st.started.IsZero() {
		since = now.Sub(st.started)
	}
	fmt.Fprintf(p.w, "#%d %.3f ", st.number, max(0, since.Seconds()))
	p.w.Write(Printable(line))
	p.w.WriteByte('\n')
}

// transfer prints the end of a transfer only: a log needs no bar.
func (p *plain) transfer(st *step, e progress.Event) {
	st.current, st.total = e.Current, e.Total
	if e.Total > 0 && e.Current >= e.Total {
		p.head(st)
		fmt.Fprintf(p.w, "#%d transferred %s\n", st.number, Bytes(e.Total))
	}
}

func (p *plain) completed(st *step, e progress.Event) {
	st.lines.flush(func(line []byte) { p.line(st, e.Time, line) })
	switch {
	case canceled(e.Err):
		if st.number > 0 {
			fmt.Fprintf(p.w, "#%d CANCELED\n", st.number)
		}
	case e.Err != nil:
		p.head(st)
		fmt.Fprintf(p.w, "#%d ERROR: %s\n", st.number, block(reason(e.Err)))
		p.failed = append(p.failed, st)
		return
	case st.number > 0 && !st.cached:
		fmt.Fprintf(p.w, "#%d DONE %s\n", st.number, seconds(e.Time.Sub(st.started)))
	}
	st.log.discard()
}

// Close prints what is left of unfinished lines and the output of failed steps.
func (p *plain) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	for _, st := range p.byID {
		st.lines.flush(func(line []byte) { p.line(st, st.started, line) })
	}
	for _, st := range p.failed {
		writeFailure(p.w, st, failureTail)
	}
	for _, st := range p.byID {
		st.log.discard()
	}
	p.w.Flush()
}
