package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// prune leaves out of the layer what the layers below have already: a file that was opened, or written again as it was;
// a directory with nothing in it any more, whose times do not count, for they change with what is made and
// removed in it. These are set back, so that the tree is what the layers show.
func (t *Tree) prune(ctx context.Context, c *change) error {
	for name, k := range c.kids {
		if k.fresh || k.opaque {
			continue
		}
		if k.n.isDir() {
			if err := t.prune(ctx, k); err != nil {
				return err
			}
			if len(k.kids) > 0 || len(k.hidden) > 0 {
				continue
			}
		} else if k.n.nlink > 1 && !k.less {
			continue // the other names of a file are to stay names of the same one
		}
		same, err := t.isLower(ctx, k.n)
		if err != nil {
			return fmt.Errorf("%s: %w", k.n.path(), err)
		}
		if same {
			delete(c.kids, name)
		}
	}
	return nil
}

// isLower says whether the file n of the tree, of whose name the layers show something of its kind, is just that.
func (t *Tree) isLower(ctx context.Context, n *node) (bool, error) {
	dir, base, err := t.root.Parent(n.path())
	if err != nil {
		return false, err
	}
	defer dir.Close() // only read
	for _, l := range t.layers {
		below, err := openParent(l, n.path())
		var st unix.Stat_t
		if err == nil {
			st, err = rootfs.StatEntry(below, base)
			if err != nil {
				_ = below.Close()
			}
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue
		}
		if err != nil {
			return false, err
		}
		defer below.Close() // only read
		return t.sameAs(ctx, n, dir, below, &st)
	}
	return false, nil
}

// sameAs compares n, which is in dir, with the file st in below.
func (t *Tree) sameAs(ctx context.Context, n *node, dir, below *os.File, st *unix.Stat_t) (bool, error) {
	if n.mode != st.Mode || n.uid != st.Uid || n.gid != st.Gid || n.rdev != uint64(st.Rdev) { //nolint:unconvert // differs between platforms
		return false, nil
	}
	if same, err := t.sameOwners(dir, below, n.name); !same || err != nil {
		return false, err
	}
	if !n.isDir() && (n.size != st.Size || n.mtime != st.Mtim) {
		return false, nil
	}
	switch n.mode & unix.S_IFMT {
	case unix.S_IFLNK:
		a, err := rootfs.ReadlinkEntry(dir, n.name)
		if err != nil {
			return false, err
		}
		b, err := rootfs.ReadlinkEntry(below, n.name)
		return a == b, err
	case unix.S_IFREG, unix.S_IFDIR:
	default:
		return true, nil
	}
	now, err := rootfs.OpenEntry(dir, n.name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return false, err
	}
	defer now.Close() // only read
	lower, err := rootfs.OpenEntry(below, n.name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return false, err
	}
	defer lower.Close() // only read
	if same, err := sameXattrs(now, lower); !same || err != nil {
		return false, err
	}
	if !n.isDir() {
		return sameBytes(ctx, now, lower)
	}
	if n.mtime == st.Mtim {
		return true, nil
	}
	if err := rootfs.Utimes(now, ".", unix.Timespec{Nsec: unix.UTIME_OMIT}, st.Mtim); err != nil {
		return false, err
	}
	again, err := rootfs.StatEntry(now, ".")
	if err == nil {
		n.set(&again)
		t.seen(n)
	}
	return true, err
}

// sameOwners compares what is recorded of two entries of a name.
func (t *Tree) sameOwners(a, b *os.File, name string) (bool, error) {
	if !t.owners.Records() {
		return true, nil
	}
	x, err := t.owners.StatEntry(a, name)
	if err != nil {
		return false, err
	}
	y, err := t.owners.StatEntry(b, name)
	return x.Mode == y.Mode && x.Uid == y.Uid && x.Gid == y.Gid && x.Rdev == y.Rdev, err
}

// openParent opens the directory of a layer that may hold path, following no link.
func openParent(layer, path string) (*os.File, error) {
	dir, err := os.OpenFile(layer, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	for err == nil {
		name, rest, more := strings.Cut(path, "/")
		if !more {
			return dir, nil
		}
		var next *os.File
		next, err = rootfs.OpenEntry(dir, name, unix.O_PATH|unix.O_DIRECTORY)
		_ = dir.Close()
		dir, path = next, rest
	}
	return nil, err
}

func sameXattrs(a, b *os.File) (bool, error) {
	x, err := xattrsOf(int(a.Fd()))
	if err != nil {
		return false, err
	}
	y, err := xattrsOf(int(b.Fd()))
	if err != nil || len(x) != len(y) {
		return false, err
	}
	for name, value := range x {
		if other, ok := y[name]; !ok || !bytes.Equal(value, other) {
			return false, nil
		}
	}
	return true, nil
}

func sameBytes(ctx context.Context, a, b io.Reader) (bool, error) {
	x, y := make([]byte, 128<<10), make([]byte, 128<<10)
	for {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		n, err := io.ReadFull(a, x)
		m, err2 := io.ReadFull(b, y)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return false, err
		}
		end2 := errors.Is(err2, io.EOF) || errors.Is(err2, io.ErrUnexpectedEOF)
		if err2 != nil && !end2 {
			return false, err2
		}
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if end {
			return end2, nil
		}
	}
}
