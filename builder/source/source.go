// Package source opens build contexts and digests exactly the files that an
// instruction takes from one.
//
// A Tree keeps what it learned of a directory, so that several instructions of
// one build that read the same folders list and hash them once. What it learned
// of files outlives the build in the stat index, see Options.Index.
package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/dockerfile/ignore"
	"github.com/strake-build/strake/layer/rootfs"
)

// Digest names the content that a selection takes: paths, types, modes, owners, link targets, xattrs and bytes; never times.
type Digest [sha256.Size]byte

// Tree is a file tree that COPY and ADD read: a build context or a mounted stage. It is safe for concurrent use.
//
// A Tree is a view of one moment: a directory is listed and a file is looked at once, when
// something first asks for it.
type Tree struct {
	root *rootfs.Root
	opt  Options
	top  *dir

	slots   chan struct{} // one per goroutine that may be started beside the caller's
	workers sync.Pool     // of *worker

	indexOnce sync.Once
	old       *index // as it was on disk; never nil after indexOnce
	clockOnce sync.Once
	clock     int64       // the time before the first file was hashed, in nanoseconds; 0 trusts nothing
	dirty     atomic.Bool // the index on disk is not what is known
	linked    atomic.Bool // a file was seen that has more than one name
}

// Options configures a Tree.
type Options struct {
	Ignore *ignore.Matcher // nil excludes nothing
	// Local: it is a folder of the user's machine, of which a builder that runs elsewhere is sent what steps take: see Select.
	Local bool
	// ResetOwner: entries count as owned by 0:0, as those of a build context are.
	ResetOwner bool
	// Unwritten: nobody writes to the files, since they are those of layers. Their change times do not matter: a link that is made to a file for another
	// view of its layer sets it.
	Unwritten bool
	// Owners is how Open's folder keeps owners; nil is the ordinary way. Other roots say it themselves.
	Owners *rootfs.Owners
	// Index is the file that remembers the sha256 of files by (size, mtime, ctime, inode, mode); empty for none.
	// One that is damaged or was made for another folder is ignored and replaced. The folder that it is in must exist.
	Index string
	// Now is the clock, for git's rule about racy timestamps; nil relies on the file system's alone.
	Now func() time.Time
}

// Open opens the host directory dir as a Tree.
func Open(dir string, opt Options) (*Tree, error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening context: %w", err)
	}
	return FromRoot(root.With(opt.Owners), opt), nil
}

// FromRoot makes a Tree of an open root, such as a stage's file system. The Tree owns it.
func FromRoot(r *rootfs.Root, opt Options) *Tree {
	t := &Tree{root: r, opt: opt, slots: make(chan struct{}, max(runtime.NumCPU()-1, 1))}
	t.top = &dir{path: ".", ignore: opt.Ignore.Root()}
	t.workers.New = func() any { return newWorker() }
	return t
}

// Close writes the index, if something in it changed, and releases the tree. An
// index that cannot be written is no reason for a build to fail; the caller may report the error.
func (t *Tree) Close() error {
	return errors.Join(t.saveIndex(), t.root.Close())
}

// Root is the tree's root, for reading files. It knows nothing of Options.Ignore.
func (t *Tree) Root() *rootfs.Root { return t.root }

// Item is one source of a COPY after wildcards and links were followed.
type Item struct {
	// Path is relative to the tree's root, without symbolic links except in what is below it.
	Path string
	// Name is the name that the entry gets in a destination directory: the last component as written or matched.
	Name string
	Dir  bool

	view *view // what --parents and --exclude take of a directory; nil takes everything
}

// Info describes an entry of a Tree.
type Info struct {
	rootfs.Entry
	// Stat is as the Tree saw the entry first, with the owner 0:0 if Options.ResetOwner says so.
	Stat unix.Stat_t
	// NoXattr: the entry is known to have no extended attributes that are part of an image.
	NoXattr bool
	// Sum is the digest of the bytes of a regular file; zero if that is not known.
	Sum Digest
	// Way: the directory itself is not selected, it is on the way to something that is.
	Way bool
	// Folder is what is taken of a directory, to be read on.
	Folder Folder
}

// Folder is the directory of an item.
func (t *Tree) Folder(item Item) (Folder, error) {
	d, n, err := t.find(item.Path)
	if err == nil && n != nil {
		if d = n.dir; d == nil {
			err = unix.ENOTDIR
		}
	}
	if err != nil {
		return Folder{}, &fs.PathError{Op: "readdir", Path: item.Path, Err: err}
	}
	return Folder{d, item.view}, nil
}

// Read lists what is taken of a folder, sorted by name. It lists a directory and stats an entry once.
func (t *Tree) Read(ctx context.Context, f Folder) ([]Info, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := t.load(ctx, f, false); err != nil {
		return nil, err
	}
	infos := make([]Info, f.len())
	for i := range infos {
		infos[i] = f.node(i).info()
		infos[i].Folder, _ = f.sub(i)
		infos[i].Way = f.way(i)
	}
	return infos, nil
}

// Lstat describes one entry, without following a link.
func (t *Tree) Lstat(path string) (Info, error) {
	d, n, err := t.find(path)
	if err != nil {
		return Info{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if n == nil { // the root
		st, err := t.root.Lstat(".")
		t.own(&st)
		return Info{Entry: rootfs.Entry{Name: ".", Type: unix.DT_DIR, Ino: st.Ino}, Stat: st}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !n.stated {
		f, err := t.openDir(d)
		if err != nil {
			return Info{}, err
		}
		defer f.Close()
		if err := t.stat(t.root.Owners().InDir(d.path, f), d, n); err != nil {
			return Info{}, err
		}
	}
	return n.info(), nil
}

// ChangedError says that an entry is not what it was when the Tree first saw it. What
// was digested is then not what would be copied, and the build must start over.
type ChangedError struct{ Path string }

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%q changed while the build was reading it: build again, or exclude it by .dockerignore if something goes on writing to it", "/"+e.Path)
}

// Grown says whether now is the state of a regular file that was written to since a Tree saw it, and is not shorter, as a log that goes on. The bytes
// that were seen are there still, unless others were written over them.
func Grown(seen, now *unix.Stat_t) bool {
	return seen.Ino == now.Ino && seen.Mode == now.Mode && seen.Mode&unix.S_IFMT == unix.S_IFREG && now.Size >= seen.Size
}

// Same says whether now, an entry's state, is the state that a Tree saw. Link counts, access
// times and owners do not matter, and the change time only if it was seen (Options.Unwritten).
func Same(seen, now *unix.Stat_t) bool {
	return seen.Ino == now.Ino && seen.Mode == now.Mode && seen.Size == now.Size &&
		seen.Mtim == now.Mtim && (seen.Ctim == now.Ctim || seen.Ctim == unix.Timespec{})
}
