package layer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

const (
	// readers is how many goroutines stat, open and read files ahead of the writer.
	readers = 2
	// readAhead is how many entries they may be ahead, and smallFile the size up to
	// which they read a file's content: together the bound of Write's memory.
	readAhead = 64
	smallFile = 64 << 10
	// writeBuffer is how many bytes go to the writer at once.
	writeBuffer = 64 << 10
)

// Write writes the tree at root as an uncompressed tar: PAX where ustar does not
// suffice, names sorted, whole seconds, no atime or ctime, no sockets. There is no
// entry for the root directory itself, as in BuildKit's layers; a tree with nothing in it gives
// the end-of-archive blocks alone.
//
// A file whose own name begins with ".wh." comes out as it is: readers will take it for a whiteout, as they do
// with such a file in BuildKit's layers.
//
// No symbolic link is followed. A file that changes while it is read is an error;
// the tree should be at rest.
func Write(ctx context.Context, w io.Writer, root *rootfs.Root, opt Options) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dir, err := root.OpenFile(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	var (
		group errgroup.Group
		// The walker puts each entry into both channels: work has those to be read
		// by any reader, queue gives the writer their order.
		queue = make(chan *item, readAhead)
		work  = make(chan *item, readAhead)
		free  = make(chan []byte, readAhead+readers)
	)
	group.Go(func() error {
		defer close(queue)
		defer close(work)
		k := &walker{opt: opt, owners: opt.owners(root), queue: queue, work: work}
		return k.dir(ctx, newDirectory(dir, k.owners, ""), "")
	})
	for range readers {
		group.Go(func() error {
			for it := range work {
				if it.err = context.Cause(ctx); it.err == nil {
					it.err = it.read(opt, free)
				}
				it.dir.release()
				close(it.ready)
			}
			return nil
		})
	}
	t := &tarWriter{w: bufio.NewWriterSize(w, writeBuffer), links: map[inode]*linked{}, epoch: opt.Epoch}
	var first error
	for it := range queue {
		<-it.ready
		if first == nil {
			if first = t.item(ctx, it); first != nil {
				cancel(first)
			}
		}
		it.release(free)
	}
	if err := group.Wait(); first == nil {
		first = err
	}
	if first != nil {
		return first
	}
	return t.end()
}

// walker lists the tree, parents first, names sorted byte by byte.
type walker struct {
	opt    Options
	owners *rootfs.Owners
	lister rootfs.Lister
	queue  chan<- *item
	work   chan<- *item
}

// dir sends the entries of the directory d, which is called name, and releases d.
func (k *walker) dir(ctx context.Context, d *directory, name string) error {
	defer d.release()
	if len(name) > maxName {
		return fmt.Errorf("reading %.200q…: the name is too long", name)
	}
	if name == "" && k.opt.Form != Plain {
		// The root has no entry, but may be opaque.
		if err := k.send(ctx, &item{dir: d, base: ".", typ: unix.DT_DIR, root: true}); err != nil {
			return err
		}
	}
	entries, err := k.lister.ReadDir(d.file)
	if err != nil {
		return fmt.Errorf("reading /%s: %w", name, err)
	}
	if k.opt.Form == Marked {
		entries = sortMarks(entries)
	}
	for _, e := range entries {
		if e.Type == unix.DT_SOCK || k.owners.Hides(e.Name) {
			continue
		}
		it := &item{dir: d, base: e.Name, name: path.Join(name, e.Name), typ: e.Type, mark: k.opt.Form == Marked && isMark(e)}
		if e.Type != unix.DT_DIR {
			if err := k.send(ctx, it); err != nil {
				return err
			}
			continue
		}
		f, err := rootfs.OpenEntry(d.file, e.Name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return fmt.Errorf("reading /%s: %w", it.name, err)
		}
		sub := newDirectory(f, k.owners, it.name)
		it.dir, it.base = sub, "."
		if err := k.send(ctx, it); err != nil {
			sub.release()
			return err
		}
		if err := k.dir(ctx, sub, it.name); err != nil {
			return err
		}
	}
	return nil
}

