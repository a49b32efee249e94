package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/flock"
)

// What a power failure may have torn is found by marks:
//
//	DIR/unsynced/ID  the layer ID may be on its way to the disk; made before the layer appears, removed after a syncfs
//	DIR/boot         the boot of the machine in which the marks were made
//
// File systems with a journal keep the order of names: a layer that is there after a power failure, but whose files
// did not all reach the disk, has its mark still. So the first Open in another boot removes the layers that have one, unless
// their files are those of their diffIDs, as in a store that was copied to another machine. That a mark comes back which was removed costs time, or a
// layer, and never gives a torn one.

func (s *Store) unsynced() string { return filepath.Join(s.dir, "unsynced") }

func (s *Store) mark(id ID) string { return filepath.Join(s.unsynced(), string(id)) }

// publish makes the temporary directory t the layer id.
func (s *Store) publish(t *temporary, id ID) error {
	f, err := os.OpenFile(s.mark(id), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return s.lease.Hold(func() error { return t.keep(s.path(id)) }, string(id))
}

// Sync makes all layers that the store has durable, and returns how many were not yet. If there is none it does nothing.
func (s *Store) Sync() (int, error) {
	marks, err := os.ReadDir(s.unsynced())
	if err != nil {
		return 0, fmt.Errorf("syncing the layers: %w", err)
	}
	var complete []ID
	for _, m := range marks {
		// One that is not there yet gets its files after the syncfs, or never.
		if id := ID(m.Name()); id.valid() && exists(s.fs(id)) {
			complete = append(complete, id)
		}
	}
	if len(complete) == 0 {
		return 0, nil
	}
	if err := s.syncfs(); err != nil {
		return 0, err
	}
	for _, id := range complete {
		if err := os.Remove(s.mark(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("syncing the layers: %w", err)
		}
	}
	return len(complete), nil
}

// SyncAll is Sync that makes also all else durable that is on the file system of the store.
func (s *Store) SyncAll() error {
	n, err := s.Sync()
	if n > 0 || err != nil {
		return err // it was
	}
	return s.syncfs()
}

// syncfs writes what is on the file system of the store to its disk.
func (s *Store) syncfs() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("syncing the layers: %w", err)
	}
	defer d.Close() // only read
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncing the layers: %w", err)
	}
	return nil
}

// recover removes, the first time in a boot of the machine, the layers that an earlier boot left unsynced.
func (s *Store) recover(boot string) error {
	if boot == "" || s.sameBoot(boot) {
		return nil
	}
	guard, err := os.OpenFile(filepath.Join(s.dir, "boot.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer guard.Close() // only a lock
	if err := flock.Take(guard, flock.Alone); err != nil {
		return err
	}
	if s.sameBoot(boot) { // somebody else was faster
		return nil
	}
	marks, err := os.ReadDir(s.unsynced())
	if err != nil {
		return err
	}
	for _, m := range marks {
		id := ID(m.Name())
		if s.intact(id) {
			continue // the mark stays: it may not be on the disk yet
		}
		if err := s.Remove(id); err != nil {
			return err
		}
		if err := os.Remove(s.mark(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// Views list their layers in a file, which may be torn; they are made again quickly.
	if err := s.dropViews(); err != nil {
		return err
	}
	tmp := filepath.Join(s.dir, "boot.new")
	if err := os.WriteFile(tmp, []byte(boot), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(s.dir, "boot"))
}

// intact says whether a layer is known to be whole.
func (s *Store) intact(id ID) bool {
	m, err := s.readMeta(id)
	return err == nil && m.DiffID != (v1.Hash{}) && s.Verify(context.Background(), id, nil) == nil
}

func (s *Store) sameBoot(boot string) bool {
	have, err := os.ReadFile(filepath.Join(s.dir, "boot"))
	return err == nil && string(have) == boot
}

// dropViews removes all views.
func (s *Store) dropViews() error {
	entries, err := os.ReadDir(s.trees())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.removeTree(filepath.Join(s.trees(), e.Name())); err != nil {
			return err
		}
	}
	return nil
}
