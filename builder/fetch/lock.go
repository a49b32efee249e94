package fetch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is how long one waits before asking again for a lock that somebody else has: flock cannot be canceled.
const pollEvery = 10 * time.Millisecond

// entry is the folder of one cached thing, under lock.
type entry struct {
	dir  string
	lock *os.File
}

// openEntry makes the folder dir of the cache if missing, marks it as used and locks it against
// all others, in this process and elsewhere. A collector may remove a folder whose lock it holds.
func openEntry(ctx context.Context, dir string) (*entry, error) {
	name := filepath.Join(dir, "lock")
	for {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("making a cache entry: %w", err)
		}
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue // collected in between
		}
		if err != nil {
			return nil, fmt.Errorf("opening a cache entry: %w", err)
		}
		if err := flock(ctx, f); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("waiting for %s: %w", name, err)
		}
		if same(f, name) {
			_ = unix.Utimes(dir, nil) // the time of last use is for the collector only
			return &entry{dir: dir, lock: f}, nil
		}
		_ = f.Close() // collected while we waited
	}
}

func flock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollEvery):
		}
	}
}

// same says whether the open file f is still the one called name.
func same(f *os.File, name string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(name)
	return err == nil && os.SameFile(a, b)
}

func (e *entry) path(name string) string { return filepath.Join(e.dir, name) }

// RemovedMark is in the name of a cached thing that is being removed.
const RemovedMark = ".removed-"

// Remove deletes a cached thing, which is Options.Dir/http/NAME or Options.Dir/git/NAME. It returns false if somebody works on it.
// The folder is renamed first: who waits for its lock makes another one.
func Remove(dir string) (bool, error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("opening a cache entry: %w", err)
	}
	defer f.Close() // it was not written
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || err == nil && !same(f, name) {
		return false, nil
	}
	doomed := dir + RemovedMark + rand.Text() // after a crash it is there to be removed again
	if err == nil {
		err = os.Rename(dir, doomed)
	}
	if err == nil {
		err = os.RemoveAll(doomed)
	}
	if err != nil {
		return false, fmt.Errorf("removing a cache entry: %w", err)
	}
	return true, nil
}

// close gives up the lock.
func (e *entry) close() { _ = e.lock.Close() }
