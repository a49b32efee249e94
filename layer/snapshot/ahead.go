package snapshot

import (
	"errors"
	"io"
)

const (
	aheadBlock = 256 << 10 // bytes
	aheadCount = 4         // blocks, of which one is being filled and one emptied
)

// ahead reads from r in a goroutine of its own, a few blocks ahead of who reads from it: so a layer is decompressed
// while its files are made.
type ahead struct {
	full chan block
	free chan []byte
	stop chan struct{}
	now  block // what Read takes from
	rest []byte
}

// block is what was read, and the error that came after it.
type block struct {
	data []byte
	err  error
}

// readAhead starts reading r. Until close returned, nobody else may touch it.
func readAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan block, aheadCount), free: make(chan []byte, aheadCount), stop: make(chan struct{})}
	for range aheadCount {
		a.free <- nil // made when there is something for it
	}
	go a.run(r)
	return a
}

// run ends after an error of r or with stop.
func (a *ahead) run(r io.Reader) {
	defer close(a.full)
	for {
		select {
		case <-a.stop:
			return
		case buf := <-a.free:
			if buf == nil {
				buf = make([]byte, aheadBlock)
			}
			b := a.fill(r, buf[:aheadBlock])
			a.full <- b // never waits: there are as many places as blocks
			if b.err != nil {
				return
			}
		}
	}
}

// fill reads until buf is full.
func (a *ahead) fill(r io.Reader, buf []byte) block {
	n := 0
	for n < len(buf) {
		select {
		case <-a.stop:
			return block{err: errStopped}
		default:
		}
		m, err := r.Read(buf[n:])
		n += m
		if err != nil {
			return block{buf[:n], err}
		}
	}
	return block{data: buf}
}

var errStopped = errors.New("reading was stopped")

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.now.data != nil {
			a.free <- a.now.data
		}
		a.now = <-a.full
		a.rest = a.now.data
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// close ends the reading, and waits for the call of r's Read that is under way.
func (a *ahead) close() {
	close(a.stop)
	for range a.full { // until the goroutine ended
	}
}
