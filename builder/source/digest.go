package source

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// format is part of every digest. It changes when the meaning of one does.
const format = "strake source 1\x00"

// Digest digests what items select, in parallel, reading only files that changed since the index was written.
//
// It covers what a copy of the items depends on: of a file its Name, type, permission bits, owner,
// bytes or link target, device number and extended attributes; of a directory the same for
// everything below it that is taken, and which of these files are one, but nothing of the directory itself, whose contents alone are
// copied. Times and names outside of the item do not count.
func (t *Tree) Digest(ctx context.Context, items []Item) (Digest, error) {
	sums := make([]Digest, len(items))
	if err := t.knowFiles(ctx, items); err != nil {
		return Digest{}, err
	}
	err := t.each(ctx, len(items), func(i int) (err error) {
		sums[i], err = t.digestItem(ctx, items[i])
		return err
	})
	if err != nil {
		return Digest{}, err
	}
	buf := binary.LittleEndian.AppendUint64([]byte(format+"items\x00"), uint64(len(sums)))
	for i := range sums {
		buf = append(buf, sums[i][:]...)
	}
	return sha256.Sum256(buf), nil
}

// DigestPath digests the entry at name, following every link in it, with everything below it that is not ignored, as a bind mount shows it: other than
// with Digest the attributes of a directory itself count, and the name does not. A missing name is a *NotFoundError.
func (t *Tree) DigestPath(ctx context.Context, name string) (Digest, error) {
	item, err := t.follow(path.Clean("/" + name)[1:])
	if err != nil {
		return Digest{}, err
	}
	item.Name = ""
	sum, err := t.Digest(ctx, []Item{item})
	if err != nil || !item.Dir {
		return sum, err
	}
	f, top, err := t.self(item)
	if err != nil {
		return Digest{}, err
	}
	defer f.Close()
	w := t.worker()
	defer t.workers.Put(w)
	if err := t.hashXattrs(w, f, &top); err != nil {
		return Digest{}, fmt.Errorf("reading %s: %w", item.Path, err)
	}
	buf := top.append([]byte(format+"path\x00"), "")
	return sha256.Sum256(append(buf, sum[:]...)), nil
}

// FolderMode returns the permission bits of the folder at name, following every link in it. ok is false for what is no folder, and for the top of the
// tree. A missing name is a *NotFoundError.
func (t *Tree) FolderMode(name string) (perm uint32, ok bool, err error) {
	item, err := t.follow(path.Clean("/" + name)[1:])
	if err != nil || !item.Dir {
		return 0, false, err
	}
	f, self, err := t.self(item)
	if err != nil {
		return 0, false, err
	}
	defer f.Close() // only read
	return self.st.Mode & 0o7777, self.Name != ".", nil
}

// self returns what stat(2) says of a folder, and the folder that it is in, open: the top, which is called ".", is in itself.
func (t *Tree) self(item Item) (*os.File, node, error) {
	d, n, err := t.find(item.Path)
	if err != nil {
		return nil, node{}, &fs.PathError{Op: "open", Path: item.Path, Err: err}
	}
	self := node{Entry: rootfs.Entry{Name: ".", Type: unix.DT_DIR}}
	at := &dir{path: "."}
	if n != nil {
		self.Name, at = n.Name, &dir{path: d.path}
	}
	f, err := t.openDir(at)
	if err != nil {
		return nil, node{}, err
	}
	if err := t.stat(t.root.Owners().InDir(at.path, f), at, &self); err != nil {
		_ = f.Close()
		return nil, node{}, err
	}
	return f, self, nil
}

// knowFiles makes the nodes of those items known that are no directories, those of a directory together.
func (t *Tree) knowFiles(ctx context.Context, items []Item) error {
	parts := map[*dir]*view{}
	var dirs []*dir
	for _, item := range items {
		if item.Dir {
			continue
		}
		d, n, err := t.find(item.Path)
		if err != nil {
			return &fs.PathError{Op: "digest", Path: item.Path, Err: err}
		}
		if n == nil || n.dir != nil {
			continue
		}
		if parts[d] == nil {
			parts[d] = &view{}
			dirs = append(dirs, d)
		}
		parts[d].entries = append(parts[d].entries, viewEntry{n: n})
	}
	return t.each(ctx, len(dirs), func(i int) error {
		d, v := dirs[i], parts[dirs[i]]
		slices.SortFunc(v.entries, func(a, b viewEntry) int { return strings.Compare(a.n.Name, b.n.Name) })
		v.entries = slices.CompactFunc(v.entries, func(a, b viewEntry) bool { return a.n == b.n })
		d.mu.Lock()
		defer d.mu.Unlock()
		f := Folder{d, v}
		if err := t.load(ctx, f, t.opt.Index == ""); err != nil {
			return err
		}
		return t.hashNodes(ctx, f)
	})
}

