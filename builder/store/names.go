package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/strake-build/strake/layer/flock"
)

// ReserveName makes sure that no other running container has the name, until release. The empty name is nobody's.
func (s *Store) ReserveName(name string) (release func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(s.Path("names"), 0o700); err != nil {
		return nil, err
	}
	path := s.Path("names", name)
	for {
		f, err := flock.TryOpen(path, os.O_CREATE|os.O_RDWR, flock.Alone)
		switch {
		case err == nil:
			return func() { os.Remove(path); f.Close() }, nil
		case errors.Is(err, flock.ErrHeld):
			return nil, fmt.Errorf("the container name %q is already in use by a running container", name)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("reserving the container name %q: %w", name, err)
		}
		// Who had the name removed the file meanwhile.
	}
}
