package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// locks are exclusive locks by key, between goroutines (who wait for each other
// without delay) and between processes (who ask again and again, because flock cannot be canceled).
type locks struct {
	dir string

	mu   *sync.Mutex
	held map[string]chan struct{} // closed on release
}

// pollEvery is how long a process waits before it asks again for a lock of another one.
const pollEvery = 10 * time.Millisecond

func newLocks(dir string) locks {
	return locks{dir: dir, mu: new(sync.Mutex), held: map[string]chan struct{}{}}
}

// lock waits until nobody else holds key, or ctx is done. Its file is there only as long as somebody holds it.
func (l *locks) lock(ctx context.Context, key string) (unlock func(), err error) {
	return l.hold(ctx, key, filepath.Join(l.dir, key), os.O_CREATE|os.O_RDWR)
}

// lockAt is lock by the lock of a directory that is there anyway, which saves making a file.
func (l *locks) lockAt(ctx context.Context, dir string) (unlock func(), err error) {
	return l.hold(ctx, dir, dir, os.O_RDONLY|unix.O_DIRECTORY)
}

func (l *locks) hold(ctx context.Context, key, path string, flag int) (unlock func(), err error) {
	mine := make(chan struct{})
	for {
		l.mu.Lock()
		other := l.held[key]
		if other == nil {
			l.held[key] = mine
		}
		l.mu.Unlock()
		if other == nil {
			break
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	release := func() {
		l.mu.Lock()
		delete(l.held, key)
		l.mu.Unlock()
		close(mine)
	}
	f, err := lockFile(ctx, path, flag)
	if err != nil {
		release()
		return nil, err
	}
	return func() {
		if flag&os.O_CREATE != 0 {
			_ = os.Remove(path) // before the lock goes: who waits for it sees that the file has no name
		}
		_ = f.Close()
		release()
	}, nil
}

// lockFile opens path and locks it against other processes.
func lockFile(ctx context.Context, path string, flag int) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, flag, 0o600)
		if err != nil {
			return nil, err
		}
		err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			var st unix.Stat_t
			if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Nlink > 0 {
				return f, nil
			}
			_ = f.Close()
			if err != nil {
				return nil, err
			}
			continue // its last holder removed the file
		}
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
