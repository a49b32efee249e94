package compress

import (
	"io"
	"sync"
)

// sticky passes everything on to w until w fails, and swallows the rest. It is
// written by one goroutine and asked by another.
type sticky struct {
	w   io.Writer
	mu  sync.Mutex
	err error
}

func (s *sticky) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Write never fails.
func (s *sticky) Write(p []byte) (int, error) {
	if s.failed() != nil {
		return len(p), nil //nolint:nilerr // who reads asks failed
	}
	n, err := s.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return len(p), nil
}
