package tree

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// attrs is what a stat tells that a change of a file changes. The ctime alone would do, for nobody can set it,
// but its clock is coarse.
type attrs struct {
	ino, rdev, nlink uint64
	size             int64
	ctime, mtime     unix.Timespec
	mode, uid, gid   uint32
}

// node is what is known of a file of the tree.
type node struct {
	attrs
	blocks int64 // of the disk, of 512 bytes
	name   string
	parent *node            // nil for the root
	kids   map[string]*node // of a directory
	birth  unix.StatxTimestamp
	wd     int32 // the watch of a directory, 0 if there is none
	// lost: the directory that was watched is not there any more, whatever has its inode number now.
	lost bool
	// dropped: the node is not part of the table any more.
	dropped bool
}

func (n *node) isDir() bool { return n.mode&unix.S_IFMT == unix.S_IFDIR }

// path is the node's name relative to the root, "." for that.
func (n *node) path() string {
	if n.parent == nil {
		return "."
	}
	p := n.name
	for n = n.parent; n.parent != nil; n = n.parent {
		p = n.name + "/" + p
	}
	return p
}

func (n *node) depth() int {
	d := 0
	for ; n.parent != nil; n = n.parent {
		d++
	}
	return d
}

// sameDir says whether the two are the same directory, and not another one in its place.
func (n *node) sameDir(now *node) bool {
	if n.lost || n.ino != now.ino || n.birth != now.birth {
		return false
	}
	// Without a time of birth only the watch, or a time that did not change, tells an inode number that was used again.
	return n.birth != (unix.StatxTimestamp{}) || n.wd != 0 || n.ctime == now.ctime
}

// look stats the entry base of dir.
func look(dir *os.File, base string) (*node, error) {
	st, err := rootfs.StatEntry(dir, base)
	if err != nil {
		return nil, err
	}
	n := &node{name: base}
	n.set(&st)
	if n.isDir() {
		var x unix.Statx_t
		// Where the kernel or a filter has no statx, or the file system no time of birth, it stays 0.
		if unix.Statx(int(dir.Fd()), base, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &x) == nil && x.Mask&unix.STATX_BTIME != 0 {
			n.birth = x.Btime
		}
		runtime.KeepAlive(dir)
	}
	return n, nil
}

func (n *node) set(st *unix.Stat_t) {
	n.attrs = attrs{
		ino: st.Ino, rdev: uint64(st.Rdev), nlink: uint64(st.Nlink), size: st.Size, //nolint:unconvert // differs between platforms
		ctime: st.Ctim, mtime: st.Mtim, mode: st.Mode, uid: st.Uid, gid: st.Gid,
	}
	n.blocks = st.Blocks
}

// become takes over what is seen of the file now.
func (n *node) become(now *node) { n.attrs, n.blocks = now.attrs, now.blocks }

// listers lends the buffers of directory listings.
type listers struct {
	pool   sync.Pool
	owners *rootfs.Owners
}

func (l *listers) readDir(dir *os.File) ([]rootfs.Entry, error) {
	r, _ := l.pool.Get().(*rootfs.Lister)
	if r == nil {
		r = new(rootfs.Lister)
	}
	defer l.pool.Put(r)
	list, err := r.ReadDir(dir)
	if l.owners.Records() {
		list = slices.DeleteFunc(list, func(e rootfs.Entry) bool { return l.owners.Hides(e.Name) })
	}
	return list, err
}

// scanner makes nodes of directories, on all processors.
type scanner struct {
	listers listers
	watch   *watch
	group   *errgroup.Group

	mu     sync.Mutex
	count  int
	newest unix.Timespec
}

// scanAll makes the table.
func (t *Tree) scanAll(ctx context.Context) error {
	dir, err := t.open(".")
	if err != nil {
		return err
	}
	top, err := look(dir, ".")
	if err != nil {
		_ = dir.Close()
		return err
	}
	t.top, t.newest, t.nodes = top, top.ctime, 0
	return t.scan(ctx, map[*node]*os.File{top: dir})
}

// scan makes nodes of what is below directories of the table, and watches them. It closes the files.
func (t *Tree) scan(ctx context.Context, dirs map[*node]*os.File) error {
	s := &scanner{watch: t.watch, newest: t.newest, listers: listers{owners: t.owners}}
	var g *errgroup.Group
	g, ctx = errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	s.group = g
	for n, f := range dirs {
		g.Go(func() error { return s.dir(ctx, n, f) })
	}
	err := g.Wait()
	t.nodes += s.count
	t.newest = s.newest
	return err
}

func (s *scanner) dir(ctx context.Context, n *node, f *os.File) error {
	defer f.Close() // only read
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.watch.add(n, f)
	entries, err := s.listers.readDir(f)
	if err != nil {
		return err
	}
	n.kids = make(map[string]*node, len(entries))
	newest := n.ctime
	for _, e := range entries {
		k, err := look(f, e.Name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		k.parent = n
		n.kids[e.Name] = k
		if after(k.ctime, newest) {
			newest = k.ctime
		}
		if !k.isDir() {
			continue
		}
		sub, err := rootfs.OpenEntry(f, e.Name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		if !s.group.TryGo(func() error { return s.dir(ctx, k, sub) }) {
			if err := s.dir(ctx, k, sub); err != nil {
				return err
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count += len(n.kids)
	if after(newest, s.newest) {
		s.newest = newest
	}
	return nil
}

// each calls f for n and everything below it.
func (n *node) each(f func(n *node)) {
	f(n)
	for _, k := range n.kids {
		k.each(f)
	}
}

// drop takes n and what is below it out of the table. f is told of each.
func (t *Tree) drop(n *node, f func(n *node)) {
	delete(n.parent.kids, n.name)
	n.each(func(n *node) {
		n.dropped = true
		t.nodes--
		t.watch.remove(n)
		f(n)
	})
}

// attach puts n, in place of what may have its name, into the table.
func (t *Tree) attach(n, parent *node) {
	n.parent = parent
	parent.kids[n.name] = n
	t.nodes++
	t.seen(n)
}

// seen notes the time of what was looked at.
func (t *Tree) seen(n *node) {
	if after(n.ctime, t.newest) {
		t.newest = n.ctime
	}
}

// join is path.Join for a name below a directory of a tree, whose root is ".".
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return path.Join(dir, name)
}
