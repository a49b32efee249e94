package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// TempDir makes a folder in the store for this command. remove deletes it; the next TempDir deletes those of
// commands that were killed: each is locked as long as its process lives.
func (s *Store) TempDir() (dir string, remove func(), err error) {
	base := s.Path("tmp")
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", nil, err
	}
	// Nobody cleans up between a folder's creation and its lock.
	guard, err := lock(filepath.Join(base, ".lock"), unix.LOCK_EX)
	if err != nil {
		return "", nil, err
	}
	defer guard.Close()
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
	held, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	if err := flock(held, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		held.Close()
		return "", nil, err
	}
	return dir, func() {
		os.RemoveAll(dir)
		held.Close()
	}, nil
}

// removeIfDead removes a folder that nobody has locked.
func removeIfDead(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	if flock(f, unix.LOCK_EX|unix.LOCK_NB) == nil {
		os.RemoveAll(dir)
	}
}

// errLocked is what lock returns with LOCK_NB when another process holds the lock.
var errLocked = errors.New("in use by another process")

// lock opens the file path, made if missing, and locks it; closing it unlocks it.
func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, how); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "locking", Path: path, Err: err}
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return errLocked
		case err != nil:
			return fmt.Errorf("flock: %w", err)
		default:
			return nil
		}
	}
}

// SharedTemp is a folder of the store for files without a name.
func (s *Store) SharedTemp() (string, error) {
	dir := s.Path("tmp")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making a temporary folder: %w", err)
	}
	return dir, nil
}