func (t *Tree) digestItem(ctx context.Context, item Item) (Digest, error) {
	d, n, err := t.find(item.Path)
	if err != nil {
		return Digest{}, &fs.PathError{Op: "digest", Path: item.Path, Err: err}
	}
	if n == nil || n.dir != nil {
		if n != nil {
			d = n.dir
		}
		f := Folder{d, item.view}
		sum, err := t.digestFolder(ctx, f)
		if err != nil {
			return Digest{}, err
		}
		return t.withLinks(sum, f), nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !n.known {
		return Digest{}, fmt.Errorf("digest of %s: the item says that it is a directory", item.Path)
	}
	return sha256.Sum256(n.append([]byte(format+"file\x00"), item.Name)), nil
}

// digestFolder digests everything in and below a folder that is taken.
func (t *Tree) digestFolder(ctx context.Context, f Folder) (Digest, error) {
	if err := context.Cause(ctx); err != nil {
		return Digest{}, err
	}
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.v == nil && d.summed {
		return d.digest, nil
	}
	if err := t.load(ctx, f, t.opt.Index == ""); err != nil {
		return Digest{}, err
	}
	if err := t.hashNodes(ctx, f); err != nil {
		return Digest{}, err
	}
	var folders []int
	for i := range f.len() {
		if f.node(i).dir != nil {
			folders = append(folders, i)
		}
	}
	below := make([]Digest, len(folders))
	err := t.each(ctx, len(folders), func(i int) (err error) {
		sub, _ := f.sub(folders[i])
		below[i], err = t.digestFolder(ctx, sub)
		return err
	})
	if err != nil {
		return Digest{}, err
	}
	buf := make([]byte, 0, len(format)+16+f.len()*128)
	buf = append(buf, format+"dir\x00"...)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(f.len()))
	for i := range f.len() {
		n := f.node(i)
		buf = n.append(buf, n.Name)
		if n.dir != nil {
			buf = append(buf, below[0][:]...)
			below = below[1:]
		}
		if f.way(i) {
			buf = append(buf, "way\x00"...)
		}
	}
	sum := sha256.Sum256(buf)
	if f.v == nil {
		d.digest, d.summed = sum, true
	}
	return sum, nil
}

// append appends to buf what is digested of a known node under the given name.
func (n *node) append(buf []byte, name string) []byte {
	mode, dev := n.st.Mode, uint64(0)
	switch mode & unix.S_IFMT {
	case unix.S_IFSOCK: // is copied as an empty file
		mode = mode&^unix.S_IFMT | unix.S_IFREG
	case unix.S_IFLNK:
		mode |= 0o777
	case unix.S_IFCHR, unix.S_IFBLK:
		dev = n.st.Rdev
	}
	le := binary.LittleEndian
	buf = le.AppendUint32(buf, uint32(len(name)))
	buf = append(buf, name...)
	buf = le.AppendUint32(buf, mode)
	buf = le.AppendUint32(buf, n.st.Uid)
	buf = le.AppendUint32(buf, n.st.Gid)
	buf = le.AppendUint64(buf, dev)
	buf = append(buf, n.sum[:]...)
	return append(buf, n.attrs[:]...)
}

// hashNodes makes every node of f known, by the index or by reading.
//
// Preconditions: f.d.mu is held, f is loaded.
func (t *Tree) hashNodes(ctx context.Context, f Folder) error {
	unknown := t.recallAll(f)
	if len(unknown) == 0 {
		return nil
	}
	file, err := t.openDir(f.d)
	if err != nil {
		return err
	}
	defer file.Close() // only read
	return t.each(ctx, len(unknown), func(i int) error { return t.hash(ctx, file, f.d, unknown[i]) })
}

// worker holds what one goroutine needs again and again.
type worker struct {
	lister rootfs.Lister
	hash   hash.Hash
	buf    []byte
}

