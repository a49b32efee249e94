package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/flock"
	"github.com/strake-build/strake/layer/rootfs"
)

// temporary is a directory below DIR/tmp that its process holds the lock of.
// When the process dies, however it dies, the lock is gone, and the next sweep
// removes the directory. Only who holds the lock may rename or remove it.
type temporary struct {
	path string
	dir  *os.File // the lock; nil when the directory was kept or removed
}

// newTemporary makes an empty one.
func (s *Store) newTemporary() (*temporary, error) {
	for {
		path := filepath.Join(s.temp(), string(newID()))
		if err := os.Mkdir(path, 0o700); err != nil {
			return nil, err
		}
		t, err := lockDir(path)
		// A sweep that came between the two calls may have removed it: then another one.
		if taken(err) {
			continue
		}
		return t, err
	}
}

// adopt makes a directory of the same file system a temporary one, to be removed.
func (s *Store) adopt(path string) (*temporary, error) {
	t, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	to := filepath.Join(s.temp(), string(newID()))
	if err := os.Rename(path, to); err != nil {
		_ = t.dir.Close()
		return nil, err
	}
	t.path = to
	return t, nil
}

// lockDir takes the lock of path. It fails with flock.ErrHeld if somebody holds it, and with
// fs.ErrNotExist if path is not, or not any more, the directory whose lock was got; see taken.
func lockDir(path string) (*temporary, error) {
	f, err := flock.TryOpen(path, os.O_RDONLY, flock.Alone)
	if err != nil {
		return nil, err
	}
	return &temporary{path: path, dir: f}, nil
}

// taken says whether lockDir failed because somebody else has the directory, or had it and took it away.
func taken(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, flock.ErrHeld) }

// keep renames the directory to where it stays.
func (t *temporary) keep(path string) error {
	if err := os.Rename(t.path, path); err != nil {
		return err
	}
	err := t.dir.Close()
	t.dir = nil
	return err
}

// remove deletes the directory; after keep it does nothing.
func (t *temporary) remove() error {
	if t.dir == nil {
		return nil
	}
	err := removeAll(t.path)
	_ = t.dir.Close()
	t.dir = nil
	return err
}

// dispose takes the directory away from path at once, and removes it while the caller goes on. Close waits for that.
func (s *Store) dispose(path string) error {
	to := filepath.Join(s.temp(), string(newID()))
	if err := os.Rename(path, to); err != nil {
		return err
	}
	s.disposing.Go(func() { _ = removeAll(to) }) // a later sweep does
	return nil
}

// removeAll removes a tree that hostile steps and tars filled; overlay's work directories have
// mode 000, which does not matter to root, also in a user namespace.
func removeAll(path string) error {
	parent, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer parent.Close() // nothing was written through it
	return rootfs.RemoveAll(parent, filepath.Base(path))
}

// sweep removes temporary directories of dead processes. What cannot be removed (a step that
// survived its strake may still write there) is left to a later sweep.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.temp())
	if err != nil {
		return fmt.Errorf("listing temporary layers: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.temp(), e.Name())
		if !e.IsDir() {
			_ = os.Remove(path) // links of the index that were not renamed
			continue
		}
		if t, err := lockDir(path); err == nil {
			_ = t.remove()
		}
	}
	return nil
}
