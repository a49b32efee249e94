package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// entry is an entry of a tar on its way to the disk: base in the open directory dir.
type entry struct {
	dir  *os.File
	base string
	name string // clean, relative to the root
	hdr  *tar.Header
}

// xattrPrefix begins the PAX records that hold extended attributes.
const xattrPrefix = "SCHILY.xattr."

// directory makes a directory or takes the one that is there.
func (u *unpacker) directory(e entry) error {
	u.times.set(e.name, mtime(e.hdr))
	err := rootfs.MkdirMasked(e.dir, e.base, u.perm(e, 0o700))
	if err == nil {
		if err := u.replaceMark(e); err != nil {
			return err
		}
		return u.settle(e)
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	st, err := rootfs.StatEntry(e.dir, e.base)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := u.replaceByDir(e); err != nil {
			return err
		}
	}
	return u.metadata(e)
}

// replaceByDir puts a directory where something else is. That hid what the layers
// below have there, so the directory must go on hiding it.
func (u *unpacker) replaceByDir(e entry) error {
	u.leaveFor(e)
	if err := rootfs.Remove(e.dir, e.base); err != nil {
		return err
	}
	if err := rootfs.Mkdir(e.dir, e.base, 0o700); err != nil {
		return err
	}
	if u.opt.Form != Plain {
		return u.opaque(e)
	}
	return nil
}

