package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/strake-build/strake/layer/flock"
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
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the images: %w", err)
	}
	if err := flock.Take(f, flock.Alone); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking the images: %w", err)
	}
	// Who was killed while it held the lock may have left a temporary file; nobody else writes one now.
	for _, dir := range []string{s.images(), s.refs()} {
		left, _ := fs.Glob(os.DirFS(dir), ".new-*")
		for _, name := range left {
			_ = os.Remove(filepath.Join(dir, name))
		}
	}
	return func() { _ = f.Close() }, nil
}
