package store

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/lease"
	"github.com/strake-build/strake/layer/snapshot"
)

// CheckOptions say what Check does.
type CheckOptions struct {
	Repair bool   // drop what is damaged, unless somebody uses it
	Path   string // the folders in which git is found, as in PATH
	// Report is told what is found, one after the other. An error of it ends the check.
	Report func(Finding) error
}

// Fate says what became of something that Check found.
type Fate string

// The fates.
const (
	Damaged      Fate = "damaged"         // without Repair
	DamagedInUse Fate = "damaged, in use" // Repair could not drop it
	Dropped      Fate = "dropped"         // it was damaged
	Removed      Fate = "removed"         // it led nowhere, which is no damage
)

// Finding is something that Check found.
type Finding struct {
	Fate Fate
	What string // "blob sha256:…"
	Err  error  // what is wrong with it; nil for Removed
}

// Checked is what Check looked at, and how much of that is damaged.
type Checked struct {
	Blobs, Layers, Records, Images, Files, CacheMounts, GitSources int

	Unverified int // of the layers, those that were unpacked from a tar that is not here any more: they could only be read
	NoGit      int // of the git sources, those that were not checked, for lack of git
	Problems   int // what was damaged
	InUse      int // of the problems, those that Repair could not drop
}

// Check compares everything in the store with its digests, checksums and names.
//
// Preconditions: OpenLayers opened the store.
func (s *Store) Check(ctx context.Context, opt CheckOptions) (Checked, error) {
	c := &checker{
		Store: s, opt: opt, blobOf: make(map[v1.Hash]image.Layer),
		local:    &image.Layers{Blobs: s.Blobs, Snapshots: s.Snapshots, Dir: s.Path("compressed")},
		badBlobs: make(map[v1.Hash]bool), badLayers: make(map[snapshot.ID]bool),
	}
	if opt.Repair {
		var err error
		if c.collection, err = s.collect(ctx); err != nil {
			return c.found, err
		}
		defer c.collection.Close()
	}
	for _, check := range []func(context.Context) error{
		c.checkBlobs, c.checkLayers, c.checkCopies, c.checkStale, c.checkRecords, c.checkImages, c.checkFiles, c.checkMounts, c.checkRepositories,
	} {
		if err := check(ctx); err != nil {
			return c.found, fmt.Errorf("checking the store %s: %w", s.Root, err)
		}
	}
	return c.found, nil
}

// checker is one check of a store.
type checker struct {
	*Store
	opt    CheckOptions
	local  *image.Layers // without a registry
	blobOf map[v1.Hash]image.Layer

	collection *lease.Collection // with Repair

	mu        sync.Mutex
	found     Checked
	badBlobs  map[v1.Hash]bool
	badLayers map[snapshot.ID]bool
}

// problem reports what is damaged, and drops it with Repair, unless somebody uses it: then drop returns false.
func (c *checker) problem(what string, why error, drop func() (bool, error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found.Problems++
	fate := Damaged
	if c.opt.Repair {
		dropped, err := drop()
		if err != nil {
			return fmt.Errorf("dropping %s: %w", what, err)
		}
		if fate = Dropped; !dropped {
			fate = DamagedInUse
			c.found.InUse++
		}
	}
	return c.opt.Report(Finding{fate, what, why})
}

// stale drops with Repair what leads nowhere. It is no damage.
func (c *checker) stale(what string, drop func() (bool, error)) error {
	if !c.opt.Repair {
		return nil
	}
	if _, err := drop(); err != nil {
		return fmt.Errorf("removing %s: %w", what, err)
	}
	return c.opt.Report(Finding{Fate: Removed, What: what})
}

// each calls do for all of items, as many at once as there are CPUs, and returns the first error.
func each[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan T)
	var wg sync.WaitGroup
	for range max(1, min(len(items), runtime.GOMAXPROCS(0))) {
		wg.Go(func() {
			for i := range work {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, i := range items {
		select {
		case work <- i:
		case <-ctx.Done():
		}
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}
