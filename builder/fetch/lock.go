package fetch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/flock"
)

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
		f, err := flock.Open(ctx, name, os.O_CREATE|os.O_RDWR, flock.Alone)
		if errors.Is(err, os.ErrNotExist) && ctx.Err() == nil {
			continue // collected in between
		}
		if err != nil {
			return nil, fmt.Errorf("locking a cache entry: %w", err)
		}
		_ = unix.Utimes(dir, nil) // the time of last use is for the collector only
		return &entry{dir: dir, lock: f}, nil
	}
}

func (e *entry) path(name string) string { return filepath.Join(e.dir, name) }

// RemovedMark is in the name of a cached thing that is being removed.
const RemovedMark = ".removed-"

// Remove deletes a cached thing, which is Options.Dir/http/NAME or Options.Dir/git/NAME. It returns false if somebody works on it.
// The folder is renamed first: who waits for its lock makes another one.
func Remove(dir string) (bool, error) {
	name := filepath.Join(dir, "lock")
	f, err := flock.TryOpen(name, os.O_CREATE|os.O_RDWR, flock.Alone)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if errors.Is(err, flock.ErrHeld) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("locking a cache entry: %w", err)
	}
	defer f.Close()                           // only a lock
	doomed := dir + RemovedMark + rand.Text() // after a crash it is there to be removed again
	err = os.Rename(dir, doomed)
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
