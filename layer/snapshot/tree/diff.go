package tree

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// change is a file of the new layer, or a directory that holds such.
type change struct {
	n      *node
	kids   map[string]*change
	hidden []string // names in the directory that are not there any more
	whole  bool     // everything in the directory is new
	opaque bool     // another directory was in its place
	fresh  bool     // there was nothing of its kind in its place
	less   bool     // nothing seems to have changed but the number of its names
}

// listing is what a directory of the table holds now.
type listing struct {
	self  *node
	names map[string]*node // nil for one that is not there
}

// differ finds out what changed.
type differ struct {
	t     *Tree
	root  *change
	fresh map[*node]bool // directories to be scanned
	// written are the inodes in the layer that have several names; cut are those that lost a name.
	written, cut map[uint64]bool
	// less are files of which nothing seems to have changed but the number of their names.
	less []*node
	seen map[*node]bool
}

// diff compares the tree with the table, and brings that up to date.
func (t *Tree) diff(ctx context.Context, trusted bool) (*change, error) {
	ev := t.watch.drain()
	d := &differ{t: t, root: &change{n: t.top}, fresh: map[*node]bool{}, written: map[uint64]bool{}, cut: map[uint64]bool{}, seen: map[*node]bool{}}
	want := map[*node][]string{}
	if ev.lost || !trusted && t.doubtful(ev) {
		t.top.each(func(n *node) {
			if n.isDir() {
				want[n] = nil
			}
		})
	} else {
		for n, names := range ev.dirs {
			want[n] = t.wanted(names)
		}
	}
	if err := t.takeBack(want); err != nil {
		return nil, err
	}
	if err := d.compare(ctx, want); err != nil {
		return nil, err
	}
	if err := d.scan(ctx); err != nil {
		return nil, err
	}
	if err := d.links(ctx); err != nil {
		return nil, err
	}
	return d.root, nil
}

// wanted are the names in a directory to look at after events. nil is all: in the directory may be recorded who owns any of them.
func (t *Tree) wanted(names map[string]uint32) []string {
	want := []string{}
	for name := range names {
		switch {
		case t.owners.Records() && (name == "" || t.owners.Hides(name)):
			return nil
		case name != "":
			want = append(want, name)
		}
	}
	return want
}

// doubtful says whether a file may have been changed without an event that names it: by another name of it, in a new directory,
// which nobody watches, or one that was gone again.
func (t *Tree) doubtful(ev events) bool {
	for n, names := range ev.dirs {
		for name, mask := range names {
			if mask&came != 0 && t.doubtfulName(n, name, mask) {
				return true
			}
		}
	}
	return false
}

// sandboxed are names that a sandbox without mounts has something else at while a step runs. That is exchanged with what
// the tree has there, and exchanged again at the end.
func sandboxed(path string) bool {
	switch path {
	case "dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf":
		return true
	}
	return false
}

