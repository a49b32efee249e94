package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/strake-build/strake/layer/rootfs"
)

// driver makes file systems of layers: by overlayfs, or by copies.
type driver interface {
	// prepare makes a file system to be written over layers, bottom first.
	prepare(ctx context.Context, layers []ID) (writable, error)
	// view makes one that is only read.
	view(ctx context.Context, layers []ID) (Mount, error)
	// forget removes what was made of the layer, which is about to be removed.
	forget(id ID) error
	// close removes what is kept for this process alone.
	close()
}

// writable is a driver's part of an Active.
type writable interface {
	mount() Mount
	open() (*rootfs.Root, error)
	// commit makes what was written a layer, with no time in it later than epoch (seconds since 1970) unless that is nil.
	commit(ctx context.Context, epoch *int64) (ID, error)
	// undo takes back what was written, if another step can start from that; discard follows.
	undo(ctx context.Context)
	// discard may be called after commit failed, but not after it succeeded.
	discard()
}

// Active is a file system being written.
type Active struct {
	w        writable
	finished bool // committed or discarded
	opened   bool
	epoch    *int64 // of Clamp
}

// errFinished is what an Active says after Commit or Discard.
var errFinished = errors.New("the file system was committed or discarded already")

// Prepare makes a file system over layers (bottom first, possibly none) that can be written to.
// Commit or Discard must follow. The root directory has the owner and times of the topmost layer's, with no layers 0:0; its mode is
// 0755, as under BuildKit, whatever a step before made of it: the tar of a layer does not tell, so other machines would not know.
func (s *Store) Prepare(ctx context.Context, layers []ID) (*Active, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	w, err := s.driver.prepare(ctx, layers)
	if err != nil {
		return nil, fmt.Errorf("preparing a layer: %w", err)
	}
	return &Active{w: w}, nil
}

// Mount describes the file system for a sandbox. It can be mounted once. Without overlayfs it has a directory /etc, which is not in the layer if the layers below have
// none and it is empty when the layer is committed.
func (a *Active) Mount() Mount { return a.w.mount() }

// Open returns the root of the file system: mounted detached (fsmount, no mount point, gone with the
// last descriptor), or the directory of the copy. It can be called once, and not beside a mount of Mount.
func (a *Active) Open() (*rootfs.Root, error) {
	if a.finished {
		return nil, errFinished
	}
	if a.opened {
		return nil, errors.New("the file system was opened already")
	}
	a.opened = true
	return a.w.open()
}

// Clamp asks Commit to set back every modification time in the layer that is later than epoch, in seconds since
// 1970: of files, directories and links, and of the root directory. What lies below the layer stays.
func (a *Active) Clamp(epoch int64) { a.epoch = &epoch }

// Commit turns what was written into a layer. The file system must not be mounted any more, and nobody write to it.
// Whiteouts and opaque marks for what no lower layer has are dropped. After an error
// the layer can still be discarded only.
func (a *Active) Commit(ctx context.Context) (ID, error) {
	if a.finished {
		return "", errFinished
	}
	id, err := a.w.commit(ctx, a.epoch)
	if err != nil {
		return "", fmt.Errorf("committing a layer: %w", err)
	}
	a.finished = true
	return id, nil
}

// Undo takes back what was written, where another step can begin with the same files then. Nobody may write to the file system any more, and Discard must follow.
func (a *Active) Undo(ctx context.Context) {
	if !a.finished {
		a.w.undo(ctx)
	}
}

// Discard removes what was written; after Commit it does nothing. What cannot be removed, because something
// writes there still, is removed by a later Open of the store.
func (a *Active) Discard() {
	if !a.finished {
		a.finished = true
		a.w.discard()
	}
}

// View describes the layers (bottom first) as a read-only file system.
func (s *Store) View(ctx context.Context, layers []ID) (Mount, error) {
	if ctx.Err() != nil {
		return Mount{}, context.Cause(ctx)
	}
	return s.driver.view(ctx, layers)
}

// OpenView returns the root of a file system of the layers (bottom first), which is only read: mounted detached and
// read-only, or a tree of links to the layers' files.
func (s *Store) OpenView(ctx context.Context, layers []ID) (*rootfs.Root, error) {
	m, err := s.View(ctx, layers)
	if err != nil {
		return nil, err
	}
	return s.open(m, m.Lower)
}

// open opens a file system whose owners are kept as those of layers. layers are those that it consists of, if it is not written to.
func (s *Store) open(m Mount, layers []string) (*rootfs.Root, error) {
	root, err := m.Open()
	if err != nil || !s.recordOwners {
		return root, err
	}
	return root.With(s.Owners(layers...)), nil
}

// Owners is how the owners of files are kept, in the store and in other trees of a build. layers is as for rootfs.RecordOwners.
func (s *Store) Owners(layers ...string) *rootfs.Owners {
	if !s.recordOwners {
		return nil
	}
	return rootfs.RecordOwners(!s.userXattr || s.copies, layers...)
}
