// Package snapshot keeps layers unpacked, each once and independent of what
// lies below it, and stacks them with overlayfs.
//
// A layer is the directory DIR/ID/fs in overlay's lower form (package layer).
// An Active file system is an empty upper directory over such layers; Commit
// makes the upper directory the next layer by a rename. The diffID of a layer is
// computed when somebody asks for it and then remembered beside it.
package snapshot

import (
	"context"
	"errors"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/rootfs"
)

var errTodo = errors.New("not written yet")

// ErrNotFound is returned for a layer that the store does not hold.
var ErrNotFound = errors.New("layer not found")

// ID names an unpacked layer in one store. It is opaque; it is not a digest.
type ID string

// Mount says how overlayfs makes a file system: pure data, mounted by
// Mount.Open or by a sandbox.
type Mount struct {
	Lower       []string // host paths, topmost first
	Upper, Work string   // empty for a read-only mount
	UserXattr   bool
}

// Store is a directory of layers. It is safe for concurrent use, also by several processes.
type Store struct{ dir string }

// Options configures a store.
type Options struct {
	UserXattr bool // the process is in a user namespace of its own
}

// Open opens or makes the store in dir, and removes what crashed processes left in it.
func Open(dir string, opt Options) (*Store, error) { return nil, errTodo }

// Has says whether the store holds the complete layer id.
func (s *Store) Has(id ID) bool { return false }

// ByDiffID finds an unpacked layer by the digest of its tar, or returns ErrNotFound.
func (s *Store) ByDiffID(diffID v1.Hash) (ID, error) { return "", errTodo }

// Unpack makes a layer from the uncompressed tar r, whose digest must be diffID.
// If the store has it already, r is not read. Concurrent calls for one
// diffID, also from other processes, unpack it once. open is called when the bytes are needed.
func (s *Store) Unpack(ctx context.Context, diffID v1.Hash, open func() (io.ReadCloser, error)) (ID, error) {
	return "", errTodo
}

// DiffID returns the digest and size of the layer's uncompressed tar, computing it the first time.
func (s *Store) DiffID(ctx context.Context, id ID) (v1.Hash, int64, error) {
	return v1.Hash{}, 0, errTodo
}

// WriteTar writes the layer as an uncompressed tar, always the same bytes.
func (s *Store) WriteTar(ctx context.Context, id ID, w io.Writer) error { return errTodo }

// Active is a file system being written.
type Active struct{}

// Prepare makes an empty upper directory over layers (bottom first, possibly none).
// Commit or Discard must follow.
func (s *Store) Prepare(ctx context.Context, layers []ID) (*Active, error) { return nil, errTodo }

// Mount describes the file system for a sandbox. It can be mounted once.
func (a *Active) Mount() Mount { return Mount{} }

// Open mounts the file system detached (fsmount, no mount point, gone with the
// last descriptor) and returns its root. It can be called once, and not beside a mount of Mount.
func (a *Active) Open() (*rootfs.Root, error) { return nil, errTodo }

// Commit turns what was written into a layer. The file system must not be mounted any more.
// Whiteouts and opaque marks for what no lower layer has are dropped.
func (a *Active) Commit(ctx context.Context) (ID, error) { return "", errTodo }

// Discard removes what was written; after Commit it does nothing.
func (a *Active) Discard() {}

// View describes the layers (bottom first) as a read-only file system.
func (s *Store) View(layers []ID) (Mount, error) { return Mount{}, errTodo }

// OpenView mounts the layers (bottom first) detached and read-only, and returns the root.
func (s *Store) OpenView(layers []ID) (*rootfs.Root, error) { return nil, errTodo }

// Remove deletes a layer; one that is not there is no error.
func (s *Store) Remove(id ID) error { return errTodo }

// Walk calls f for every layer.
func (s *Store) Walk(f func(id ID) error) error { return errTodo }
