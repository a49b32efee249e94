// Package copier does what COPY and ADD say: it copies selected entries of a
// tree into a file system that is being written.
//
// The rules are BuildKit's. Of a folder the contents are copied; the folder that receives them
// is made with mode 0755 if it is missing, and keeps its owner and mode if not, but takes over the
// source's modification time. Below it folders are merged, and take over mode, owner, attributes and
// time. Links in the destination's path are followed inside the root; those met further down
// are replaced by files, and are an error where a folder is copied.
package copier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// Options says how entries arrive.
type Options struct {
	Dest string // absolute in the destination's root; a trailing "/" makes it a directory
	// Owner of everything that is copied or made; nil keeps the tree's owners (0:0 for a context) and makes parents as 0:0.
	Owner *layer.Owner
	// Mode, if not nil, is --chmod: it makes new permission bits (07777, as chmod(2) has them) of those of a file or directory; dir says which.
	// Archives that are unpacked do not heed it.
	Mode func(perm uint32, dir bool) uint32
	// ParentMode says that parents that are made get what Mode makes, at most 0777, and not 0755: in BuildKit they do if it is octal.
	ParentMode bool
	// Extract unpacks files that are tar archives, in a known compression or none, as ADD does unless told --unpack=false; others are copied.
	Extract bool
	// Below, if not nil, is the file system that the destination will be a layer on, for COPY --link: a folder that is made on the way to Dest
	// takes over mode, owner and attributes of the one that is there at the same path, without following links. See Ways.
	Below *rootfs.Root
	// UserXattr: see layer.Options.
	UserXattr bool
	// Epoch, if not nil, is the modification time that everything copied from the tree gets, in seconds since 1970, but for archives that are unpacked.
	Epoch *int64
}

// Inline is a file given by its content, mode 0644.
type Inline struct {
	Name string
	Data []byte
}

// Copy copies items of tree, then inline, into dst. tree may be nil if there are no items.
//
// A source that is not what the tree saw before is a *source.ChangedError. After an error dst holds a part.
func Copy(ctx context.Context, dst *rootfs.Root, tree *source.Tree, items []source.Item, inline []Inline, opt Options) error {
	c := newCopier(dst, tree, opt)
	for _, item := range items {
		if err := c.item(ctx, item); err != nil {
			return fmt.Errorf("copying %s: %w", path.Join("/", item.Path), err)
		}
	}
	for _, f := range inline {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := c.inline(f); err != nil {
			return fmt.Errorf("writing %s: %w", f.Name, err)
		}
	}
	return nil
}

type copier struct {
	dst  *rootfs.Root
	tree *source.Tree
	opt  Options

	owners  *rootfs.Owners // of dst
	from    *rootfs.Owners // of tree; nil without one
	slots   chan struct{}  // one per goroutine that may be started beside the caller's
	buffers sync.Pool      // of *[]byte
}

func newCopier(dst *rootfs.Root, tree *source.Tree, opt Options) *copier {
	c := &copier{
		dst: dst, tree: tree, opt: opt, owners: dst.Owners(),
		slots: make(chan struct{}, max(runtime.NumCPU()-1, 1)),
	}
	if tree != nil {
		c.from = tree.Root().Owners()
	}
	c.buffers.New = func() any { b := make([]byte, bufferSize); return &b }
	return c
}

// item copies one source.
func (c *copier) item(ctx context.Context, item source.Item) error {
	info, err := c.tree.Lstat(item.Path)
	if err != nil {
		return err
	}
	if c.opt.Extract && info.Type == unix.DT_REG {
		if done, err := c.extract(ctx, item, &info); done || err != nil {
			return err
		}
	}
	isDir := info.Type == unix.DT_DIR
	target, err := c.target(item.Name, isDir)
	if err != nil {
		return err
	}
	j := &job{copier: c, links: map[inode]*link{}}
	if isDir {
		return j.top(ctx, item, target, &info)
	}
	src, base, err := c.tree.Root().Parent(item.Path)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, name, err := c.dst.Parent(target)
	if err != nil {
		return err
	}
	defer dst.Close()
	info.Name = base
	return j.entry(ctx, pair{src: src, dst: dst, srcPath: path.Dir(item.Path), dstPath: path.Dir(target)}, &info, name)
}

// target makes the folders that the destination needs and returns the path, without links, of what
// an entry of the given name is copied to.
func (c *copier) target(name string, isDir bool) (string, error) {
	dest := "/" + c.opt.Dest
	clean := path.Clean(dest)
	parent := path.Dir(clean)
	if strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.") {
		parent = clean
	}
	if err := c.makeDir(parent); err != nil {
		return "", err
	}
	target, err := c.dst.Resolve(clean)
	if err != nil {
		return "", err
	}
	st, err := c.dst.Lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if isDir {
			return target, c.makeDir(target)
		}
		// A link to nothing can lead to a folder that is missing, too.
		return target, c.makeDir(path.Dir(target))
	case err != nil:
		return "", err
	case isDir && st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return "", fmt.Errorf("cannot copy to non-directory: %s", path.Join("/", target))
	case !isDir && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return path.Join(target, name), nil
	}
	return target, nil
}

// makeDir makes a folder and its parents as BuildKit makes those of a destination.
func (c *copier) makeDir(name string) error {
	return c.makeDirPerm(name, c.parentPerm())
}

const parentPerm = 0o755

// parentPerm is the mode of parents that are made.
func (c *copier) parentPerm() uint32 {
	if c.opt.ParentMode {
		return c.perm(0, true) & 0o777
	}
	return parentPerm
}

// perm is what --chmod makes of a mode.
func (c *copier) perm(perm uint32, dir bool) uint32 {
	if c.opt.Mode == nil {
		return perm
	}
	return c.opt.Mode(perm, dir) & 0o7777
}

func (c *copier) makeDirPerm(name string, perm uint32) error {
	made, err := makeDirs(c.dst, name, perm, c.opt.Owner)
	if err != nil || c.opt.Below == nil || len(made) == 0 {
		return err
	}
	return c.likeBelow(name, made)
}

// makeDirs makes a folder and its parents. Without an owner they are root's, in the group that mkdir(2) gives them.
func makeDirs(root *rootfs.Root, name string, perm uint32, owner *layer.Owner) ([]string, error) {
	if owner == nil {
		owner = &layer.Owner{GID: -1}
	}
	return root.MkdirAll(name, perm, owner.UID, owner.GID)
}

// time is the modification time of the copy of an entry.
func (c *copier) time(info *source.Info) unix.Timespec {
	if c.opt.Epoch != nil {
		return unix.Timespec{Sec: *c.opt.Epoch}
	}
	return info.Stat.Mtim
}

// newOwner is what things belong to that have no source.
func (c *copier) newOwner() layer.Owner {
	if c.opt.Owner != nil {
		return *c.opt.Owner
	}
	return layer.Owner{}
}

// place calls create, and again after removing the file that is in its way. A
// folder is not removed.
func place(dir *os.File, base, name string, create func() error) error {
	err := create()
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	st, err := rootfs.StatEntry(dir, base)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("cannot replace to directory %s with file", path.Join("/", name))
	}
	if err := rootfs.Remove(dir, base); err != nil {
		return err
	}
	return create()
}
