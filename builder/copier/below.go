package copier

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/layer/rootfs"
)

// way is a folder on the way to the destination of a linked copy, in the file system below.
type way struct {
	path     string // "a/b"
	mode     uint32
	uid, gid int
	xattrs   []xattr // sorted by name
}

type xattr struct {
	name  string
	value []byte
}

// ways finds the folders of dir, a path, that below has, from the root on. The first that is none, but a link, say, ends them: in the
// layer that is to be made a folder takes its place.
func ways(below *rootfs.Root, dir string) ([]way, error) {
	var list []way
	at := ""
	for comp := range strings.SplitSeq(path.Clean("/" + dir)[1:], "/") {
		if comp == "" {
			break
		}
		at = path.Join(at, comp)
		st, err := below.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			break
		}
		w := way{path: at, mode: st.Mode & 0o7777, uid: int(st.Uid), gid: int(st.Gid)}
		if w.xattrs, err = wayXattrs(below, at); err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	return list, nil
}

func wayXattrs(below *rootfs.Root, name string) ([]xattr, error) {
	dir, base, err := below.Parent(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := below.Owners().ListXattr(dir, base)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var list []xattr
	for _, n := range names {
		if !source.KeepXattr(n) || n == rootfs.OverrideStat {
			continue
		}
		value, err := below.Owners().GetXattr(dir, base, n)
		if err != nil {
			return nil, err
		}
		list = append(list, xattr{n, value})
	}
	return list, nil
}

// Ways says what of the file system below a linked copy depends on: one line for each folder on the way to opt.Dest that is there and is not like one that the
// copy makes itself. So it is empty for most, and the layer is the same on every base with the same ways. It belongs in the key of a copy with
// Options.Below instead of the key of what is below. opt is that of the copy.
func Ways(below *rootfs.Root, opt Options) (string, error) {
	list, err := ways(below, opt.Dest)
	if err != nil {
		return "", fmt.Errorf("looking for %s: %w", opt.Dest, err)
	}
	c := copier{opt: opt}
	o, perm := c.newOwner(), c.parentPerm()
	var b strings.Builder
	for _, w := range list {
		if w.mode == perm && w.uid == o.UID && w.gid == o.GID && len(w.xattrs) == 0 && (perm == parentPerm || !opt.Extract) {
			continue // an archive's folder is always made with parentPerm
		}
		fmt.Fprintf(&b, "%q %#o %d:%d", w.path, w.mode, w.uid, w.gid)
		for _, x := range w.xattrs {
			fmt.Fprintf(&b, " %q=%q", x.name, x.value)
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}

// likeBelow gives those folders on the way to dir that were just made what the ones below have.
func (c *copier) likeBelow(dir string, made []string) error {
	list, err := ways(c.opt.Below, dir)
	if err != nil {
		return err
	}
	for _, w := range list {
		if slices.ContainsFunc(made, func(m string) bool { return path.Clean("/" + m)[1:] == w.path }) {
			if err := c.likeWay(w); err != nil {
				return fmt.Errorf("making %s as it is below: %w", path.Join("/", w.path), err)
			}
		}
	}
	return nil
}

func (c *copier) likeWay(w way) error {
	dir, base, err := c.dst.Parent(w.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := c.owners.Chown(dir, base, w.uid, w.gid); err != nil {
		return err
	}
	for _, x := range w.xattrs {
		if err := c.owners.SetXattr(dir, base, x.name, x.value); err != nil {
			return err
		}
	}
	return c.owners.Chmod(dir, base, w.mode)
}
