package ui

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/strake-build/strake/builder/progress"
)

const (
	redrawEvery = 100 * time.Millisecond
	// shownSteps and shownLines bound the area that is redrawn.
	shownSteps = 10
	shownLines = 4
	// defaultWidth serves terminals that do not tell theirs.
	defaultWidth = 80
)

// TTY redraws a display of the running steps on a terminal: steps that ended
// scroll away above, those that run are below with their time and the last lines they printed. width
// tells the terminal's columns; it is asked for every redraw. Without a width function it is Plain.
func TTY(w io.Writer, width func() int) Display {
	if width == nil {
		return Plain(w)
	}
	t := &tty{w: w, width: width, stop: make(chan struct{}), now: time.Now}
	t.wait.Add(1)
	go t.loop()
	return t
}

type tty struct {
	steps
	w     io.Writer
	width func() int
	now   func() time.Time

	running []*step  // in the order they started
	done    [][]byte // finished lines that were not printed yet
	recent  map[*step]*recent
	drawn   int // lines of the area on the screen
	changed bool

	stop chan struct{}
	wait sync.WaitGroup
}

// recent holds the last lines of a running step.
type recent struct{ lines [][]byte }

func (r *recent) add(line []byte) {
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	if len(r.lines) == shownLines {
		copy(r.lines, r.lines[1:])
		r.lines = r.lines[:shownLines-1]
	}
	r.lines = append(r.lines, bytes.Clone(line))
}

// loop redraws until Close; it is the only place that draws while the build runs.
func (t *tty) loop() {
	defer t.wait.Done()
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-tick.C:
			t.mu.Lock()
			if t.changed || len(t.running) > 0 {
				t.draw()
			}
			t.mu.Unlock()
		}
	}
}

// Sink takes note of one event; it does not draw.
func (t *tty) Sink(e progress.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.changed = true
	if e.Vertex == "" {
		switch e.Kind {
		case progress.Warned:
			t.finish("WARN: %s", Printable(e.Data))
		case progress.Declared:
			if e.Name != "" {
				t.finish("%s", Printable([]byte(e.Name)))
			}
		case progress.Started, progress.Cached, progress.Output, progress.Transfer, progress.Completed, progress.Missed:
		}
		return
	}
	st := t.get(e)
	switch e.Kind {
	case progress.Declared:
	case progress.Started:
		t.appear(st)
		st.started = e.Time
		t.running = append(t.running, st)
	case progress.Cached:
		t.appear(st)
		st.cached = true
		t.finish(" => CACHED %s", Printable([]byte(st.name)))
	case progress.Output:
		st.log.Write(e.Data)
		st.lines.write(e.Data, t.recentOf(st).add)
	case progress.Transfer:
		st.current, st.total = e.Current, e.Total
	case progress.Warned:
		t.finish(" => WARN %s: %s", Printable([]byte(st.name)), Printable(e.Data))
	case progress.Missed:
		st.miss = Printable(e.Data)
	case progress.Completed:
		t.completed(st, e)
	}
}

func (t *tty) recentOf(st *step) *recent {
	if t.recent == nil {
		t.recent = make(map[*step]*recent)
	}
	if t.recent[st] == nil {
		t.recent[st] = &recent{}
	}
	return t.recent[st]
}

func (t *tty) completed(st *step, e progress.Event) {
	t.running = slices.DeleteFunc(t.running, func(r *step) bool { return r == st })
	delete(t.recent, st)
	name := Printable([]byte(st.name))
	switch {
	case canceled(e.Err):
		if st.number > 0 {
			t.finish(" => CANCELED %s", name)
		}
	case e.Err != nil:
		t.finish(" => ERROR %s", name)
		t.failed = append(t.failed, st)
		return
	case st.number > 0 && !st.cached:
		t.finish(" => %s  %s", name, seconds(e.Time.Sub(st.started)))
		if len(st.miss) > 0 {
			t.finish(" => => miss: %s", st.miss)
		}
	}
	st.log.discard()
}

// finish adds a line to those that scroll away.
func (t *tty) finish(format string, args ...any) {
	t.done = append(t.done, fmt.Appendf(nil, format, args...))
}

// draw replaces the area on the screen: finished lines first, which stay, then the running steps.
// Everything is written at once.
func (t *tty) draw() {
	var b bytes.Buffer
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", t.drawn)
	}
	b.WriteString("\r\x1b[J")
	for _, line := range t.done {
		b.Write(line)
		b.WriteString("\x1b[0m\n")
	}
	t.done, t.drawn, t.changed = nil, 0, false
	if !t.closed {
		t.area(&b)
	}
	t.w.Write(b.Bytes())
}

// area writes the lines of the running steps and counts them.
func (t *tty) area(b *bytes.Buffer) {
	columns := t.width()
	if columns <= 0 {
		columns = defaultWidth
	}
	line := func(text []byte) {
		b.Write(clip(text, columns-1))
		b.WriteString("\x1b[0m\n")
		t.drawn++
	}
	now := t.now()
	for i, st := range t.running {
		if i == shownSteps {
			line(fmt.Appendf(nil, " => … and %d more", len(t.running)-shownSteps))
			break
		}
		status := seconds(now.Sub(st.started))
		if st.total > 0 && st.current < st.total {
			status = fmt.Sprintf("%s / %s  %s", Bytes(st.current), Bytes(st.total), status)
		} else if st.current > 0 {
			status = fmt.Sprintf("%s  %s", Bytes(st.current), status)
		}
		name := clip(Printable([]byte(st.name)), max(columns-len(status)-8, 10))
		line(fmt.Appendf(nil, " => %s  %s", name, status))
		if r := t.recent[st]; r != nil {
			for _, l := range r.lines {
				line(fmt.Appendf(nil, " => => # %s", Printable(l)))
			}
		}
	}
}

// Close draws what is left, without an area, and shows the output of failed steps.
func (t *tty) Close() {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	t.closed = true
	t.mu.Unlock()
	close(t.stop)
	t.wait.Wait()

	t.mu.Lock()
	defer t.mu.Unlock()
	t.draw()
	for _, st := range t.failed {
		writeFailure(t.w, st, 0)
	}
	for _, st := range t.byID {
		st.log.discard()
	}
}

// clip cuts a printable text to so many columns, counting colours as none, characters that
// may be wide as two, and a tab as a space.
func clip(p []byte, columns int) []byte {
	var out []byte
	used := 0
	for i := 0; i < len(p); {
		if p[i] == 0x1b {
			n, _ := escape(p[i:])
			out = append(out, p[i:i+n]...)
			i += n
			continue
		}
		r, n := utf8.DecodeRune(p[i:])
		cells := 1
		if r >= 0x1100 { // from here on characters may be wide
			cells = 2
		}
		if used+cells > columns {
			return out
		}
		if p[i] == '\t' {
			out = append(out, ' ')
		} else {
			out = append(out, p[i:i+n]...)
		}
		used += cells
		i += n
	}
	return out
}
