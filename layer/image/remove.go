package image

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/lease"
	"github.com/strake-build/strake/layer/snapshot"
)

// Remove deletes an image and all of its names. Layers and blobs that no other image uses go too,
// except what keep reports as used (the build cache); keep may be nil. What somebody holds, or all while somebody else
// collects, goes with a later Remove or Collect.
func (s *Store) Remove(id v1.Hash, layers *Layers, keep func(snapshot.ID) bool) error {
	if err := s.Forget(id); err != nil {
		return err
	}
	_, err := s.Collect(layers, keep)
	return err
}

// Forget takes an image's names and record away. What it was made of goes with the next Collect.
func (s *Store) Forget(id v1.Hash) error {
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("removing image %s: %w", id, err)
	}
	defer unlock()
	return s.forget(id)
}

// ForgetNameless is Forget for an image that has no name, and that nobody holds. It returns false for others.
func (s *Store) ForgetNameless(c *lease.Collection, id v1.Hash) (bool, error) {
	unlock, err := s.lock()
	if err != nil {
		return false, fmt.Errorf("removing image %s: %w", id, err)
	}
	defer unlock()
	refs, err := s.allRefs()
	if err != nil || slices.ContainsFunc(refs, func(r refRecord) bool { return r.ID == id }) {
		return false, err
	}
	return c.Take(func() error { return s.forget(id) }, id.String())
}

// forget is Forget.
//
// Preconditions: the lock is held.
func (s *Store) forget(id v1.Hash) error {
	path, err := s.path(id)
	if err == nil {
		err = s.retire(id, path)
	}
	if err != nil {
		return fmt.Errorf("removing image %s: %w", id, err)
	}
	return nil
}

// retire takes away the names and the record, which is path.
func (s *Store) retire(id v1.Hash, path string) error {
	if _, err := os.Stat(path); err != nil {
		return notFound(id.String(), err)
	}
	if err := s.removeRefs(id); err != nil {
		return err
	}
	if err := os.Rename(path, filepath.Join(s.removed(), filepath.Base(path))); err != nil {
		return notFound(id.String(), err)
	}
	_ = os.Remove(s.supersededMark(id)) // it means nothing without the image
	return syncDir(s.images())
}

// Collect deletes the layers and blobs of removed images, as Remove does. It reports false if some are left to a later call,
// because somebody holds them, or collects.
func (s *Store) Collect(layers *Layers, keep func(snapshot.ID) bool) (bool, error) {
	collection, err := s.blobs.Lease.Collect()
	if errors.Is(err, lease.ErrBusy) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer collection.Close()
	unlock, err := s.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	removed, err := listRecords(s.removed())
	if err != nil || len(removed) == 0 {
		return err == nil, err
	}
	c := collector{Store: s, collection: collection, layers: layers, keep: keep}
	if c.used, err = s.used(); err != nil {
		return false, err
	}
	all := true
	for _, id := range removed {
		gone, err := c.collect(id)
		if err != nil {
			return false, fmt.Errorf("removing what image %s was made of: %w", id, err)
		}
		all = all && gone
	}
	return all, nil
}

// used returns the diffIDs and digests that the images of the store are made of.
func (s *Store) used() (map[v1.Hash]bool, error) {
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	used := make(map[v1.Hash]bool)
	for _, id := range ids {
		// An image that cannot be read may use anything: nothing can be deleted.
		r, err := s.record(id)
		if err != nil {
			return nil, err
		}
		maps.Copy(used, r.needs(id))
	}
	return used, nil
}

// collector deletes what removed images were made of.
//
// Preconditions: the lock is held.
type collector struct {
	*Store
	collection *lease.Collection
	layers     *Layers
	keep       func(snapshot.ID) bool
	used       map[v1.Hash]bool
}

// collect deletes what the removed image id was made of, and returns false if somebody holds some of that.
func (c *collector) collect(id v1.Hash) (gone bool, err error) {
	path := filepath.Join(c.removed(), id.Hex+".json")
	r, err := readRecord(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r = record{} // damaged: what it was made of is not known
	}
	all := true
	for _, l := range r.Layers {
		gone, err := c.layer(l)
		if err != nil {
			return false, err
		}
		all = all && gone
	}
	blobs := []v1.Hash{id}
	if r.Manifest != nil {
		blobs = append(blobs, *r.Manifest)
	}
	for _, h := range blobs {
		gone, err := c.blob(h)
		if err != nil {
			return false, err
		}
		all = all && gone
	}
	if !all {
		return false, nil
	}
	return true, os.Remove(path)
}

// layer deletes a layer and its blob unless an image or the build cache needs them. It returns false if somebody holds them.
func (c *collector) layer(l Layer) (gone bool, err error) {
	if !c.used[l.DiffID] {
		id, err := c.layers.Snapshots.ByDiffID(l.DiffID)
		switch {
		case err == nil && c.keep != nil && c.keep(id):
			return true, nil // with its blob, from which it would be pushed
		case err == nil:
			if gone, err := c.layers.Snapshots.Collect(c.collection, id); err != nil || !gone {
				return false, err // with its blob, too
			}
		case !errors.Is(err, snapshot.ErrNotFound):
			return false, err
		}
		if err := c.layers.forget(l.DiffID); err != nil {
			return false, err
		}
	}
	if l.Blob == nil {
		return true, nil
	}
	return c.blob(l.Blob.Digest)
}

func (c *collector) blob(h v1.Hash) (gone bool, err error) {
	if c.used[h] {
		return true, nil
	}
	return c.blobs.Collect(c.collection, h)
}
