package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/snapshot"
)

// Remove deletes an image and all of its names. Layers and blobs that no other image uses go too,
// except what keep reports as used (the build cache); keep may be nil. While others use the
// store (Use), only the image and its names go, and the rest with a later Remove or Collect.
func (s *Store) Remove(id v1.Hash, layers *Layers, keep func(snapshot.ID) bool) error {
	if err := s.Forget(id); err != nil {
		return err
	}
	_, err := s.Collect(layers, keep)
	return err
}

// Forget takes an image's names and record away. What it was made of goes with the next Collect.
func (s *Store) Forget(id v1.Hash) error {
	path, err := s.path(id)
	if err == nil {
		err = s.forget(id, path)
	}
	if err != nil {
		return fmt.Errorf("removing image %s: %w", id, err)
	}
	return nil
}

func (s *Store) forget(id v1.Hash, path string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
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

// Collect deletes the layers and blobs of removed images, as Remove does. It reports false, and deletes
// nothing, while others use the store.
func (s *Store) Collect(layers *Layers, keep func(snapshot.ID) bool) (bool, error) {
	release, ok, err := s.Alone()
	if !ok {
		return false, err
	}
	defer release()
	unlock, err := s.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	removed, err := listRecords(s.removed())
	if err != nil || len(removed) == 0 {
		return err == nil, err
	}
	c := collector{Store: s, layers: layers, keep: keep}
	if c.used, err = s.used(); err != nil {
		return false, err
	}
	for _, id := range removed {
		if err := c.collect(id); err != nil {
			return false, fmt.Errorf("removing what image %s was made of: %w", id, err)
		}
	}
	return true, nil
}

// used returns the diffIDs and digests that the images of the store are made of.
func (s *Store) used() (map[v1.Hash]bool, error) {
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	used := make(map[v1.Hash]bool)
	for _, id := range ids {
		path, err := s.path(id)
		if err != nil {
			return nil, err
		}
		// An image that cannot be read may use anything: nothing can be deleted.
		r, err := readRecord(path)
		if err != nil {
			return nil, fmt.Errorf("reading image %s: %w", id, err)
		}
		used[id] = true
		if r.Manifest != nil {
			used[*r.Manifest] = true
		}
		for _, l := range r.Layers {
			used[l.DiffID] = true
			if l.Blob != nil {
				used[l.Blob.Digest] = true
			}
		}
	}
	return used, nil
}

// collector deletes what removed images were made of.
//
// Preconditions: both locks are held.
type collector struct {
	*Store
	layers *Layers
	keep   func(snapshot.ID) bool
	used   map[v1.Hash]bool
}

func (c *collector) collect(id v1.Hash) error {
	path := filepath.Join(c.removed(), id.Hex+".json")
	r, err := readRecord(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r = record{} // damaged: what it was made of is not known
	}
	for _, l := range r.Layers {
		if err := c.layer(l); err != nil {
			return err
		}
	}
	blobs := []v1.Hash{id}
	if r.Manifest != nil {
		blobs = append(blobs, *r.Manifest)
	}
	for _, h := range blobs {
		if err := c.blob(h); err != nil {
			return err
		}
	}
	return os.Remove(path)
}

// layer deletes a layer and its blob unless somebody uses them.
func (c *collector) layer(l Layer) error {
	if !c.used[l.DiffID] {
		id, err := c.layers.Snapshots.ByDiffID(l.DiffID)
		switch {
		case err == nil && c.keep != nil && c.keep(id):
			return nil // with its blob, from which it would be pushed
		case err == nil:
			if err := c.layers.Snapshots.Remove(id); err != nil {
				return err
			}
		case !errors.Is(err, snapshot.ErrNotFound):
			return err
		}
		if err := c.layers.forget(l.DiffID); err != nil {
			return err
		}
	}
	if l.Blob == nil {
		return nil
	}
	return c.blob(l.Blob.Digest)
}

func (c *collector) blob(h v1.Hash) error {
	if c.used[h] {
		return nil
	}
	return c.blobs.Remove(h)
}
