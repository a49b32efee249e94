package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/dockerfile/ignore"
	"github.com/strake-build/strake/layer/rootfs"
)

// dir is what is known of a directory. Locks are taken from a directory to those
// below it, never the other way.
type dir struct {
	path   string // relative to the root; "." for the root
	ignore ignore.Dir

	mu     sync.Mutex // protects what follows; nodes does not change once listed is set, their fields do
	listed bool
	stated bool // every node is
	summed bool // digest is valid
	nodes  []node
	digest Digest
}

// node is an entry of a directory that is not ignored.
type node struct {
	rootfs.Entry
	dir *dir // of a directory

	stated bool
	st     unix.Stat_t

	known bool   // sum and attrs are valid for st
	racy  bool   // they may not be for what comes after, so the index must not remember them
	sum   Digest // of the bytes of a file or the target of a link
	attrs Digest // of the extended attributes; zero for none
}

func (n *node) info() Info {
	e := n.Entry
	if n.isDevice() {
		e.Type = uint8(n.st.Mode & unix.S_IFMT >> 12)
	}
	info := Info{Entry: e, Stat: n.st, NoXattr: n.known && n.attrs == Digest{}}
	if n.known && n.Type == unix.DT_REG {
		info.Sum = n.sum
	}
	return info
}

// isDevice says whether the entry is a device, although on the disk it is a file (rootfs.Owners).
func (n *node) isDevice() bool {
	typ := n.st.Mode & unix.S_IFMT
	return n.stated && n.Type == unix.DT_REG && (typ == unix.S_IFCHR || typ == unix.S_IFBLK)
}

// join appends a name to a path of a dir.
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// find looks a path without links up. d is the directory that holds it; the root has no node.
func (t *Tree) find(name string) (d *dir, n *node, err error) {
	d = t.top
	clean := path.Clean("/" + name)[1:]
	if clean == "" {
		return d, nil, nil
	}
	for {
		comp, rest, more := strings.Cut(clean, "/")
		n, err = t.child(d, comp)
		if err != nil {
			return nil, nil, err
		}
		if !more {
			return d, n, nil
		}
		if n.dir == nil {
			return nil, nil, unix.ENOTDIR
		}
		d, clean = n.dir, rest
	}
}

// child finds a node by name.
func (t *Tree) child(d *dir, name string) (*node, error) {
	if err := t.list(d); err != nil {
		return nil, err
	}
	i, ok := d.index(name)
	if !ok {
		return nil, fs.ErrNotExist
	}
	return &d.nodes[i], nil
}

// index finds a name in the nodes of a listed directory. It reads nothing but
// names, which may be read without the lock.
func (d *dir) index(name string) (int, bool) {
	return sort.Find(len(d.nodes), func(i int) int { return strings.Compare(name, d.nodes[i].Name) })
}

// list reads the entries of a directory into d.nodes, the first time.
func (t *Tree) list(d *dir) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listed {
		return nil
	}
	f, err := t.openDir(d)
	if err != nil {
		return err
	}
	defer f.Close()
	return t.listFrom(f, d)
}

// openDir opens a directory for reading. Should a link have taken its place, it is not followed.
func (t *Tree) openDir(d *dir) (*os.File, error) {
	f, err := t.root.OpenFile(d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil && (errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, fs.ErrNotExist)) {
		return nil, fmt.Errorf("%w (%w)", &ChangedError{Path: d.path}, err)
	}
	return f, err
}

// listFrom lists d from its open file.
//
// Preconditions: d.mu is held.
func (t *Tree) listFrom(f *os.File, d *dir) error {
	w := t.worker()
	entries, err := w.lister.ReadDir(f)
	t.workers.Put(w)
	if err != nil {
		return fmt.Errorf("listing %s: %w", d.path, err)
	}
	nodes := make([]node, 0, len(entries))
	for _, e := range entries {
		if t.root.Owners().Hides(e.Name) {
			continue
		}
		n, ok, err := t.admit(d, e)
		if err != nil {
			return err
		}
		if ok {
			nodes = append(nodes, n)
		}
	}
	d.nodes, d.listed = nodes, true
	return nil
}

// admit makes the node of an entry, unless the entry is ignored. An ignored
// directory is there all the same if something below it is not ignored.
func (t *Tree) admit(d *dir, e rootfs.Entry) (n node, ok bool, err error) {
	n.Entry = e
	var excluded, skip bool
	var sub ignore.Dir
	if t.opt.Ignore != nil {
		excluded, skip, sub, err = t.opt.Ignore.Match(d.ignore, join(d.path, e.Name))
		if err != nil {
			return n, false, fmt.Errorf("matching %s with .dockerignore: %w", join(d.path, e.Name), err)
		}
	}
	if e.Type != unix.DT_DIR {
		return n, !excluded, nil
	}
	if excluded && skip {
		return n, false, nil
	}
	n.dir = &dir{path: join(d.path, e.Name), ignore: sub}
	if !excluded {
		return n, true, nil
	}
	if err := t.list(n.dir); err != nil {
		return n, false, err
	}
	return n, len(n.dir.nodes) > 0, nil
}

// load lists a folder and stats every entry that is taken; if lazy, not the regular files that are going to be hashed, which are
// looked at then.
//
// Preconditions: f.d.mu is held.
func (t *Tree) load(ctx context.Context, f Folder, lazy bool) error {
	d := f.d
	if d.stated || lazy && d.listed && f.len() == 0 {
		return nil
	}
	file, err := t.openDir(d)
	if err != nil {
		return err
	}
	defer file.Close()
	if !d.listed {
		if err := t.listFrom(file, d); err != nil {
			return err
		}
	}
	const batch = 512 // a stat is too short to be shared out alone
	stat := t.root.Owners().InDir(d.path, file)
	err = t.each(ctx, (f.len()+batch-1)/batch, func(b int) error {
		for i := b * batch; i < min((b+1)*batch, f.len()); i++ {
			n := f.node(i)
			if lazy && n.Type == unix.DT_REG {
				continue
			}
			if err := t.stat(stat, d, n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.stated = !lazy && f.v == nil
	return nil
}

// stat fills n.st in, once.
//
// Preconditions: d.mu is held, by the caller or by who waits for it.
func (t *Tree) stat(dir *rootfs.DirStat, d *dir, n *node) error {
	if n.stated {
		return nil
	}
	st, err := dir.StatEntry(n.Name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return &ChangedError{Path: join(d.path, n.Name)}
		}
		return fmt.Errorf("looking at %s: %w", join(d.path, n.Name), err)
	}
	t.saw(n, st)
	if uint8(n.st.Mode&unix.S_IFMT>>12) != n.Type && !n.isDevice() {
		n.stated = false
		return &ChangedError{Path: join(d.path, n.Name)}
	}
	t.own(&n.st)
	return nil
}

// saw notes what stat(2) said of an entry.
func (t *Tree) saw(n *node, st unix.Stat_t) {
	n.st, n.stated = st, true
	if st.Nlink > 1 && n.Type == unix.DT_REG {
		t.linked.Store(true)
	}
}

// own applies Options.ResetOwner and Unwritten.
func (t *Tree) own(st *unix.Stat_t) {
	if t.opt.Unwritten {
		st.Ctim = unix.Timespec{}
	}
	if t.opt.ResetOwner {
		st.Uid, st.Gid = 0, 0
	}
}
