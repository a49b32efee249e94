package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/strake-build/strake/cmd/ui"
)

// transfers shows what becomes of the layers that are pulled or pushed: a line for each change
// of state, and on a terminal one line at the bottom with the bytes of all that are under way.
type transfers struct {
	w     io.Writer
	now   func() time.Time
	width func() int // nil when there is no terminal

	mu     sync.Mutex
	order  []string
	active map[string]*transferred
	drawn  time.Time
	bar    bool // a bar is on the screen
}

// transferred counts the bytes of one layer.
type transferred struct {
	verb           string
	current, total int64
}

// redrawEvery bounds how often the bar is drawn.
const redrawEvery = 100 * time.Millisecond

// newTransfers shows transfers on w, a standard stream, or nowhere when quiet.
func newTransfers(env *environment, w *os.File, quiet bool) *transfers {
	t := &transfers{w: w, now: env.now, active: make(map[string]*transferred)}
	switch {
	case quiet:
		t.w = io.Discard
	case isTerminal(w):
		t.width = func() int { return width(w) }
	}
	return t
}

// state says what has become of a layer.
func (t *transfers) state(id, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	delete(t.active, id)
	fmt.Fprintf(t.w, "%s: %s\n", id, text)
}

// progress returns the function that is told the bytes of a layer; a total of 0 is unknown.
func (t *transfers) progress(id, verb string) func(current, total int64) {
	return func(current, total int64) {
		if t.width == nil {
			return
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.active[id] == nil {
			t.active[id] = &transferred{verb: verb}
			t.order = append(t.order, id)
		}
		t.active[id].current, t.active[id].total = current, total
		if now := t.now(); now.Sub(t.drawn) >= redrawEvery {
			t.drawn = now
			t.draw()
		}
	}
}

// draw replaces the bar. The caller holds mu.
func (t *transfers) draw() {
	t.clear()
	var parts []string
	for _, id := range t.order {
		a := t.active[id]
		if a == nil {
			continue
		}
		part := fmt.Sprintf("%s: %s %s", id, a.verb, ui.Bytes(a.current))
		if a.total > 0 {
			part += "/" + ui.Bytes(a.total)
		}
		parts = append(parts, part)
	}
	line := strings.Join(parts, "  ")
	if n := t.width() - 1; len(line) > n {
		line = line[:max(n, 0)]
	}
	io.WriteString(t.w, line)
	t.bar = line != ""
}

// clear removes the bar. The caller holds mu.
func (t *transfers) clear() {
	if t.bar {
		io.WriteString(t.w, "\r\x1b[K")
		t.bar = false
	}
}

// close removes the bar for good.
func (t *transfers) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	t.width = nil
}
