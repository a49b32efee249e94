package ui

import (
	"bytes"
	"fmt"
	"io"
)

// maxLine bounds what is kept of a line without an end.
const maxLine = 64 << 10

// lineSplitter cuts a stream of writes into lines. Its zero value is ready.
type lineSplitter struct{ rest []byte }

// write calls f for each line that p completes, without its end. A carriage return
// before the end is dropped; one inside a line ends it too, because that is how
// programs redraw a progress bar.
func (l *lineSplitter) write(p []byte, f func(line []byte)) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.rest = append(l.rest, p...)
			for len(l.rest) > maxLine {
				f(l.rest[:maxLine])
				l.rest = append(l.rest[:0], l.rest[maxLine:]...)
			}
			return
		}
		line := p[:i]
		if len(l.rest) > 0 {
			l.rest = append(l.rest, line...)
			line = l.rest
		}
		p = p[i+1:]
		emit(line, f)
		l.rest = l.rest[:0]
	}
}

// flush calls f for the last line if it had no end.
func (l *lineSplitter) flush(f func(line []byte)) {
	if len(l.rest) > 0 {
		emit(l.rest, f)
		l.rest = nil
	}
}

func emit(line []byte, f func([]byte)) {
	line = bytes.TrimRight(line, "\r")
	for part := range bytes.SplitSeq(line, []byte{'\r'}) {
		f(part)
	}
}

// lineWriter writes each line made Printable.
type lineWriter struct {
	w io.Writer
	l lineSplitter
}

func (l *lineWriter) Write(p []byte) (int, error) {
	var failed error
	l.l.write(p, func(line []byte) {
		if _, err := fmt.Fprintf(l.w, "%s\n", Printable(line)); err != nil {
			failed = err
		}
	})
	return len(p), failed
}
