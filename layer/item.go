package layer

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// directory is an open directory that the walker and entries on their way share.
type directory struct {
	file *os.File
	stat *rootfs.DirStat
	refs atomic.Int32
}

func newDirectory(f *os.File, owners *rootfs.Owners, name string) *directory {
	d := &directory{file: f, stat: owners.InDir(name, f)}
	d.refs.Store(1)
	return d
}

func (d *directory) retain() { d.refs.Add(1) }

func (d *directory) release() {
	if d.refs.Add(-1) == 0 {
		_ = d.file.Close()
	}
}

// item is an entry of a tree on its way into a tar. The walker sets the first
// group of fields, a reader the second; then ready is closed.
type item struct {
	dir  *directory
	base string // "." for a directory, whose dir is itself
	name string // relative to the root
	typ  uint8  // unix.DT_*
	root bool
	mark bool // a whiteout of Form Marked

	err      error
	st       unix.Stat_t
	whiteout bool
	opaque   bool
	target   string // of a symbolic link
	xattrs   []xattr
	data     []byte   // a small file's content
	file     *os.File // a large file

	ready chan struct{}
}

// release frees what the item holds, its buffer for another one.
func (it *item) release(free chan<- []byte) {
	if it.file != nil {
		_ = it.file.Close()
	}
	if it.data != nil {
		select {
		case free <- it.data:
		default:
		}
	}
}

// read stats the entry and reads what the tar needs of it.
func (it *item) read(opt Options, free <-chan []byte) error {
	if it.mark {
		it.whiteout = true
		return nil
	}
	switch it.typ {
	case unix.DT_REG:
		return it.readFile(opt, free)
	case unix.DT_DIR:
		fd := int(it.dir.file.Fd())
		if err := it.dir.stat.Owners().Fstat(fd, &it.st); err != nil {
			return err
		}
		if opt.Form == Marked {
			_, err := rootfs.StatEntry(it.dir.file, opaqueName)
			if it.opaque = err == nil; err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return it.readXattrs(fd, opt)
	}
	st, err := it.dir.stat.StatEntry(it.base)
	if err != nil {
		return err
	}
	it.st = st
	if it.st.Mode&unix.S_IFMT != uint32(it.typ)<<12 {
		return errChanged
	}
	switch it.typ {
	case unix.DT_LNK:
		it.target, err = rootfs.ReadlinkEntry(it.dir.file, it.base)
		return err
	case unix.DT_CHR:
		it.whiteout = opt.Form == Overlay && IsWhiteout(&it.st)
		return nil
	case unix.DT_BLK, unix.DT_FIFO:
		return nil
	}
	return errors.New("a file of unknown type")
}

// readFile opens a regular file; a small one is read whole.
func (it *item) readFile(opt Options, free <-chan []byte) error {
	// O_NONBLOCK: should a fifo be there now, do not wait for its other end.
	fd, err := rootfs.OpenFD(it.dir.file, it.base, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	large, err := it.readOpen(fd, opt, free)
	if large && err == nil {
		it.file = os.NewFile(uintptr(fd), it.base)
		return nil // the writer streams it
	}
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	return err
}

// readOpen reads what there is to know of the open file fd, and its content unless that is large.
func (it *item) readOpen(fd int, opt Options, free <-chan []byte) (large bool, err error) {
	if err := it.dir.stat.Owners().Fstat(fd, &it.st); err != nil {
		return false, err
	}
	switch it.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFCHR, unix.S_IFBLK:
		if it.dir.stat.Owners().Records() {
			return false, nil // a device, of which a layer has no attributes
		}
		return false, errChanged
	default:
		return false, errChanged
	}
	if err := it.readXattrs(fd, opt); err != nil {
		return false, err
	}
	size := it.st.Size
	if it.st.Mode&unix.S_IFMT != unix.S_IFREG || size == 0 {
		return false, nil
	}
	if size > smallFile {
		return true, nil
	}
	select {
	case it.data = <-free:
		it.data = it.data[:0]
	default:
		it.data = make([]byte, 0, smallFile+1)
	}
	// One byte more is asked for, to see that there is none.
	for int64(len(it.data)) <= size {
		n, err := unix.Read(fd, it.data[len(it.data):size+1])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, err
		}
		it.data = it.data[:len(it.data)+n]
		if n == 0 || int64(len(it.data)) == size {
			break // a short read of a regular file is its end
		}
	}
	if int64(len(it.data)) != size {
		return false, errChanged
	}
	return false, nil
}

// readXattrs reads the extended attributes of the open file or directory fd.
func (it *item) readXattrs(fd int, opt Options) error {
	owners := it.dir.stat.Owners()
	names, err := owners.FileXattrs(fd)
	if err != nil {
		return err
	}
	opaque := ""
	if opt.Form == Overlay {
		opaque = opt.OpaqueXattr()
	}
	for _, name := range names {
		isOverride := opt.UserXattr && name == rootfs.OverrideStat
		if !opt.inTar(name) && name != opaque && !isOverride {
			continue
		}
		value, err := owners.FileXattr(fd, name)
		if err != nil {
			return err
		}
		switch {
		case name == opaque:
			it.opaque = it.typ == unix.DT_DIR && string(value) == "y"
		case isOverride:
			if o, ok := rootfs.ParseOverride(string(value)); ok {
				o.Apply(&it.st)
			}
		case name == capability:
			it.xattrs = append(it.xattrs, xattr{name, plainCapability(value)})
		default:
			it.xattrs = append(it.xattrs, xattr{name, value})
		}
	}
	slices.SortFunc(it.xattrs, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return nil
}

// header is the entry as a tar has it.
func (it *item) header() *header {
	h := &header{
		name: it.name, mode: it.st.Mode & 0o7777, uid: it.st.Uid, gid: it.st.Gid,
		mtime: it.st.Mtim.Sec, xattrs: it.xattrs,
	}
	switch it.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.typ, h.size = '0', it.st.Size
	case unix.S_IFDIR:
		h.typ = '5'
		h.name += "/"
	case unix.S_IFLNK:
		h.typ, h.link = '2', it.target
	case unix.S_IFCHR:
		h.typ, h.rdev = '3', it.st.Rdev
	case unix.S_IFBLK:
		h.typ, h.rdev = '4', it.st.Rdev
	case unix.S_IFIFO:
		h.typ = '6'
	}
	return h
}
