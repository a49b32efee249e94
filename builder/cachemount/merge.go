package cachemount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/strake-build/strake/layer/flock"
)

// merge adds to a directory that is here what another machine's cache has and it has not. It does so once for what a cache has, and only
// while no step uses the directory.
func (t *Travel) merge(ctx context.Context, m Mount, place string) error {
	if _, err := os.Lstat(filepath.Join(place, "fs")); err != nil {
		return nil // it is made, and filled, later
	}
	lock, err := flock.TryOpen(filepath.Join(place, "lock"), os.O_CREATE|os.O_RDWR, flock.Alone)
	if errors.Is(err, flock.ErrHeld) || errors.Is(err, fs.ErrNotExist) {
		return nil // somebody uses it, or removed it
	}
	if err != nil {
		return err
	}
	defer lock.Close() // and the lock with it
	tmp := filepath.Join(place, "fs.merge")
	if err := emptyDir(tmp); err != nil { // of a process that died
		return err
	}
	defer os.RemoveAll(tmp)
	from, err := t.fetch(ctx, m, tmp, func(diffID string) bool {
		last, err := os.ReadFile(filepath.Join(place, "merged"))
		return err != nil || string(last) != diffID
	})
	if err != nil || from == nil {
		return err
	}
	root, err := os.OpenRoot(place)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := addMissing(ctx, root, "fs.merge", "fs"); err != nil {
		return fmt.Errorf("adding what another machine has: %w", err)
	}
	return root.WriteFile("merged", []byte(from.DiffID.String()), 0o600)
}

// addMissing moves what from has and to has not. Directories that both have are gone through; everything else that is there stays.
func addMissing(ctx context.Context, root *os.Root, from, to string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	dir, err := root.Open(from)
	if err != nil {
		return err
	}
	entries, err := dir.ReadDir(-1)
	if err = errors.Join(err, dir.Close()); err != nil {
		return err
	}
	for _, e := range entries {
		src, dst := path.Join(from, e.Name()), path.Join(to, e.Name())
		have, err := root.Lstat(dst)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = root.Rename(src, dst)
		case err == nil && have.IsDir() && e.IsDir():
			err = addMissing(ctx, root, src, dst)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
