package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// filler fills directories, on all processors.
type filler struct {
	owners  *rootfs.Owners
	root    *rootfs.Root // of what is filled
	how     how
	listers listers
	buffers sync.Pool
	group   *errgroup.Group
	failed  atomic.Bool
	noClone atomic.Bool // the file system cannot share what files hold

	mu    sync.Mutex
	links map[inode]*linked
}

// how says how files come into what is filled.
type how int

const (
	byCopy   how = iota
	byLink       // by hard links, if that can be
	oneByOne     // copied, if they have one name: other names may be in what is there already
)

// errNames says that a file has several names.
var errNames = errors.New("a file has several names")

// inode names a file of a layer that has several names.
type inode struct {
	layer int
	ino   uint64
}

// linked is such a file in what is filled.
type linked struct {
	path string // its first name there
	made chan struct{}
	err  error // set before made is closed
}

// job is a directory that is being filled.
type job struct {
	above   *job // nil for the root
	path    string
	dst     *os.File
	from    content
	pending atomic.Int32 // itself and the directories in it that are not finished
}

// build puts what layers (directories, topmost first) show into dir, over what is there.
func build(ctx context.Context, dir string, layers []string, by how, owners *rootfs.Owners) error {
	if len(layers) == 0 {
		return nil
	}
	dirs, err := openLayers(layers)
	if err != nil {
		return err
	}
	return fill(ctx, dir, &merged{dirs: dirs}, by, owners)
}

// openLayers opens the directories of layers.
func openLayers(layers []string) ([]layerDir, error) {
	m := &merged{}
	for i, l := range layers {
		f, err := os.OpenFile(l, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			m.close()
			return nil, err
		}
		m.dirs = append(m.dirs, layerDir{f, i})
	}
	return m.dirs, nil
}

// fill puts content into dir, over what is there, and closes it.
func fill(ctx context.Context, dir string, from content, by how, owners *rootfs.Owners) error {
	root, err := rootfs.Open(dir)
	if err != nil {
		from.close()
		return err
	}
	defer root.Close() // nothing was written through it
	dst, err := root.OpenFile(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		from.close()
		return err
	}
	f := &filler{root: root, how: by, owners: owners, listers: listers{owners: owners}, links: map[inode]*linked{}}
	f.group, ctx = errgroup.WithContext(ctx)
	f.group.SetLimit(runtime.GOMAXPROCS(0))
	j := &job{path: ".", dst: dst, from: from}
	j.pending.Store(1)
	f.group.Go(func() error { return f.dir(ctx, j) })
	err = f.group.Wait()
	if cause := context.Cause(ctx); err != nil && cause != nil && errors.Is(err, context.Canceled) {
		return cause
	}
	return err
}

// dir fills the directory of j.
func (f *filler) dir(ctx context.Context, j *job) error {
	err := f.list(ctx, j)
	if err != nil {
		f.failed.Store(true)
	}
	return errors.Join(err, f.done(j))
}

func (f *filler) list(ctx context.Context, j *job) error {
	there, err := f.listers.readDir(j.dst)
	if err != nil {
		return err
	}
	entries, err := j.from.entries(&f.listers, there)
	if err != nil {
		return err
	}
	types := make(map[string]uint8, len(there))
	for _, e := range there {
		types[e.Name] = e.Type
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		typ, exists := types[e.name]
		keep := exists && e.keep && typ == unix.DT_DIR
		if exists && !keep {
			if err := rootfs.RemoveAll(j.dst, e.name); err != nil {
				return err
			}
		}
		if e.sub != nil {
			err = f.sub(ctx, j, e, keep)
		} else if err = f.entry(ctx, j, e); err != nil {
			err = fmt.Errorf("%s: %w", join(j.path, e.name), err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entry makes what is no directory.
func (f *filler) entry(ctx context.Context, j *job, e entry) error {
	switch {
	case e.do == remove:
		return nil
	case e.do == mark:
		return f.mark(j.dst, e.name)
	case f.how == byLink:
		err := f.owners.Link(e.src, e.name, j.dst, e.name)
		if !errors.Is(err, unix.EMLINK) && !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	if err := f.file(ctx, j, e); err != nil || e.typ == unix.DT_REG {
		return err
	}
	return f.owners.CopyEntryOwner(e.src, e.name, j.dst, e.name)
}

func (f *filler) mark(dst *os.File, name string) error {
	fd, err := rootfs.CreateFD(dst, name, 0o600)
	if errors.Is(err, unix.ENAMETOOLONG) {
		return fmt.Errorf("a name of more than %d bytes cannot be removed from the layers below without overlayfs", 255-len(whiteoutPrefix))
	}
	if errors.Is(err, fs.ErrExist) {
		return nil // the step wrote it itself
	}
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// sub fills a directory of j, by another goroutine if one is to be had.
func (f *filler) sub(ctx context.Context, j *job, e entry, there bool) error {
	k := &job{above: j, path: join(j.path, e.name), from: e.sub}
	if err := k.open(e.name, there); err != nil {
		return fmt.Errorf("%s: %w", k.path, err)
	}
	k.pending.Store(1)
	j.pending.Add(1)
	if f.group.TryGo(func() error { return f.dir(ctx, k) }) {
		return nil
	}
	return f.dir(ctx, k)
}

// open opens the directory, called name in the one above, after making it if it is not there.
func (j *job) open(name string, there bool) (err error) {
	if !there {
		if err := rootfs.MkdirMasked(j.above.dst, name, 0o700); err != nil {
			return err
		}
	}
	if j.dst, err = rootfs.OpenEntry(j.above.dst, name, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		return err
	}
	if err := j.from.open(); err != nil {
		_ = j.dst.Close()
		return err
	}
	return nil
}

// done finishes j if nothing is left to do in it, and then what it is in.
func (f *filler) done(j *job) error {
	var err error
	for ; j != nil && j.pending.Add(-1) == 0; j = j.above {
		if err == nil && !f.failed.Load() {
			if err = setDir(j.dst, j.from.model()); err != nil {
				f.failed.Store(true)
				err = fmt.Errorf("%s: %w", j.path, err)
			}
		}
		_ = j.dst.Close()
		j.from.close()
	}
	return err
}

// first claims the making of the file that e is a name of. If somebody else has it, first returns how to link to that.
func (f *filler) first(j *job, e entry, st *unix.Stat_t) (mine, other *linked) {
	key := inode{e.from, st.Ino}
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.links[key]; l != nil {
		return nil, l
	}
	l := &linked{path: join(j.path, e.name), made: make(chan struct{})}
	f.links[key] = l
	return l, nil
}

// file copies what is no directory, or links it to a name that was copied.
func (f *filler) file(ctx context.Context, j *job, e entry) error {
	st, err := rootfs.StatEntry(e.src, e.name)
	if err != nil {
		return err
	}
	if st.Nlink == 1 {
		return f.copy(ctx, j, e, &st)
	}
	if f.how == oneByOne && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errNames
	}
	mine, other := f.first(j, e, &st)
	if mine != nil {
		err := f.copy(ctx, j, e, &st)
		mine.err = err
		close(mine.made)
		return err
	}
	select {
	case <-other.made:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if other.err != nil {
		return other.err
	}
	dir, base, err := f.root.Parent(other.path)
	if err != nil {
		return err
	}
	defer dir.Close() // nothing was written through it
	err = rootfs.Link(dir, base, j.dst, e.name)
	if errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM) {
		return f.copy(ctx, j, e, &st)
	}
	return err
}
