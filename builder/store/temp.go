package store

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/strake-build/strake/layer/flock"
)

// TempDir makes a folder in the store for this command. remove deletes it; the next TempDir deletes those of
// commands that were killed: each is locked as long as its process lives.
func (s *Store) TempDir() (dir string, remove func(), err error) {
	base := s.Path("tmp")
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", nil, err
	}
	// Nobody cleans up between a folder's creation and its lock.
	guard, err := os.OpenFile(filepath.Join(base, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, err
	}
	defer guard.Close() // only a lock
	if err := flock.Take(guard, flock.Alone); err != nil {
		return "", nil, fmt.Errorf("locking %s: %w", guard.Name(), err)
	}
	entries, err := os.ReadDir(base)
	if err != nil {
		return "", nil, err
	}
	for _, e := range entries {
		if e.IsDir() {
			removeIfDead(filepath.Join(base, e.Name()))
		}
	}
	if dir, err = os.MkdirTemp(base, ""); err != nil {
		return "", nil, err
	}
	held, err := flock.TryOpen(dir, os.O_RDONLY, flock.Alone)
	if err != nil {
		return "", nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return dir, func() {
		os.RemoveAll(dir)
		held.Close()
	}, nil
}

// removeIfDead removes a folder that nobody has locked.
func removeIfDead(dir string) {
	f, err := flock.TryOpen(dir, os.O_RDONLY, flock.Alone)
	if err != nil {
		return
	}
	defer f.Close() // only a lock
	os.RemoveAll(dir)
}

// SharedTemp is a folder of the store for files without a name.
func (s *Store) SharedTemp() (string, error) {
	dir := s.Path("tmp")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making a temporary folder: %w", err)
	}
	return dir, nil
}
