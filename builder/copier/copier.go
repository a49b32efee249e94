// Package copier does what COPY and ADD say: it copies selected entries of a
// tree into a file system that is being written.
package copier

import (
	"context"
	"errors"
	"io/fs"

	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

var errTodo = errors.New("not written yet")

// Options says how entries arrive.
type Options struct {
	Dest string // absolute in the destination's root; a trailing "/" makes it a directory
	// Owner of everything that is copied or made; nil keeps the tree's owners (0:0 for a context) and makes parents as 0:0.
	Owner *layer.Owner
	// Mode, if not nil, replaces the permission bits of files and directories, also of parents that are made.
	Mode *fs.FileMode
	// Extract unpacks sources that are tar archives, in a known compression or none, as ADD does.
	Extract bool
	// UserXattr: see layer.Options.
	UserXattr bool
}

// Inline is a file given by its content, mode 0644.
type Inline struct {
	Name string
	Data []byte
}

// Copy copies items of tree, then inline, into dst.
func Copy(ctx context.Context, dst *rootfs.Root, tree *source.Tree, items []source.Item, inline []Inline, opt Options) error {
	return errTodo
}

// Owner looks a "user[:group]" up in the /etc/passwd and /etc/group of root, as COPY --chown means it: a user without a
// group has its primary group, a numeric user without one has the same number.
func Owner(root *rootfs.Root, chown string) (layer.Owner, error) { return layer.Owner{}, errTodo }

// MakeDir makes a working directory (WORKDIR): 0755, owned by user; one that exists is left alone.
func MakeDir(root *rootfs.Root, dir, user string) error { return errTodo }
