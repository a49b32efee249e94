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
	// Mode, if not nil, replaces the permission bits of files and directories, also of parents that are made, which get no more than
	// 0777 of it. The set-id and sticky bits are understood as octal digits (04000) and as fs.ModeSetuid and its like. Archives that are
	// unpacked do not heed it.
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

// Copy copies items of tree, then inline, into dst. tree may be nil if there are no items.
//
// A source that is not what the tree saw before is a *source.ChangedError. After an error dst holds a part.
func Copy(ctx context.Context, dst *rootfs.Root, tree *source.Tree, items []source.Item, inline []Inline, opt Options) error {
	c := &copier{
		dst: dst, tree: tree, opt: opt,
		euid: os.Geteuid(), egid: os.Getegid(),
		slots: make(chan struct{}, max(runtime.NumCPU()-1, 1)),
	}
	c.buffers.New = func() any { b := make([]byte, bufferSize); return &b }
	for _, item := range items {
		if err := c.item(ctx, item); err != nil {
			return fmt.Errorf("copying %s: %w", path.Join("/", item.Path), err)
		}
	}
	for _, f := range inline {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.inline(f); err != nil {
			return fmt.Errorf("writing %s: %w", f.Name, err)
		}
	}
	return nil
}

type copier struct {
	dst        *rootfs.Root
	tree       *source.Tree
	opt        Options
	euid, egid int

	slots   chan struct{} // one per goroutine that may be started beside the caller's
	buffers sync.Pool     // of *[]byte
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
	defer src.Close() //nolint:errcheck // only read
	dst, name, err := c.dst.Parent(target)
	if err != nil {
		return err
	}
	defer dst.Close() //nolint:errcheck // only a handle
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
	perm := uint32(0o755)
	if c.opt.Mode != nil {
		perm = permissions(*c.opt.Mode) & 0o777
	}
	return c.makeDirPerm(name, perm)
}

func (c *copier) makeDirPerm(name string, perm uint32) error {
	var o layer.Owner
	if c.opt.Owner != nil {
		o = *c.opt.Owner
	}
	_, err := c.dst.MkdirAll(name, perm, o.UID, o.GID)
	return err
}

// inline writes one file of a heredoc.
func (c *copier) inline(f Inline) error {
	target, err := c.target(path.Base(f.Name), false)
	if err != nil {
		return err
	}
	dir, base, err := c.dst.Parent(target)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // only a handle
	perm := uint32(0o644)
	if c.opt.Mode != nil {
		perm = permissions(*c.opt.Mode)
	}
	var file *os.File
	err = place(dir, base, target, func() (err error) {
		file, err = rootfs.CreateEntry(dir, base, perm&0o777)
		return err
	})
	if err != nil {
		return err
	}
	_, err = file.Write(f.Data)
	if err2 := file.Close(); err == nil {
		err = err2
	}
	if err != nil {
		return err
	}
	var o layer.Owner
	if c.opt.Owner != nil {
		o = *c.opt.Owner
	}
	if err := chown(dir, base, o.UID, o.GID); err != nil {
		return err
	}
	return rootfs.Chmod(dir, base, perm)
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

// chown sets an owner, and says what is wrong with one that a user namespace does not have.
func chown(dir *os.File, base string, uid, gid int) error {
	return explainChown(rootfs.Chown(dir, base, uid, gid), uid, gid)
}

func explainChown(err error, uid, gid int) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("the owner %d:%d is outside the subordinate id range (see /etc/subuid and /etc/subgid): %w", uid, gid, err)
	}
	return err
}

// permissions are the bits of chmod(2) in m.
func permissions(m fs.FileMode) uint32 {
	perm := uint32(m & 0o7777)
	if m&fs.ModeSetuid != 0 {
		perm |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		perm |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		perm |= unix.S_ISVTX
	}
	return perm
}
