package copier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/layer/rootfs"
)

// job copies one item.
type job struct {
	*copier
	mu    sync.Mutex // protects links
	links map[inode]*link
}

// inode names a file that has several names.
type inode struct{ dev, ino uint64 }

// link is where the first name of a file went.
type link struct {
	done chan struct{} // closed when it is there, or failed
	path string
	err  error
}

// pair is a folder that is copied and the one it is copied to, both open.
type pair struct {
	src, dst         *os.File
	srcPath, dstPath string
	folder           source.Folder // what is taken of src
	fresh            bool          // dst was just made
}

// top copies the contents of the folder item to the existing folder target.
func (j *job) top(ctx context.Context, item source.Item, target string, info *source.Info) error {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW
	folder, err := j.tree.Folder(item)
	if err != nil {
		return err
	}
	src, err := j.tree.Root().OpenFile(item.Path, flags, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := j.dst.OpenFile(target, flags, 0)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := j.contents(ctx, pair{src: src, dst: dst, srcPath: item.Path, dstPath: target, folder: folder}); err != nil {
		return err
	}
	t := j.time(info)
	return rootfs.Utimes(dst, ".", t, t)
}

// contents copies what is taken of a folder, folders and batches of other entries side by side.
func (j *job) contents(ctx context.Context, p pair) error {
	infos, err := j.tree.Read(ctx, p.folder)
	if err != nil {
		return err
	}
	var g group
	var files []*source.Info
	for i := range infos {
		info := &infos[i]
		if info.Type != unix.DT_DIR {
			files = append(files, info)
			continue
		}
		g.run(ctx, j.slots, func() error { return j.folder(ctx, p, info) })
	}
	const batch = 32
	for part := range slices.Chunk(files, batch) {
		g.run(ctx, j.slots, func() error {
			for _, info := range part {
				if err := j.entry(ctx, p, info, info.Name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.wait()
}

// folder copies a folder inside a copied one. One that is only on the way to what is copied is made like it, but if it is
// there gets no more than its mode and time.
func (j *job) folder(ctx context.Context, p pair, info *source.Info) error {
	sub := pair{srcPath: join(p.srcPath, info.Name), dstPath: join(p.dstPath, info.Name), folder: info.Folder}
	err := rootfs.Mkdir(p.dst, info.Name, 0o700)
	switch {
	case err == nil:
		sub.fresh = true
	case p.fresh || !errors.Is(err, fs.ErrExist):
		return err
	}
	const flags = unix.O_PATH | unix.O_DIRECTORY
	sub.dst, err = rootfs.OpenEntry(p.dst, info.Name, flags)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("cannot copy to non-directory: %s", path.Join("/", sub.dstPath))
	}
	if err != nil {
		return err
	}
	defer sub.dst.Close()
	sub.src, err = rootfs.OpenEntry(p.src, info.Name, flags)
	if err != nil {
		return changed(sub.srcPath, err)
	}
	defer sub.src.Close()
	if err := j.contents(ctx, sub); err != nil {
		return err
	}
	if info.Way && !sub.fresh {
		// BuildKit gives it no more than this and the time of the build. With its own, layers are the same every time.
		if err := j.owners.Chmod(p.dst, info.Name, info.Stat.Mode&0o7777); err != nil {
			return err
		}
		t := j.time(info)
		return rootfs.Utimes(p.dst, info.Name, t, t)
	}
	return j.metadata(p, info, info.Name)
}

// entry copies something that is no folder, under the given name.
func (j *job) entry(ctx context.Context, p pair, info *source.Info, name string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if j.owners.Hides(name) {
		return fmt.Errorf("%s: the name is reserved where owners are recorded", path.Join("/", p.dstPath, name))
	}
	var err error
	switch info.Type {
	case unix.DT_REG:
		if info.Stat.Nlink > 1 {
			err = j.linked(ctx, p, info, name)
		} else {
			err = j.file(ctx, p, info, name)
		}
	case unix.DT_LNK:
		err = j.symlink(p, info, name)
	default:
		err = j.special(p, info, name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path.Join("/", p.dstPath, name), err)
	}
	return nil
}

// linked copies a file that may have further names in the item; these become links to the first.
func (j *job) linked(ctx context.Context, p pair, info *source.Info, name string) error {
	key := inode{info.Stat.Dev, info.Stat.Ino}
	j.mu.Lock()
	first, ok := j.links[key]
	if !ok {
		first = &link{done: make(chan struct{}), path: join(p.dstPath, name)}
		j.links[key] = first
	}
	j.mu.Unlock()
	if !ok {
		first.err = j.file(ctx, p, info, name)
		close(first.done)
		return first.err
	}
	select {
	case <-first.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if first.err != nil {
		return first.err
	}
	dir, base, err := j.dst.Parent(first.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = place(p.dst, name, join(p.dstPath, name), func() error { return rootfs.Link(dir, base, p.dst, name) })
	if errors.Is(err, unix.EMLINK) {
		return j.file(ctx, p, info, name)
	}
	return err
}

// symlink copies a symbolic link as it is.
func (j *job) symlink(p pair, info *source.Info, name string) error {
	target, err := rootfs.ReadlinkEntry(p.src, info.Name)
	if err != nil {
		return changed(join(p.srcPath, info.Name), err)
	}
	if err := j.unchanged(p, info); err != nil {
		return err
	}
	err = place(p.dst, name, join(p.dstPath, name), func() error { return rootfs.Symlink(target, p.dst, name) })
	if err != nil {
		return err
	}
	return j.metadata(p, info, name)
}

// unchanged checks that an entry is still what the tree saw.
func (j *job) unchanged(p pair, info *source.Info) error {
	now, err := j.from.StatEntry(p.src, info.Name)
	if err != nil {
		return changed(join(p.srcPath, info.Name), err)
	}
	if !source.Same(&info.Stat, &now) {
		return &source.ChangedError{Path: join(p.srcPath, info.Name)}
	}
	return nil
}

// changed makes a *source.ChangedError of an error that a source gives which is not what it was.
func changed(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EINVAL) {
		return &source.ChangedError{Path: name}
	}
	return err
}

// special copies a device or a fifo. A socket becomes an empty file.
func (j *job) special(p pair, info *source.Info, name string) error {
	typ := info.Stat.Mode & unix.S_IFMT
	dev := info.Stat.Rdev
	if typ != unix.S_IFCHR && typ != unix.S_IFBLK {
		dev = 0
	}
	if typ == unix.S_IFCHR && dev == 0 {
		return errors.New("a character device 0:0 cannot be part of an image, it means a deleted file")
	}
	fileDevices := j.opt.UserXattr || j.owners.Records() || j.from.Records()
	isDevice := typ == unix.S_IFBLK || typ == unix.S_IFCHR
	if typ == unix.S_IFSOCK || isDevice && fileDevices {
		typ = unix.S_IFREG
	}
	err := place(p.dst, name, join(p.dstPath, name), func() error { return rootfs.Mknod(p.dst, name, typ|0o600, dev) })
	if err != nil {
		return err
	}
	if isDevice && fileDevices {
		o := j.override(info)
		if err := rootfs.SetXattr(p.dst, name, rootfs.OverrideStat, []byte(o)); err != nil {
			return err
		}
	}
	return j.metadata(p, info, name)
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// group runs functions beside the caller as long as there are slots, else in place.
type group struct {
	wg  sync.WaitGroup
	mu  sync.Mutex
	err error
}

// run runs f, unless the context or an earlier function of the group failed.
func (g *group) run(ctx context.Context, slots chan struct{}, f func() error) {
	if err := context.Cause(ctx); err != nil {
		g.fail(err)
		return
	}
	g.mu.Lock()
	failed := g.err != nil
	g.mu.Unlock()
	if failed {
		return
	}
	select {
	case slots <- struct{}{}:
		g.wg.Go(func() {
			defer func() { <-slots }()
			g.fail(f())
		})
	default:
		g.fail(f())
	}
}

func (g *group) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
}

// wait waits for every function and returns the first error.
func (g *group) wait() error {
	g.wg.Wait()
	return g.err
}