// place calls create, and again after removing what is in its way.
func (u *unpacker) place(e entry, create func() error) error {
	err := create()
	if err == nil && u.marks {
		_, err = unmark(e.dir, e.base)
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	u.leaveFor(e)
	if err := u.settleBelow(e); err != nil {
		return err
	}
	if err := rootfs.RemoveAll(e.dir, e.base); err != nil {
		return err
	}
	return create()
}

// leaveFor closes the directory that parent remembers if its path may be that of the entry, which is about to change. The entry's
// directory itself stays right.
func (u *unpacker) leaveFor(e entry) {
	if e.dir != u.dir {
		u.leave()
	}
}

// settleBelow sets the times of directories if the entry takes the place of one: afterwards the names below it are gone, or lead elsewhere.
// All are set, since to look for those below, each time, would make an archive of n entries n² of work.
func (u *unpacker) settleBelow(e entry) error {
	st, err := rootfs.StatEntry(e.dir, e.base)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	if err := u.setTimes(); err != nil {
		return err
	}
	return u.enter(int(e.dir.Fd()), path.Dir(e.name))
}

// file makes a regular file.
func (u *unpacker) file(ctx context.Context, e entry, r io.Reader) error {
	fd := -1
	err := u.place(e, func() (err error) {
		fd, err = rootfs.CreateFD(e.dir, e.base, u.perm(e, 0o600))
		return err
	})
	if err != nil {
		return err
	}
	err = u.content(ctx, fd, e.hdr.Size, r)
	if closeErr := unix.Close(fd); err == nil && closeErr != nil {
		err = &fs.PathError{Op: "close", Path: e.base, Err: closeErr} // a full disk may show only here
	}
	if err != nil {
		return err
	}
	return u.settle(e)
}

// content writes size bytes of r to the new file fd, long runs of zeros as holes.
func (u *unpacker) content(ctx context.Context, fd int, size int64, r io.Reader) error {
	if err := u.room.take(size); err != nil || size == 0 {
		return err
	}
	if size > int64(len(u.buf)) {
		// This also refuses at once what no file system can hold.
		if err := unix.Ftruncate(fd, size); err != nil {
			return fmt.Errorf("making a file of %d bytes: %w", size, err)
		}
	}
	w := &holeWriter{fd: fd, zero: size > int64(len(u.buf))}
	n, err := copyAll(ctx, w, r, u.buf)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// holeWriter writes the file fd from its beginning. With zero, it has its length already and zeros
// need not be written.
type holeWriter struct {
	fd     int
	offset int64
	zero   bool
}

// zeroes is compared with; a run of zeros shorter than it costs less to write than to skip.
var zeroes [32 << 10]byte

func (w *holeWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := 0
		for n < len(p) && (!w.zero || !isZero(p[n:])) {
			n = min(n+len(zeroes), len(p))
		}
		if n == 0 {
			n = min(len(zeroes), len(p))
		} else if err := w.writeAt(p[:n], w.offset); err != nil {
			return 0, err
		}
		w.offset += int64(n)
		p = p[n:]
	}
	return total, nil
}

func (w *holeWriter) writeAt(p []byte, offset int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(w.fd, p, offset)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// isZero says whether p begins with a run of zeros.
func isZero(p []byte) bool {
	p = p[:min(len(zeroes), len(p))]
	return p[0] == 0 && bytes.Equal(p, zeroes[:len(p)])
}

// symlink makes a symbolic link; its target means nothing here.
func (u *unpacker) symlink(e entry) error {
	err := u.place(e, func() error { return rootfs.Symlink(e.hdr.Linkname, e.dir, e.base) })
	if err != nil {
		return err
	}
	return u.settle(e)
}

// hardLink links an entry that is there already. Owner, mode and time in the header mostly repeat that entry's; if they do not, the
// last word counts, as for docker and containerd.
func (u *unpacker) hardLink(e entry) error {
	target := path.Clean("/" + e.hdr.Linkname)
	if u.opt.Form == Marked && strings.HasPrefix(path.Base(target), whiteoutPrefix) {
		return fmt.Errorf("linking to %.200q: %w", e.hdr.Linkname, fs.ErrNotExist)
	}
	oldDir, oldBase, err := u.root.Parent(target)
	if err != nil {
		return fmt.Errorf("linking to %.200q: %w", e.hdr.Linkname, err)
	}
	defer oldDir.Close() // nothing was written through it
	old, err := rootfs.StatEntry(oldDir, oldBase)
	if err != nil {
		return fmt.Errorf("linking to %.200q: %w", e.hdr.Linkname, err)
	}
	if u.opt.Form == Overlay && IsWhiteout(&old) {
		return fmt.Errorf("linking to %.200q: %w", e.hdr.Linkname, fs.ErrNotExist)
	}
	if st, err := rootfs.StatEntry(e.dir, e.base); err == nil && st.Ino == old.Ino && st.Dev == old.Dev {
		return u.relinked(e) // linked already, or to itself
	}
	err = u.place(e, func() error { return u.owners.Link(oldDir, oldBase, e.dir, e.base) })
	if err != nil {
		return fmt.Errorf("linking to %.200q: %w", e.hdr.Linkname, err)
	}
	return u.relinked(e)
}

// relinked gives the file that a hard link is to what the link's header says. A change of the owner clears capabilities, so that nothing is set
// that is so.
func (u *unpacker) relinked(e entry) error {
	st, err := u.owners.StatEntry(e.dir, e.base)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 && u.opt.fileDevices() {
		return err // of a link there is no more to say, and an empty file may stand for a device
	}
	if int(st.Uid) == e.hdr.Uid && int(st.Gid) == e.hdr.Gid && int64(st.Mode&0o7777) == e.hdr.Mode&0o7777 {
		return u.time(e)
	}
	return u.metadata(e)
}

// node makes a device or a fifo.
func (u *unpacker) node(e entry) error {
	mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[e.hdr.Typeflag]
	if mode == unix.S_IFIFO {
		e.hdr.Devmajor, e.hdr.Devminor = 0, 0
	}
	if e.hdr.Devmajor < 0 || e.hdr.Devmajor >= 1<<12 || e.hdr.Devminor < 0 || e.hdr.Devminor >= 1<<20 {
		return fmt.Errorf("device number %d:%d is out of range", e.hdr.Devmajor, e.hdr.Devminor)
	}
	dev := unix.Mkdev(uint32(e.hdr.Devmajor), uint32(e.hdr.Devminor))
	if mode == unix.S_IFIFO || !u.opt.fileDevices() || mode == unix.S_IFCHR && dev == 0 {
		if err := u.place(e, func() error { return rootfs.Mknod(e.dir, e.base, mode, dev) }); err != nil {
			return err
		}
		return u.metadata(e)
	}
	err := u.place(e, func() error {
		f, err := rootfs.CreateEntry(e.dir, e.base, 0o600)
		if err == nil {
			err = f.Close()
		}
		return err
	})
	if err != nil {
		return err
	}
	o := rootfs.Override{UID: uint32(e.hdr.Uid), GID: uint32(e.hdr.Gid), Mode: mode | uint32(e.hdr.Mode)&0o7777, Rdev: dev}
	if err := rootfs.SetXattr(e.dir, e.base, rootfs.OverrideStat, []byte(o.String())); err != nil {
		return err
	}
	return u.metadata(e)
}

// settle is metadata for what Apply just made, and so has the right owner and mode mostly: asking
// costs less than setting.
func (u *unpacker) settle(e entry) error {
	if u.owners.Records() {
		return u.metadata(e)
	}
	st, err := rootfs.StatEntry(e.dir, e.base)
	if err != nil {
		return err
	}
	if int64(st.Uid) != int64(e.hdr.Uid) || int64(st.Gid) != int64(e.hdr.Gid) {
		return u.metadata(e)
	}
	if e.hdr.Typeflag != tar.TypeSymlink && st.Mode&0o7777 != uint32(e.hdr.Mode)&0o7777 {
		if err := rootfs.Chmod(e.dir, e.base, uint32(e.hdr.Mode)); err != nil {
			return err
		}
	}
	return u.attributes(e)
}

// metadata sets owner, mode, extended attributes and time, in this order: a
// change of the owner clears set-id bits and capabilities.
func (u *unpacker) metadata(e entry) error {
	if u.owners.Records() {
		return u.record(e)
	}
	if err := rootfs.Chown(e.dir, e.base, e.hdr.Uid, e.hdr.Gid); err != nil {
		return err
	}
	if e.hdr.Typeflag != tar.TypeSymlink {
		if err := rootfs.Chmod(e.dir, e.base, uint32(e.hdr.Mode)); err != nil {
			return err
		}
	}
	return u.attributes(e)
}

// record is metadata where owners are recorded. The attributes come first, as long as the file may be written to.
func (u *unpacker) record(e entry) error {
	if err := u.setXattrs(e); err != nil {
		return err
	}
	mode := int(e.hdr.Mode & 0o7777)
	if e.hdr.Typeflag == tar.TypeSymlink {
		mode = -1
	}
	if err := u.owners.Set(e.dir, e.base, e.hdr.Uid, e.hdr.Gid, mode); err != nil {
		return err
	}
	return u.time(e)
}

// perm is the mode to make a file with: usable is one in which whatever is recorded can be set.
func (u *unpacker) perm(e entry, usable uint32) uint32 {
	if u.owners.Records() {
		return usable
	}
	return uint32(e.hdr.Mode)
}

// attributes sets extended attributes and the time.
func (u *unpacker) attributes(e entry) error {
	if err := u.setXattrs(e); err != nil {
		return err
	}
	return u.time(e)
}

// time sets the time, but that of a directory.
func (u *unpacker) time(e entry) error {
	if e.hdr.Typeflag == tar.TypeDir {
		return nil // flush sets it
	}
	t := mtime(e.hdr)
	return rootfs.Utimes(e.dir, e.base, t, t)
}

// setXattrs sets the extended attributes that belong to a layer.
func (u *unpacker) setXattrs(e entry) error {
	var names []string
	for record := range e.hdr.PAXRecords {
		if name, ok := strings.CutPrefix(record, xattrPrefix); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		isACL := strings.HasPrefix(name, aclPrefix)
		if !isACL && !isContent(name) {
			continue
		}
		value := []byte(e.hdr.PAXRecords[xattrPrefix+name])
		err := u.owners.SetXattr(e.dir, e.base, name, value)
		if isACL && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL)) {
			continue
		}
		// On links and devices user.* cannot exist (xattr(7)); docker ignores it as well.
		if errors.Is(err, unix.EPERM) && e.hdr.Typeflag != tar.TypeReg && e.hdr.Typeflag != tar.TypeDir {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mtime is the time of an entry as the kernel takes it.
func mtime(hdr *tar.Header) unix.Timespec {
	return unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
}
