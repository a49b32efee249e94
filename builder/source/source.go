// Package source opens build contexts and digests exactly the files that an
// instruction takes from one.
package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"time"

	"github.com/strake-build/strake/dockerfile/ignore"
	"github.com/strake-build/strake/layer/rootfs"
)

var errTodo = errors.New("not written yet")

// Digest names the content that a selection takes: paths, types, modes, owners, link targets, xattrs and bytes; never times.
type Digest [sha256.Size]byte

// Tree is a file tree that COPY and ADD read: a build context or a mounted stage. It is safe for concurrent use.
type Tree struct{}

// Options configures a Tree.
type Options struct {
	Ignore *ignore.Matcher // nil excludes nothing
	// ResetOwner: entries count as owned by 0:0, as those of a build context are.
	ResetOwner bool
	// Index is the file that remembers the sha256 of files by (size, mtime, ctime, inode, mode); empty for none.
	Index string
	// Now is the clock, for git's rule about racy timestamps.
	Now func() time.Time
}

// Open opens the host directory dir as a Tree.
func Open(dir string, opt Options) (*Tree, error) { return nil, errTodo }

// FromRoot makes a Tree of an open root, such as a stage's file system. The Tree owns it.
func FromRoot(r *rootfs.Root, opt Options) *Tree { return nil }

// Close writes the index and releases the tree.
func (t *Tree) Close() error { return errTodo }

// Item is one source of a COPY after wildcards and links were followed.
type Item struct {
	// Path is relative to the tree's root, without symbolic links except in what is below it.
	Path string
	// Name is the name that the entry gets in a destination directory: the last component as written or matched.
	Name string
	Dir  bool
	// Wildcard: the item matched a pattern.
	Wildcard bool
}

// Select finds what the patterns of a COPY mean (filepath.Match in each component, links followed inside the
// tree, ".." clipped at the root). A pattern without wildcards that matches nothing is a *NotFoundError, one with
// wildcards matches nothing silently, unless nothing at all matched.
func (t *Tree) Select(ctx context.Context, patterns []string) ([]Item, error) { return nil, errTodo }

// NotFoundError says that a source does not exist in the tree, or that .dockerignore excludes it.
type NotFoundError struct {
	Path    string
	Ignored bool // it exists, and .dockerignore excludes it
	Similar string // a path that does exist and looks alike, may be empty
}

func (e *NotFoundError) Error() string { return "" }

// Digest digests what items select, in parallel, reading only files that changed since the index was written.
func (t *Tree) Digest(ctx context.Context, items []Item) (Digest, error) { return Digest{}, errTodo }

// Root is the tree's root, for reading files.
func (t *Tree) Root() *rootfs.Root { return nil }

// Walk calls f for item.Path and, if it is a directory, for everything below it that is not ignored, parents
// first, sorted by name. rel is relative to item.Path, "." for itself.
func (t *Tree) Walk(ctx context.Context, item Item, f func(rel string, e rootfs.Entry) error) error {
	return errTodo
}

// Stdin reads a context from r: a tar (plain, or compressed in a known format), unpacked into dir, or else a Dockerfile, which is
// returned (then there is no context).
func Stdin(ctx context.Context, r io.Reader, dir string) (dockerfile []byte, err error) {
	return nil, errTodo
}
