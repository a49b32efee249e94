package fetch

import (
	"context"
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

// close gives up the lock.
func (e *entry) close() { _ = e.lock.Close() }
