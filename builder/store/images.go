package store

import (
	"context"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/snapshot"
)

// RemoveImage deletes an image and all of its names. What neither another image nor the build cache needs of its layers goes too,
// except what somebody uses: that goes with a later RemoveImage, CollectImages or Prune.
//
// Preconditions: OpenLayers opened the store, and Release was called, or what this process used stays.
func (s *Store) RemoveImage(ctx context.Context, id v1.Hash) error {
	return s.Images.Remove(id, s.Layers, s.cachedLayers(ctx))
}

// CollectImages deletes what is left of removed images, as RemoveImage does.
func (s *Store) CollectImages(ctx context.Context) error {
	_, err := s.Images.Collect(s.Layers, s.cachedLayers(ctx))
	return err
}

// cachedLayers tells which layers the build cache uses. The cache is read when the first is asked for; if it cannot be
// read, it uses them all.
func (s *Store) cachedLayers(ctx context.Context) func(snapshot.ID) bool {
	used := sync.OnceValues(func() (map[snapshot.ID]bool, error) {
		used := make(map[snapshot.ID]bool)
		err := s.Cache.Walk(ctx, func(_ cache.Key, r cache.Record) error {
			used[snapshot.ID(r.Layer)] = true
			return nil
		})
		return used, err
	})
	return func(id snapshot.ID) bool {
		ids, err := used()
		return err != nil || ids[id]
	}
}
