package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
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
		f, err := lock(path, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("the container name %q is already in use by a running container", name)
		}
		if err != nil {
			return nil, err
		}
		// Its former owner may have removed the file between our open and our lock.
		held, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(held, there) {
			return func() { os.Remove(path); f.Close() }, nil
		}
		f.Close()
	}
}
