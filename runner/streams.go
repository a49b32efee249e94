package runner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// streams join the process's input and output to the caller's.
type streams struct {
	theirs []*os.File // ends for the child, closed once it has them
	input  *os.File   // our end of the input, if it is copied
	output []*copier
	term   *terminal
	tty    *os.File // the caller's terminal, until the box's is there
	deaf   bool     // nothing is read from it
	mu     sync.Mutex
}

// copier copies a pipe to a writer.
type copier struct {
	from *os.File
	to   io.Writer
	done chan error
}

// open makes what the child gets as standard input, output and error. Output goes through pipes even if the
// caller's is a file: a process could open a file that it got again, for more than it was given for.
func (s *streams) open(p Process) ([]*os.File, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", os.DevNull, err)
	}
	s.theirs = append(s.theirs, null)
	if p.Terminal != nil {
		s.tty, s.deaf = p.Terminal, p.OutputOnly
		return []*os.File{null, null, null}, nil
	}
	in := null
	if f, ok := p.Stdin.(*os.File); ok && isPipe(f) {
		in = f
	} else if p.Stdin != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("making a pipe: %w", err)
		}
		s.theirs, s.input, in = append(s.theirs, r), w, r
		go func() { // its reader may block for ever: nobody waits for it
			_, _ = io.Copy(w, p.Stdin)
			w.Close()
		}()
	}
	out, err := s.pipe(p.Stdout, null)
	if err != nil {
		return nil, err
	}
	if p.Stderr != nil && sameWriter(p.Stdout, p.Stderr) {
		return []*os.File{in, out, out}, nil
	}
	errs, err := s.pipe(p.Stderr, null)
	if err != nil {
		return nil, err
	}
	return []*os.File{in, out, errs}, nil
}

// sameWriter says whether a and b are one writer: then one pipe keeps the order of what is written.
func sameWriter(a, b io.Writer) (same bool) {
	defer func() { _ = recover() }() // writers of a type that cannot be compared
	return a == b
}

// isPipe says whether f is a socket or a pipe that has no name: one with a name is a file of the host, whose owner and mode a process could change.
func isPipe(f *os.File) (is bool) {
	control(f, func(fd int) {
		var fs unix.Statfs_t
		is = unix.Fstatfs(fd, &fs) == nil && (fs.Type == unix.PIPEFS_MAGIC || fs.Type == unix.SOCKFS_MAGIC)
	})
	return is
}

// pipe returns a pipe whose other end is copied to w.
func (s *streams) pipe(w io.Writer, null *os.File) (*os.File, error) {
	if w == nil {
		return null, nil
	}
	r, theirs, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	c := &copier{from: r, to: w, done: make(chan error, 1)}
	s.theirs = append(s.theirs, theirs)
	s.output = append(s.output, c)
	go func() { c.done <- c.copy() }()
	return theirs, nil
}

const copyBuffer = 32 << 10

// copy copies until the end of the pipe, or until finish gives it a deadline: then it takes what is there.
func (c *copier) copy() error {
	buf := make([]byte, copyBuffer)
	for {
		n, err := c.from.Read(buf)
		if n > 0 {
			if _, werr := c.to.Write(buf[:n]); werr != nil {
				// The process must not block on a pipe that nobody reads.
				_ = c.from.Close()
				return fmt.Errorf("writing the output: %w", werr)
			}
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return c.drain(buf)
		case errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) || errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("reading the output: %w", err)
		}
	}
}

// drain copies what is in the pipe without waiting for more: all processes of the box are dead, but somebody
// outside may have got hold of the other end.
func (c *copier) drain(buf []byte) error {
	if err := c.from.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("reading the output: %w", err)
	}
	conn, err := c.from.SyscallConn()
	if err != nil {
		return fmt.Errorf("reading the output: %w", err)
	}
	for {
		n := 0
		err := conn.Read(func(fd uintptr) bool {
			n, _ = unix.Read(int(fd), buf)
			return true
		})
		if err != nil || n <= 0 {
			return nil //nolint:nilerr // the pipe's end, or finish's deadline
		}
		if _, err := c.to.Write(buf[:n]); err != nil {
			return fmt.Errorf("writing the output: %w", err)
		}
	}
}

// closeTheirs closes the child's ends.
func (s *streams) closeTheirs() {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
}

// finish waits until all output is written; the box is dead.
func (s *streams) finish() error {
	var first error
	for _, c := range s.output {
		_ = c.from.SetReadDeadline(time.Unix(1, 0))
		if err := <-c.done; err != nil && first == nil {
			first = err
		}
	}
	s.closeOutput()
	if t := s.terminal(); t != nil {
		return errors.Join(first, t.finish())
	}
	return first
}

func (s *streams) closeOutput() {
	for _, c := range s.output {
		_ = c.from.Close()
	}
	s.output = nil
}

// close frees all that is open; only a box that was never started has copiers left.
func (s *streams) close() {
	s.closeTheirs()
	if s.input != nil {
		s.input.Close()
	}
	for _, c := range s.output {
		<-c.done //nolint:errcheck // the box was never started: nobody asks for its output
	}
	s.closeOutput()
}

// join joins the master of the box's terminal to the caller's.
func (s *streams) join(master int) {
	t := newTerminal(s.tty, master, s.deaf)
	s.mu.Lock()
	s.term = t
	s.mu.Unlock()
}

func (s *streams) terminal() *terminal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.term
}