// send hands an entry to a reader and to the writer.
func (k *walker) send(ctx context.Context, it *item) error {
	it.ready = make(chan struct{})
	select {
	case k.queue <- it:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	it.dir.retain()
	select {
	case k.work <- it:
		return nil
	case <-ctx.Done():
		it.dir.release()
		it.err = context.Cause(ctx)
		close(it.ready)
		return it.err
	}
}

// tarWriter turns entries into a tar.
type tarWriter struct {
	w     *bufio.Writer
	buf   []byte // a header
	big   []byte // content on its way
	links map[inode]*linked
	epoch *int64 // of Options
}

// inode names a file that has several names.
type inode struct{ dev, ino uint64 }

// linked is such a file: its first name, and how many names are still to come.
type linked struct {
	name string
	left uint64
}

// item writes one entry.
func (t *tarWriter) item(ctx context.Context, it *item) error {
	err := it.err
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = t.write(ctx, it)
	}
	if err != nil {
		return fmt.Errorf("reading /%s: %w", it.name, err)
	}
	return nil
}

// write writes an item: its header, and the content of a file.
func (t *tarWriter) write(ctx context.Context, it *item) error {
	if it.whiteout {
		name := it.name
		if !it.mark {
			name = path.Join(path.Dir(name), whiteoutPrefix+path.Base(name))
		}
		return t.header(&header{name: name, typ: '0'})
	}
	if !it.root {
		h := it.header()
		if t.epoch != nil {
			h.mtime = *t.epoch
		}
		if h.typ != '5' && it.st.Nlink > 1 {
			if first := t.firstName(it); first != "" {
				return t.header(&header{
					name: h.name, link: first, typ: '1', mode: h.mode, uid: h.uid, gid: h.gid, mtime: h.mtime,
				})
			}
		}
		if err := t.header(h); err != nil {
			return err
		}
		if h.size > 0 {
			return t.content(ctx, it)
		}
	}
	if it.opaque {
		return t.header(&header{name: path.Join(it.name, opaqueName), typ: '0'})
	}
	return nil
}

// firstName returns the name under which the file was written, or notes this one.
func (t *tarWriter) firstName(it *item) string {
	key := inode{uint64(it.st.Dev), it.st.Ino} //nolint:unconvert // differs between platforms
	if l := t.links[key]; l != nil {
		if l.left--; l.left == 0 {
			delete(t.links, key)
		}
		return l.name
	}
	t.links[key] = &linked{name: it.name, left: uint64(it.st.Nlink) - 1} //nolint:unconvert // differs between platforms
	return ""
}

func (t *tarWriter) header(h *header) (err error) {
	if t.buf, err = h.append(t.buf[:0]); err != nil {
		return err
	}
	_, err = t.w.Write(t.buf)
	return err
}

// content writes the file's bytes and the padding after them.
func (t *tarWriter) content(ctx context.Context, it *item) error {
	if it.file == nil {
		if _, err := t.w.Write(it.data); err != nil {
			return err
		}
	} else {
		if t.big == nil {
			t.big = make([]byte, 1<<20)
		}
		n, err := copyAll(ctx, t.w, io.LimitReader(it.file, it.st.Size), t.big)
		if err != nil {
			return err
		}
		if err := it.checkEnd(n, t.big); err != nil {
			return err
		}
	}
	_, err := t.w.Write(zeroes[:padding(it.st.Size)])
	return err
}

// end writes the end of the archive: two blocks of zeros.
func (t *tarWriter) end() error {
	if _, err := t.w.Write(zeroes[:2*blockSize]); err != nil {
		return err
	}
	return t.w.Flush()
}

// errChanged is the fate of a tree that somebody writes to.
var errChanged = errors.New("changed while it was read")

// checkEnd makes sure that it.file ends after the n bytes read of it.
func (it *item) checkEnd(n int64, buf []byte) error {
	if n != it.st.Size {
		return errChanged
	}
	more, err := it.file.Read(buf[:1])
	if more > 0 {
		return errChanged
	}
	if err != io.EOF {
		return err
	}
	return nil
}
