package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// smallFile is the size up to which a file is copied by one read and one write, in bytes.
const smallFile = 128 << 10

// copy copies what is no directory, with all that a layer says of it.
func (f *filler) copy(ctx context.Context, j *job, e entry, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return f.regular(ctx, j, e)
	case unix.S_IFLNK:
		target, err := rootfs.ReadlinkEntry(e.src, e.name)
		if err == nil {
			err = rootfs.Symlink(target, j.dst, e.name)
		}
		if err != nil {
			return err
		}
	case unix.S_IFDIR:
		return errors.New("changed while it was read")
	default:
		if err := rootfs.Mknod(j.dst, e.name, st.Mode&unix.S_IFMT|0o600, st.Rdev); err != nil {
			return err
		}
	}
	return setEntry(j.dst, e.name, e.src, st)
}

// setEntry gives the entry base what there is to say of a file that cannot be opened: a link, device, fifo or socket.
func setEntry(dst *os.File, base string, src *os.File, st *unix.Stat_t) error {
	now, err := rootfs.StatEntry(dst, base)
	if err != nil {
		return err
	}
	if now.Uid != st.Uid || now.Gid != st.Gid {
		if err := rootfs.Chown(dst, base, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	names, err := rootfs.ListXattr(src, base)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !carried(name) {
			continue
		}
		value, err := rootfs.GetXattr(src, base, name)
		if err == nil {
			err = rootfs.SetXattr(dst, base, name, value)
		}
		if err != nil && !optional(name) {
			return err
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := rootfs.Chmod(dst, base, st.Mode&0o7777); err != nil {
			return err
		}
	}
	return rootfs.Utimes(dst, base, st.Atim, st.Mtim)
}

// regular copies a regular file.
func (f *filler) regular(ctx context.Context, j *job, e entry) (err error) {
	// O_NONBLOCK: should a fifo be there now, do not wait for its other end.
	src, err := rootfs.OpenFD(e.src, e.name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(src) // only read
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("changed while it was read")
	}
	// Mostly with the mode that it will have, and always one that allows to set its attributes.
	dst, err := rootfs.CreateFD(j.dst, e.name, st.Mode&0o777|0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := unix.Close(dst); err == nil && closeErr != nil {
			err = fmt.Errorf("closing: %w", closeErr) // a full disk may show only here
		}
	}()
	if err := f.bytes(ctx, dst, src, st.Size); err != nil {
		return err
	}
	if err := setFile(dst, src, &st); err != nil {
		return err
	}
	return rootfs.Utimes(j.dst, e.name, st.Atim, st.Mtim)
}

// bytes copies what a file holds: shares it, if the file system can.
func (f *filler) bytes(ctx context.Context, dst, src int, size int64) error {
	if size == 0 {
		return nil
	}
	if !f.noClone.Load() {
		err := unix.IoctlFileClone(dst, src)
		if err == nil {
			return nil
		}
		f.noClone.Store(true)
	}
	buf, _ := f.buffers.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, smallFile)
		buf = &b
	}
	defer f.buffers.Put(buf)
	if size <= smallFile {
		n, err := copyRange(dst, src, 0, size, *buf)
		if err == nil && n != size {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return sparse(ctx, dst, src, size, *buf)
}

// sparse copies the parts of a file that are no holes.
func sparse(ctx context.Context, dst, src int, size int64, buf []byte) error {
	if err := unix.Ftruncate(dst, size); err != nil {
		return fmt.Errorf("making a file of %d bytes: %w", size, err)
	}
	for at := int64(0); at < size; {
		start, err := unix.Seek(src, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to the end
		}
		end := size
		if err != nil {
			start = at // the file system does not know
		} else if end, err = unix.Seek(src, start, unix.SEEK_HOLE); err != nil {
			end = size
		}
		for at = start; at < end; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, err := copyRange(dst, src, at, min(end-at, 8<<20), buf)
			if err != nil {
				return err
			}
			if n == 0 {
				return io.ErrUnexpectedEOF
			}
			at += n
		}
	}
	return nil
}

// copyRange copies up to n bytes at the offset, less only at the end of the file.
func copyRange(dst, src int, at, n int64, buf []byte) (int64, error) {
	var done int64
	for done < n {
		m, err := unix.Pread(src, buf[:min(int64(len(buf)), n-done)], at+done)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, fmt.Errorf("reading: %w", err)
		}
		if m == 0 {
			return done, nil
		}
		for b := buf[:m]; len(b) > 0; {
			w, err := unix.Pwrite(dst, b, at+done)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return done, fmt.Errorf("writing: %w", err)
			}
			b, done = b[w:], done+int64(w)
		}
	}
	return done, nil
}

