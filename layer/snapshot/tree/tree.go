// Package tree makes file systems of layers where overlayfs cannot be mounted: by copies, and the layers
// of what was changed in them by comparing.
//
// Layers are directories of the form layer.Marked. Link makes a tree of them that is only read: of hard
// links. A Tree is one that is written to: of copies (reflinks where the file system has them). It knows what each of its
// files was when it was made or committed last (inode, ctime, size, mode, owner), and Commit copies what is
// different now into the directory of a new layer.
//
// So that Commit need not look at every file, the kernel tells what changed (inotify on each directory, set up once). What it
// cannot tell for sure is looked for: new directories, where nobody watches and a file may be written by
// another name of it; lost events; too few watches.
//
// Trees and layers are hostile: every name is looked up below an open directory and no link is followed.
package tree

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

const (
	// OCI image specification, layer.md, "Whiteouts".
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	// metaPrefix begins the names of aufs' own files, which mean nothing.
	metaPrefix = ".wh..wh."
)

// Tree is a directory that shows layers and can be written to. It serves one goroutine at a time.
type Tree struct {
	dir    string
	root   *rootfs.Root
	layers []string // directories, topmost first
	top    *node
	nodes  int
	owners *rootfs.Owners
	watch  *watch // nil: every file is looked at
	// newest is the latest ctime in the table: what is changed while the clock shows it may look the same.
	newest unix.Timespec
	// private: a layer does not say all that is in the tree, so another tree of the same layers would not be the same.
	private bool
	lent    *node // nil if nothing is
}

// New fills the empty directory dir with what layers (directories, topmost first) show. owners is how they keep owners.
// After an error dir is left for the caller to remove.
func New(ctx context.Context, dir string, layers []string, owners *rootfs.Owners) (*Tree, error) {
	t, err := newTree(dir, layers, owners)
	if err != nil {
		return nil, err
	}
	if err = build(ctx, dir, layers, byCopy, owners); err == nil {
		err = t.start(ctx)
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// newTree is a tree of which nothing is known.
func newTree(dir string, layers []string, owners *rootfs.Owners) (*Tree, error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return nil, err
	}
	return &Tree{dir: dir, root: root, layers: layers, owners: owners}, nil
}

// start makes the table, and watches from then on.
func (t *Tree) start(ctx context.Context) error {
	t.watch = newWatch()
	if err := t.scanAll(ctx); err != nil {
		return err
	}
	return t.settle(ctx)
}

// Link fills the empty directory dir with what layers (directories, topmost first) show, by hard links to their files
// where that can be done. Nobody may write to it.
func Link(ctx context.Context, dir string, layers []string, owners *rootfs.Owners) error {
	return build(ctx, dir, layers, byLink, owners)
}

// Close forgets what is known of the tree. The directory stays.
func (t *Tree) Close() {
	t.watch.close()
	t.watch = nil
	_ = t.root.Close()
}

// Dir is the tree's directory.
func (t *Tree) Dir() string { return t.dir }

// Len is the number of files in the tree, when it was made or committed last: what making it again would cost.
func (t *Tree) Len() int { return t.nodes }

// Private says that another tree of the same layers would show something else: files that look like marks of a layer.
func (t *Tree) Private() bool { return t.private }

// Untouched says that nobody changed anything since the tree was made or committed, and takes back what was lent. False if that
// is not known.
func (t *Tree) Untouched() bool {
	if t.watch == nil {
		return false
	}
	ev := t.watch.drain()
	if ev.lost || len(ev.dirs) > 0 || t.lent == nil {
		return !ev.lost && len(ev.dirs) == 0
	}
	err := t.takeBack(map[*node][]string{})
	return err == nil && !t.watch.drain().lost // but for what was just done
}

// Extend lays further layers (directories, topmost first) over those that the tree shows.
func (t *Tree) Extend(ctx context.Context, layers []string) error {
	if err := build(ctx, t.dir, layers, byCopy, t.owners); err != nil {
		return err
	}
	t.layers = slices.Concat(layers, t.layers)
	return t.learn(ctx)
}

// learn puts into the table what this process has just done: what a step would have done, but that no layer is to come of it.
func (t *Tree) learn(ctx context.Context) error {
	if _, err := t.diff(ctx, true); err != nil {
		return err
	}
	return t.settle(ctx)
}

// settle waits until the clock of ctimes is past the latest one in the table.
func (t *Tree) settle(ctx context.Context) error {
	for {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
			return fmt.Errorf("reading the clock: %w", err)
		}
		if after(now, t.newest) || now.Sec+60 < t.newest.Sec { // a ctime of the future tells nothing
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func after(a, b unix.Timespec) bool {
	return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec
}

// Change says what is different in the tree from its layers.
type Change struct {
	t    *Tree
	root *change
}

// Diff finds what changed in the tree since it was made or committed last, and takes that to be what the
// tree holds: after an error, or if Write fails, the tree can only be thrown away. Nobody may write to the
// tree any more. trusted says that only this process wrote, and wrote to no file by several names of it. If
// epoch is not nil, modification times later than it (in seconds since 1970) are set back in the tree.
func (t *Tree) Diff(ctx context.Context, trusted bool, epoch *int64) (*Change, error) {
	root, err := t.diff(ctx, trusted)
	if err == nil {
		err = t.prune(ctx, root)
	}
	if err != nil {
		return nil, err
	}
	if epoch != nil {
		if err := t.clamp(ctx, root, *epoch); err != nil {
			return nil, err
		}
	}
	return &Change{t, root}, nil
}

// Write makes the layer of the change in the empty directory dir.
func (c *Change) Write(ctx context.Context, dir string) error {
	src, err := c.t.root.OpenFile(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return fill(ctx, dir, &changed{src: src, c: c.root}, byCopy, c.t.owners)
}

// Commit is Diff and Write; layers says that dir is the topmost layer of the tree from now on.
func (t *Tree) Commit(ctx context.Context, dir string, trusted bool, epoch *int64) error {
	c, err := t.Diff(ctx, trusted, epoch)
	if err != nil {
		return err
	}
	return c.Write(ctx, dir)
}

// Moved tells the tree where its topmost layer, the last one that was committed, is now.
func (t *Tree) Moved(layer string) { t.layers = append([]string{layer}, t.layers...) }

// RootMode is the mode of the root directory for whoever begins to write.
const RootMode = 0o755

// Settle readies the tree for who writes to it next: the root has RootMode, and a change of any file can be told by its time, which is so a few
// milliseconds after a commit.
func (t *Tree) Settle(ctx context.Context) error {
	dir, err := t.open(".")
	if err != nil {
		return err
	}
	defer dir.Close() // only read
	st, err := t.owners.StatEntry(dir, ".")
	if err != nil {
		return err
	}
	if st.Mode&0o7777 != RootMode {
		if err := t.owners.Chmod(dir, ".", RootMode); err != nil {
			return err
		}
		if t.watch.drain().lost { // else it is what was just done
			t.watch.close()
		}
		if err := t.lookAtRoot(dir); err != nil {
			return err
		}
	}
	return t.settle(ctx)
}

// open opens a directory of the tree for listing.
func (t *Tree) open(path string) (*os.File, error) {
	return t.root.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}