// doubtfulName is doubtful for a name that came into the directory n.
func (t *Tree) doubtfulName(n *node, name string, mask uint32) bool {
	old := n.kids[name]
	var now *node
	dir, err := t.open(n.path())
	if err == nil {
		now, err = look(dir, name)
		_ = dir.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	// What was there is there again, or there is nothing as before.
	back := old == nil && now == nil || old != nil && now != nil && old.ino == now.ino && (!old.isDir() || old.sameDir(now))
	switch {
	case back && sandboxed(join(n.path(), name)):
		return false
	case mask&unix.IN_ISDIR != 0:
		return true
	case back && mask&(unix.IN_MODIFY|unix.IN_CLOSE_WRITE|unix.IN_ATTRIB) == 0:
		return false // nothing was written under the name
	}
	return mask&went != 0 || now == nil
}

// compare looks at names in directories, at all of them where the list is nil.
func (d *differ) compare(ctx context.Context, want map[*node][]string) error {
	found, err := d.t.list(ctx, want)
	if err != nil {
		return err
	}
	// Parents first: what is below a directory that was replaced is of no interest.
	dirs := make([]*node, 0, len(found))
	depth := make(map[*node]int, len(found))
	for n := range found {
		dirs = append(dirs, n)
		depth[n] = n.depth()
	}
	slices.SortFunc(dirs, func(a, b *node) int { return cmp.Compare(depth[a], depth[b]) })
	for _, n := range dirs {
		l := found[n]
		if n.dropped || l.self == nil {
			continue
		}
		if n.attrs != l.self.attrs {
			n.become(l.self)
			d.t.seen(n)
			d.at(n)
		}
		for name, now := range l.names {
			d.entry(n, name, now)
		}
	}
	return nil
}

// at is the change of n, whose directory is in the layer too then, as overlayfs would have it.
func (d *differ) at(n *node) *change {
	if n.parent == nil {
		return d.root
	}
	p := d.at(n.parent)
	if p.whole {
		return p // says it already
	}
	c := p.kids[n.name]
	if c == nil || c.n != n {
		c = &change{n: n}
		if p.kids == nil {
			p.kids = map[string]*change{}
		}
		p.kids[n.name] = c
	}
	return c
}

// entry compares the entry name of the directory dir with what it is now.
func (d *differ) entry(dir *node, name string, now *node) {
	old := dir.kids[name]
	switch {
	case now == nil && old == nil:
	case now == nil:
		d.drop(old)
		c := d.at(dir)
		c.hidden = append(c.hidden, name)
	case old == nil:
		d.add(dir, now)
	case old.isDir() && now.isDir() && old.sameDir(now):
		if old.attrs != now.attrs {
			old.become(now)
			d.t.seen(old)
			d.at(old)
		}
	case old.isDir() || now.isDir() || old.ino != now.ino:
		d.drop(old)
		c := d.add(dir, now)
		c.opaque = old.isDir() && now.isDir()
		c.fresh = old.isDir() || now.isDir()
	default:
		d.file(old, now)
	}
}

// file compares a file that is no directory.
func (d *differ) file(old, now *node) {
	d.seen[old] = true
	if old.attrs == now.attrs {
		return
	}
	was := old.attrs
	old.become(now)
	d.t.seen(old)
	if now.nlink < was.nlink {
		was.nlink, was.ctime = now.nlink, now.ctime
		if was == now.attrs {
			d.less = append(d.less, old)
			return
		}
	}
	d.write(old)
}

// write has the file in the layer.
func (d *differ) write(n *node) {
	d.at(n)
	if n.nlink > 1 {
		d.written[n.ino] = true
	}
}

// add puts a new file into the table and the layer.
func (d *differ) add(dir, now *node) *change {
	d.t.attach(now, dir)
	if strings.HasPrefix(now.name, whiteoutPrefix) {
		d.t.private = true
	}
	c := d.at(now)
	c.fresh = true
	d.seen[now] = true
	if now.isDir() {
		c.whole = true
		d.fresh[now] = true
	} else if now.nlink > 1 {
		d.written[now.ino] = true
	}
	return c
}

func (d *differ) drop(old *node) {
	if p := d.at(old.parent); p.kids[old.name] != nil {
		delete(p.kids, old.name)
	}
	d.t.drop(old, func(n *node) {
		if !n.isDir() && n.nlink > 1 {
			d.cut[n.ino] = true
		}
		delete(d.fresh, n)
	})
}

// scan puts what is in new directories into the table.
func (d *differ) scan(ctx context.Context) (err error) {
	files := make(map[*node]*os.File, len(d.fresh))
	for n := range d.fresh {
		f, oerr := d.t.open(n.path())
		if oerr != nil {
			for _, f := range files {
				_ = f.Close()
			}
			return oerr
		}
		files[n] = f
	}
	if len(files) == 0 {
		return nil
	}
	if err := d.t.scan(ctx, files); err != nil {
		return err
	}
	for n := range d.fresh {
		n.each(func(n *node) {
			d.seen[n] = true
			if !n.isDir() && n.nlink > 1 {
				d.written[n.ino] = true
			}
			if strings.HasPrefix(n.name, whiteoutPrefix) {
				d.t.private = true
			}
		})
	}
	return nil
}

// links looks after the other names of files that changed, or that lost a name.
func (d *differ) links(ctx context.Context) error {
	if len(d.written)+len(d.cut) > 0 {
		want := map[*node][]string{}
		d.t.top.each(func(n *node) {
			if !n.isDir() && !d.seen[n] && (d.written[n.ino] || d.cut[n.ino]) {
				want[n.parent] = append(want[n.parent], n.name)
			}
		})
		if err := d.compare(ctx, want); err != nil {
			return err
		}
	}
	for _, n := range d.less {
		if !n.dropped {
			d.at(n).less = !d.written[n.ino]
		}
	}
	if len(d.written) > 0 {
		// What is linked in the tree is linked in the layer, so that it is in another tree too.
		d.t.top.each(func(n *node) {
			if !n.isDir() && n.nlink > 1 && d.written[n.ino] {
				d.at(n)
			}
		})
	}
	return nil
}

// list looks at names in directories of the table, on all processors.
func (t *Tree) list(ctx context.Context, want map[*node][]string) (map[*node]listing, error) {
	var mu sync.Mutex
	l := listers{owners: t.owners}
	found := make(map[*node]listing, len(want))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for n, names := range want {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			got, err := t.listOne(ctx, n, names, &l)
			mu.Lock()
			defer mu.Unlock()
			found[n] = got
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil && len(found) < len(want) {
		return nil, context.Cause(ctx)
	}
	return found, nil
}

// listOne looks at names in one directory; at all if names is nil.
func (t *Tree) listOne(ctx context.Context, n *node, names []string, l *listers) (listing, error) {
	var got listing
	if ctx.Err() != nil {
		return got, context.Cause(ctx)
	}
	f, err := t.open(n.path())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return got, nil // the listing of a directory above says so
	}
	if err != nil {
		return got, err
	}
	defer f.Close() // only read
	if got.self, err = look(f, "."); err != nil {
		return got, err
	}
	if names != nil {
		got.names = make(map[string]*node, len(names))
	} else {
		entries, err := l.readDir(f)
		if err != nil {
			return got, err
		}
		got.names = make(map[string]*node, len(entries))
		for _, e := range entries {
			names = append(names, e.Name)
		}
		for name := range n.kids {
			got.names[name] = nil
		}
	}
	for _, name := range names {
		if t.owners.Hides(name) {
			continue
		}
		now, err := look(f, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return got, err
		}
		if err != nil {
			now = nil
		}
		got.names[name] = now
	}
	return got, nil
}
