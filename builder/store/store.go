// Package store is the directory that holds everything strake keeps: its format, what it holds and for whom, and the rules by
// which that is bounded (Prune, EnforceCap), checked (Check) and made durable (SyncNew, SyncAll). What each folder holds is its
// owner's business.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/lease"
	"github.com/strake-build/strake/layer/snapshot"
)

// Store is the directory, which several processes share:
//
//	format      its version, and in which form overlay marks are
//	blobs/      configurations, manifests and compressed layers, by digest
//	images/     images and their names
//	layers/     unpacked layers
//	compressed/ what compressing a layer gave
//	cache/      records of build steps
//	contexts/   digests of the files of build contexts
//	mounts/     directories of RUN --mount=type=cache
//	remote/     files and repositories fetched for ADD and contexts
//	run/        what running steps and containers need
//	stubs/      mount points that no layer has
//	tmp/        folders of one command each
//	names/      names of running containers
//	leases/     what running commands use of all this
//	usage       what it held when it was last measured
type Store struct {
	Root   string
	Blobs  *blob.Store
	Images *image.Store

	// The following are set by OpenLayers.
	Snapshots *snapshot.Store
	Layers    *image.Layers
	Cache     *cache.Store

	now func() time.Time
	// lease keeps others from removing what this process finds and makes, until Release or the end of the process.
	lease *lease.Lease
}

// Open opens or makes the store in root, an absolute path, as far as that needs no privileges: names, configurations and
// manifests. now is the clock. It returns a VersionError for a store that this program does not know.
func Open(root string, now func() time.Time) (*Store, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("making the store: %w", err)
	}
	s := &Store{Root: root, now: now}
	err := s.mark("")
	if err != nil {
		return nil, err
	}
	if s.Blobs, err = blob.Open(s.Path("blobs")); err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", root, err)
	}
	if s.Images, err = image.Open(s.Path("images"), s.Blobs); err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", root, err)
	}
	return s, nil
}

// LayerOptions say how a process keeps the layers of a store.
type LayerOptions struct {
	Form Form // that of the layers it makes
	// Snapshots are the options that make layers of that form; Boot and Lease are set here.
	Snapshots snapshot.Options
	Remote    image.Fetcher // fetches layers that are not here; nil for none
}

// OpenLayers opens the rest of the store. From now on nobody else removes what this process finds and makes, until Release. It returns
// a FormError if the layers have another form.
//
// Preconditions: the process has the privileges that layers of this form need, and what dead processes left in run/ is gone: a cache mount
// may be in a tree of layers that is removed here.
func (s *Store) OpenLayers(opt LayerOptions) (err error) {
	if err := s.mark(opt.Form); err != nil {
		return err
	}
	if s.lease, err = lease.Open(s.Path("leases")); err != nil {
		return fmt.Errorf("opening the store %s: %w", s.Root, err)
	}
	s.Blobs.Lease = s.lease
	opt.Snapshots.Boot, opt.Snapshots.Lease = bootID(), s.lease
	if s.Snapshots, err = snapshot.Open(s.Path("layers"), opt.Snapshots); err != nil {
		return fmt.Errorf("opening the store %s: %w", s.Root, err)
	}
	if s.Cache, err = cache.Open(s.Path("cache")); err != nil {
		return fmt.Errorf("opening the store %s: %w", s.Root, err)
	}
	s.Layers = &image.Layers{Blobs: s.Blobs, Snapshots: s.Snapshots, Remote: opt.Remote, Dir: s.Path("compressed")}
	return nil
}

// Release lets others remove what this process found and made, for good.
func (s *Store) Release() { s.lease.Release() }

// Path returns the path of something in the store.
func (s *Store) Path(elem ...string) string {
	return filepath.Join(append([]string{s.Root}, elem...)...)
}

// CacheMounts are the directories of RUN --mount=type=cache.
func (s *Store) CacheMounts() *cachemount.Store { return &cachemount.Store{Dir: s.Path("mounts")} }

// writeFile writes a file under a temporary name and renames it: it is there whole or not at all. With durable a power failure
// cannot tear it either.
func writeFile(path string, data []byte, durable bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {                                                           // the file that was asked for tells more than the temporary one
		return &fs.PathError{Op: "writing", Path: path, Err: errors.Unwrap(err)}
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}