// setFile gives the open file dst the owner, attributes and mode of src, in this order: a change of the
// owner clears set-id bits and capabilities, and who may not write to a file cannot set its attributes.
func setFile(dst, src int, st *unix.Stat_t) error {
	var now unix.Stat_t
	if err := unix.Fstat(dst, &now); err != nil {
		return err
	}
	if now.Uid != st.Uid || now.Gid != st.Gid {
		if err := unix.Fchown(dst, int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("setting the owner %d:%d: %w", st.Uid, st.Gid, err)
		}
	}
	attributes, err := xattrsOf(src)
	if err != nil {
		return err
	}
	for name, value := range attributes {
		if err := unix.Fsetxattr(dst, name, value, 0); err != nil && !optional(name) {
			return fmt.Errorf("setting the attribute %s: %w", name, err)
		}
	}
	if now.Mode&0o7777 != st.Mode&0o7777 || now.Uid != st.Uid || now.Gid != st.Gid {
		if err := unix.Fchmod(dst, st.Mode&0o7777); err != nil {
			return fmt.Errorf("setting the mode: %w", err)
		}
	}
	return nil
}

// setDir is setFile for directories, and sets their times. What dst has and src has not goes.
func setDir(dst, src *os.File) error {
	st, err := rootfs.StatEntry(src, ".")
	if err != nil {
		return err
	}
	want, err := xattrsOf(int(src.Fd()))
	if err != nil {
		return err
	}
	have, err := xattrsOf(int(dst.Fd()))
	if err != nil {
		return err
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			if err := unix.Fremovexattr(int(dst.Fd()), name); err != nil && !optional(name) {
				return fmt.Errorf("removing the attribute %s: %w", name, err)
			}
		}
	}
	if err := setFile(int(dst.Fd()), int(src.Fd()), &st); err != nil {
		return err
	}
	return rootfs.Utimes(dst, ".", st.Atim, st.Mtim)
}

// xattrsOf reads the attributes of an open file that a copy of it has too.
func xattrsOf(fd int) (map[string][]byte, error) {
	names, err := rootfs.FileXattrs(fd)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	var all map[string][]byte
	for _, name := range names {
		if !carried(name) {
			continue
		}
		value, err := rootfs.FileXattr(fd, name)
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = map[string][]byte{}
		}
		all[name] = value
	}
	return all, nil
}

// carried says whether a copy of a file has the attribute: labels are of the host, and overlay's marks of a mount.
func carried(xattr string) bool {
	return !rootfs.IsEntryRecord(xattr) && (xattr == "security.capability" || strings.HasPrefix(xattr, "system.posix_acl_") ||
		strings.HasPrefix(xattr, "user.") && !strings.HasPrefix(xattr, "user.overlay.") ||
		strings.HasPrefix(xattr, "trusted.") && !strings.HasPrefix(xattr, "trusted.overlay."))
}

// optional says that a file is right also without the attribute, which cannot be set everywhere.
func optional(xattr string) bool {
	return strings.HasPrefix(xattr, "system.posix_acl_") || strings.HasPrefix(xattr, "trusted.")
}
