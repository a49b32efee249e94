// Package layer reads and writes OCI layers: tar changesets as the OCI image
// specification defines them (layer.md).
//
// On disk a layer is a directory in the form that overlayfs takes as a lower
// directory: a whiteout is a character device 0:0, an opaque directory carries
// the overlay.opaque xattr ("user." in a user namespace, "trusted." otherwise).
// Apply makes such a directory from a tar, Write makes the tar again; the same
// directory always gives the same bytes.
package layer

import (
	"context"
	"errors"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/rootfs"
)

var errTodo = errors.New("not written yet")

// Form says what a directory holds and which names are special in it.
type Form int

const (
	// Overlay is a lower directory of overlayfs: ".wh." entries of a tar become
	// whiteout devices and opaque marks, and back.
	Overlay Form = iota
	// Plain is an ordinary tree: ".wh." has no meaning.
	Plain
)

// Options says how Apply and Write treat a directory.
type Options struct {
	Form Form
	// UserXattr: the directory is used in a user namespace: overlay's marks are
	// user.overlay.*, and device nodes, which cannot be made there, are empty
	// files whose user.containers.override_stat xattr says what they are.
	UserXattr bool
	// Dir is where in the root Apply puts the entries; "" is the root itself.
	Dir string
	// Owner, if not nil, replaces the owner of every entry that Apply makes.
	Owner *Owner
}

// Owner is a pair of ids as they are in the image.
type Owner struct{ UID, GID int }

// Apply unpacks the tar r into root. Entries that try to leave the root, or
// that the tar's own symbolic links lead elsewhere, stay inside; malformed ones
// are an error. It reads r to its end.
func Apply(ctx context.Context, root *rootfs.Root, r io.Reader, opt Options) error { return errTodo }

// Write writes the tree at root as an uncompressed tar: PAX where ustar does not
// suffice, names sorted, whole seconds, no atime or ctime, no sockets.
func Write(ctx context.Context, w io.Writer, root *rootfs.Root, opt Options) error { return errTodo }

// ChainID computes the ChainID of a stack of layers, bottom first (OCI image
// specification, config.md, "Layer ChainID").
func ChainID(diffIDs []v1.Hash) v1.Hash { return v1.Hash{} }
