package snapshot

import (
	"context"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/flock"
)

// locks are exclusive locks by key, between goroutines (who wait for each other
// without delay) and between processes (who ask again and again, see flock.Wait).
type locks struct {
	dir string

	mu   *sync.Mutex
	held map[string]chan struct{} // closed on release
}

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

// hold takes the lock of key in this process, and then that of the file path. If flag makes the file, unlock removes it.
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
	f, err := flock.Open(ctx, path, flag, flock.Alone)
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
