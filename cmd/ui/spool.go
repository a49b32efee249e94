package ui

import (
	"fmt"
	"io"
	"os"
)

// Bounds of a spool, in bytes.
const (
	spoolMemory = 256 << 10 // held in memory; more goes to a file
	spoolFile   = 64 << 20  // held in the file; more is dropped, except for the end
	spoolTail   = 64 << 10  // always kept of the end
)

// spool keeps what a step prints, for the case that it fails, in constant memory:
// the beginning in a file without a name, and the end when there is too much.
// Its zero value is ready.
type spool struct {
	mem     []byte
	file    *os.File
	stored  int64 // bytes in mem or file
	tail    []byte
	dropped int64 // bytes lost between file and tail
	broken  bool  // no file could be made or written: only mem and tail
}

// Write appends p; it never fails.
func (s *spool) Write(p []byte) (int, error) {
	n := len(p)
	if s.file == nil && !s.broken && len(s.mem)+len(p) > spoolMemory {
		s.spill()
	}
	switch {
	case len(s.tail) > 0: // the order must stay
		s.end(p)
	case s.file != nil && s.stored+int64(n) <= spoolFile:
		k, err := s.file.Write(p)
		s.stored += int64(k)
		if err != nil {
			s.end(p[k:])
		}
	case s.file == nil && len(s.mem)+n <= spoolMemory:
		s.mem = append(s.mem, p...)
		s.stored += int64(n)
	default:
		s.end(p)
	}
	return n, nil
}

// end appends p to the tail and forgets what is too much.
func (s *spool) end(p []byte) {
	s.tail = append(s.tail, p...)
	if over := len(s.tail) - spoolTail; over > 0 {
		s.dropped += int64(over)
		s.tail = append(s.tail[:0], s.tail[over:]...)
	}
}

// spill moves mem to a file that has no name any more.
func (s *spool) spill() {
	f, err := os.CreateTemp("", "strake-log-*")
	if err != nil {
		s.broken = true
		return
	}
	os.Remove(f.Name())
	if _, err := f.Write(s.mem); err != nil {
		f.Close()
		s.broken = true
		return
	}
	s.file, s.mem = f, nil
}

func (s *spool) size() int64 { return s.stored + s.dropped + int64(len(s.tail)) }

// writeTo writes what is kept, at most the last limit bytes if limit is not 0, and ends it with a
// newline. It says how much is missing.
func (s *spool) writeTo(w io.Writer, limit int64) {
	var skip int64
	if kept := s.stored + int64(len(s.tail)); limit > 0 && kept > limit {
		skip = kept - limit
		fmt.Fprintf(w, "[%s of output above]\n", Bytes(skip+s.dropped))
	}
	l := &lastByte{w: w}
	if skip < s.stored {
		if s.file != nil {
			io.Copy(l, io.NewSectionReader(s.file, skip, s.stored-skip))
		} else {
			l.Write(s.mem[skip:])
		}
	}
	if s.dropped > 0 && skip == 0 {
		fmt.Fprintf(l, "\n[%s of output dropped]\n", Bytes(s.dropped))
	}
	l.Write(s.tail[max(0, min(skip-s.stored, int64(len(s.tail)))):])
	if l.last != '\n' {
		io.WriteString(w, "\n")
	}
}

// discard forgets everything.
func (s *spool) discard() {
	if s.file != nil {
		s.file.Close()
	}
	*s = spool{}
}

// lastByte remembers the last byte that was written.
type lastByte struct {
	w    io.Writer
	last byte
}

func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.last = p[len(p)-1]
	}
	return l.w.Write(p)
}