func newWorker() *worker { return &worker{hash: sha256.New(), buf: make([]byte, 128<<10)} }

func (t *Tree) worker() *worker { return t.workers.Get().(*worker) }

// hash makes n known by reading it.
//
// Preconditions: d.mu is held by the caller or by who waits for it; n is stat'ed, if it is not a regular file.
func (t *Tree) hash(ctx context.Context, f *os.File, d *dir, n *node) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	w := t.worker()
	defer t.workers.Put(w)
	t.startClock()
	var err error
	switch n.Type {
	case unix.DT_REG:
		err = t.hashFile(ctx, w, f, n)
	case unix.DT_LNK:
		var target string
		target, err = rootfs.ReadlinkEntry(f, n.Name)
		n.sum, n.attrs = sha256.Sum256([]byte(target)), Digest{}
	case unix.DT_DIR:
		n.sum = Digest{}
		err = t.hashXattrs(w, f, n)
	case unix.DT_SOCK: // is copied as an empty file
		n.sum, n.attrs = sha256.Sum256(nil), Digest{}
	default:
		n.sum, n.attrs = Digest{}, Digest{}
	}
	if errors.Is(err, errChanged) {
		return &ChangedError{Path: join(d.path, n.Name)}
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", join(d.path, n.Name), err)
	}
	n.known = true
	n.racy = n.racy || !t.settled(&n.st)
	if !n.racy && t.opt.Index != "" {
		t.dirty.Store(true)
	}
	return nil
}

var errChanged = errors.New("changed meanwhile")

// hashFile digests the bytes and the extended attributes of a regular file. One that was written to
// since it was stat'ed is taken as it is now, one that grows meanwhile as long as it was; one that changes in another way has no
// digest.
func (t *Tree) hashFile(ctx context.Context, w *worker, dir *os.File, n *node) error {
	fd, err := openFile(int(dir.Fd()), n.Name)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOENT) {
		return errChanged
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	owners := t.root.Owners()
	if err := owners.Fstat(fd, &st); err != nil {
		return err
	}
	t.own(&st)
	t.saw(n, st)
	if owners.Records() && n.isDevice() {
		n.sum, n.attrs = Digest{}, Digest{}
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		n.stated = false
		return errChanged
	}
	w.hash.Reset()
	for left := st.Size; left > 0; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		k, err := unix.Read(fd, w.buf[:min(left, int64(len(w.buf)))])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if k == 0 {
			return errChanged
		}
		_, _ = w.hash.Write(w.buf[:k]) // never fails
		left -= int64(k)
	}
	w.hash.Sum(n.sum[:0])
	if err := owners.Fstat(fd, &st); err != nil {
		return err
	}
	if !Same(&n.st, &st) {
		if !Grown(&n.st, &st) {
			return errChanged
		}
		n.racy = true
	}
	size, err := unix.Flistxattr(fd, nil)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && size == 0 {
		n.attrs = Digest{}
		return nil
	}
	return t.hashXattrs(w, dir, n)
}

// openFile opens a regular file for reading; no link is followed, and nothing waits for the writer of a fifo.
func openFile(dir int, name string) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// hashXattrs digests those extended attributes that a layer carries. Only files and folders can have any.
func (t *Tree) hashXattrs(w *worker, dir *os.File, n *node) error {
	n.attrs = Digest{}
	names, err := t.root.Owners().ListXattr(dir, n.Name)
	if err != nil || len(names) == 0 {
		return err
	}
	slices.Sort(names)
	w.hash.Reset()
	any := false
	for _, name := range names {
		if !KeepXattr(name) {
			continue
		}
		value, err := t.root.Owners().GetXattr(dir, n.Name, name)
		if err != nil {
			return err
		}
		any = true
		writeFramed(w.hash, []byte(name))
		writeFramed(w.hash, value)
	}
	if any {
		w.hash.Sum(n.attrs[:0])
	}
	return nil
}

func writeFramed(h hash.Hash, b []byte) {
	var size [8]byte
	binary.LittleEndian.PutUint64(size[:], uint64(len(b)))
	_, _ = h.Write(size[:])
	_, _ = h.Write(b)
}

// KeepXattr says whether an extended attribute belongs to an image: user.* except overlay's marks and what records owners, and
// file capabilities, as in package layer.
func KeepXattr(name string) bool {
	return name == "security.capability" ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.") && !rootfs.IsRecord(name)
}
