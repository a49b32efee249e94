package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// writeFile writes a file under a temporary name, syncs and renames it: it is there whole or not at all.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names of a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lock waits for the right to change records. It is held for moments only.
func (s *Store) lock() (unlock func(), err error) {
	f, err := lockFile(filepath.Join(s.dir, "lock"), unix.LOCK_EX)
	if err != nil {
		return nil, fmt.Errorf("locking the images: %w", err)
	}
	// Who was killed while it held the lock may have left a temporary file; nobody else writes one now.
	for _, dir := range []string{s.images(), s.refs()} {
		left, _ := filepath.Glob(filepath.Join(dir, ".new-*"))
		for _, path := range left {
			_ = os.Remove(path)
		}
	}
	return func() { _ = f.Close() }, nil
}

// Use keeps the layers and blobs of images, and those that a build is about to give to an image, until
// release is called or the process ends: removing images meanwhile takes their names and
// records, and what they were made of goes with a later Remove or Collect. Everybody who
// unpacks, mounts, commits or reads layers holds it, from before the first look at the store.
// Any number may; it waits only while somebody deletes.
func (s *Store) Use(ctx context.Context) (release func(), err error) {
	for {
		f, err := lockFile(filepath.Join(s.dir, "use"), unix.LOCK_SH|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking the layers: %w", err)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Alone keeps everybody out who holds Use, until release is called or the process ends. It does not wait: ok is false while
// others use the store.
func (s *Store) Alone() (release func(), ok bool, err error) {
	f, err := lockFile(filepath.Join(s.dir, "use"), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("locking the layers: %w", err)
	}
	return func() { _ = f.Close() }, true, nil
}

// lockFile makes a file that stays and takes its lock, which its closing (so also the process's death) releases.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == nil {
			return f, nil
		}
		if err != unix.EINTR {
			_ = f.Close()
			return nil, err
		}
	}
}
