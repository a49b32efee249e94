package tree

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// clamp sets back the modification times of what is in the layer.
func (t *Tree) clamp(ctx context.Context, c *change, epoch int64) error {
	f, err := t.open(".")
	if err != nil {
		return err
	}
	return t.clampDir(ctx, f, c, epoch)
}

// clampDir is clamp for the directory of c, which is open as f. It closes that.
func (t *Tree) clampDir(ctx context.Context, f *os.File, c *change, epoch int64) error {
	defer f.Close() // only read
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for name, k := range c.each() {
		if !k.n.isDir() {
			if err := t.clampEntry(f, name, k.n, epoch); err != nil {
				return err
			}
			continue
		}
		sub, err := rootfs.OpenEntry(f, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err == nil {
			err = t.clampDir(ctx, sub, k, epoch)
		}
		if err != nil {
			return err
		}
	}
	return t.clampEntry(f, ".", c.n, epoch)
}

// each gives the files of the layer in the directory of c.
func (c *change) each() func(yield func(string, *change) bool) {
	return func(yield func(string, *change) bool) {
		if !c.whole {
			for name, k := range c.kids {
				if !yield(name, k) {
					return
				}
			}
			return
		}
		for name, n := range c.n.kids {
			if !yield(name, &change{n: n, whole: true}) {
				return
			}
		}
	}
}

func (t *Tree) clampEntry(dir *os.File, base string, n *node, epoch int64) error {
	limit := unix.Timespec{Sec: epoch}
	if !after(n.mtime, limit) {
		return nil
	}
	if n.nlink == 1 || n.isDir() {
		if err := rootfs.Utimes(dir, base, unix.Timespec{Nsec: unix.UTIME_OMIT}, limit); err != nil {
			return err
		}
	} else {
		// It may have been set by another name, and to set it again would change what that one's node says.
		st, err := rootfs.StatEntry(dir, base)
		if err == nil && after(st.Mtim, limit) {
			err = rootfs.Utimes(dir, base, unix.Timespec{Nsec: unix.UTIME_OMIT}, limit)
		}
		if err != nil {
			return err
		}
	}
	st, err := rootfs.StatEntry(dir, base)
	if err != nil {
		return err
	}
	n.set(&st)
	t.seen(n)
	return nil
}
