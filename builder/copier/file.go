package copier

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/layer/rootfs"
)

const (
	bufferSize = 128 << 10
	// rangeSize is from where on copy_file_range(2) pays.
	rangeSize = 256 << 10
	// rangeMax is how much of it is done between two looks at the context.
	rangeMax = 64 << 20

	capability = "security.capability"
)

// file copies a regular file with all that belongs to it.
func (j *job) file(ctx context.Context, p pair, info *source.Info, name string) error {
	srcName := join(p.srcPath, info.Name)
	src, err := openFile(int(p.src.Fd()), info.Name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	runtime.KeepAlive(p.src)
	if err != nil {
		return changed(srcName, &fs.PathError{Op: "open", Path: srcName, Err: err})
	}
	defer unix.Close(src)
	var st unix.Stat_t
	if err := j.from.Fstat(src, &st); err != nil {
		return err
	}
	if !source.Same(&info.Stat, &st) && !grown(info, &st) {
		return &source.ChangedError{Path: srcName}
	}
	dst := -1
	err = place(p.dst, name, join(p.dstPath, name), func() (err error) {
		dst, err = openFile(int(p.dst.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	st.Size = info.Stat.Size // as long as it was
	err = j.content(ctx, dst, src, &st)
	if err == nil {
		err = j.fileMetadata(dst, src, p, info)
	}
	if err == nil && st.Size > 0 {
		var ok bool
		if ok, err = j.isCopy(ctx, dst, src, info); err == nil && !ok {
			err = &source.ChangedError{Path: srcName}
		}
	}
	if err2 := unix.Close(dst); err == nil {
		err = err2
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &source.ChangedError{Path: srcName}
	}
	return err
}

// grown says whether now is the state of a file that can be copied as it was when it was digested, although it was written to since: what
// was digested had no attributes, so none are copied.
func grown(info *source.Info, now *unix.Stat_t) bool {
	return info.NoXattr && info.Sum != source.Digest{} && source.Grown(&info.Stat, now)
}

// isCopy says whether the file dst has what the tree saw of src: for sure if src is the same still. If it grew meanwhile, as the log of the
// very build does, the bytes of the copy tell.
func (j *job) isCopy(ctx context.Context, dst, src int, info *source.Info) (bool, error) {
	var now unix.Stat_t
	if err := j.from.Fstat(src, &now); err != nil || source.Same(&info.Stat, &now) {
		return err == nil, err
	}
	if !grown(info, &now) {
		return false, nil
	}
	if _, err := unix.Seek(dst, 0, io.SeekStart); err != nil {
		return false, err
	}
	h := sha256.New()
	buf := j.buffers.Get().(*[]byte)
	defer j.buffers.Put(buf)
	for {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		k, err := unix.Read(dst, *buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, err
		}
		if k == 0 {
			return source.Digest(h.Sum(nil)) == info.Sum, nil
		}
		_, _ = h.Write((*buf)[:k]) // never fails
	}
}

func openFile(dir int, name string, flag int, perm uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flag|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// content copies the bytes of src to the empty file dst, holes as holes.
func (j *job) content(ctx context.Context, dst, src int, st *unix.Stat_t) error {
	if st.Size == 0 {
		return nil
	}
	if st.Blocks*512 >= st.Size {
		return j.bytes(ctx, dst, src, st.Size)
	}
	for at := int64(0); at < st.Size; {
		data, err := unix.Seek(src, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // only a hole is left
		}
		if err == unix.EINVAL && at == 0 {
			return j.bytes(ctx, dst, src, st.Size) // the file system does not tell
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(src, data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		end = min(end, st.Size)
		if _, err := unix.Seek(src, data, io.SeekStart); err != nil {
			return err
		}
		if _, err := unix.Seek(dst, data, io.SeekStart); err != nil {
			return err
		}
		if err := j.bytes(ctx, dst, src, end-data); err != nil {
			return err
		}
		at = end
	}
	return unix.Ftruncate(dst, st.Size)
}

// bytes copies n bytes from where the files stand, sharing the blocks where the file system can.
// A source that ends early is io.ErrUnexpectedEOF.
func (j *job) bytes(ctx context.Context, dst, src int, n int64) error {
	for n >= rangeSize {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		k, err := unix.CopyFileRange(src, nil, dst, nil, int(min(n, rangeMax)), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || k == 0 {
			break // not between these file systems; writing tells other errors
		}
		n -= int64(k)
	}
	buf := j.buffers.Get().(*[]byte)
	defer j.buffers.Put(buf)
	for n > 0 {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		k, err := unix.Read(src, (*buf)[:min(n, int64(len(*buf)))])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if k == 0 {
			return io.ErrUnexpectedEOF
		}
		if err := writeAll(dst, (*buf)[:k]); err != nil {
			return err
		}
		n -= int64(k)
	}
	return nil
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		k, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[k:]
	}
	return nil
}

// fileMetadata gives an open file, just made, owner, mode, attributes and times, in this order: each can
// undo what comes after it.
func (j *job) fileMetadata(dst, src int, p pair, info *source.Info) error {
	uid, gid := j.owner(info)
	if !j.owners.Records() {
		if err := j.owners.SetFile(dst, uid, gid, int(j.mode(info))); err != nil {
			return err
		}
	}
	if !info.NoXattr {
		if err := j.copyFileXattrs(dst, src, p, info); err != nil {
			return err
		}
	}
	if j.owners.Records() { // last, as it may take away the right to write
		if err := j.owners.SetFile(dst, uid, gid, int(j.mode(info))); err != nil {
			return err
		}
	} else if j.opt.UserXattr && info.Stat.Size == 0 && !info.NoXattr {
		over, err := j.overridden(p, info)
		if err == nil && over != "" {
			err = unix.Fsetxattr(dst, rootfs.OverrideStat, []byte(over), 0)
		}
		if err != nil {
			return err
		}
	}
	return futimes(dst, j.time(info))
}

func futimes(fd int, t unix.Timespec) error {
	return unix.UtimesNanoAt(fd, "", []unix.Timespec{t, t}, unix.AT_EMPTY_PATH)
}

// copyFileXattrs copies the extended attributes that belong to an image.
func (j *job) copyFileXattrs(dst, src int, p pair, info *source.Info) error {
	size, err := unix.Flistxattr(src, nil)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && size == 0 {
		return nil
	}
	names, err := j.from.ListXattr(p.src, info.Name)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !source.KeepXattr(name) || name == rootfs.OverrideStat || name == capability && j.noCapability() {
			continue
		}
		value, err := j.from.GetXattr(p.src, info.Name, name)
		if err != nil {
			return err
		}
		if err := j.owners.SetFileXattr(dst, name, value); err != nil {
			return fmt.Errorf("setting the extended attribute %s: %w", name, err)
		}
	}
	return nil
}

// noCapability says that file capabilities can neither be set nor recorded: a plain user writes an image's files into a folder.
func (c *copier) noCapability() bool { return c.from.Unprivileged() && !c.owners.Records() }

// metadata gives an entry that is no regular file in the source owner, mode, attributes and times.
func (j *job) metadata(p pair, info *source.Info, name string) error {
	uid, gid := j.owner(info)
	mode := int(j.mode(info))
	if info.Type == unix.DT_LNK {
		mode = -1
	}
	if err := j.owners.Set(p.dst, name, uid, gid, mode); err != nil {
		return err
	}
	if info.Type == unix.DT_DIR && !info.NoXattr {
		names, err := j.from.ListXattr(p.src, info.Name)
		if err != nil {
			return err
		}
		for _, x := range names {
			if !source.KeepXattr(x) || x == rootfs.OverrideStat {
				continue
			}
			value, err := j.from.GetXattr(p.src, info.Name, x)
			if err != nil {
				return err
			}
			if err := j.owners.SetXattr(p.dst, name, x, value); err != nil {
				return err
			}
		}
	}
	t := j.time(info)
	return rootfs.Utimes(p.dst, name, t, t)
}

// owner is what the copy of an entry belongs to.
func (c *copier) owner(info *source.Info) (uid, gid int) {
	if c.opt.Owner != nil {
		return c.opt.Owner.UID, c.opt.Owner.GID
	}
	return int(info.Stat.Uid), int(info.Stat.Gid)
}

// mode is the permission bits of the copy of an entry.
func (c *copier) mode(info *source.Info) uint32 {
	return c.perm(info.Stat.Mode&0o7777, info.Type == unix.DT_DIR)
}

// override is the user.containers.override_stat of a file that stands for a device, in the format of
// containers/storage.
func (c *copier) override(info *source.Info) string {
	uid, gid := c.owner(info)
	kind := "char"
	if info.Stat.Mode&unix.S_IFMT == unix.S_IFBLK {
		kind = "block"
	}
	return fmt.Sprintf("%d:%d:%o:%s-%d-%d", uid, gid, c.mode(info), kind, unix.Major(info.Stat.Rdev), unix.Minor(info.Stat.Rdev))
}

// overridden is the attribute for the copy of an empty file that stands for something else; empty for one that does not.
func (c *copier) overridden(p pair, info *source.Info) (string, error) {
	value, err := rootfs.GetXattr(p.src, info.Name, rootfs.OverrideStat)
	if err != nil || len(value) == 0 {
		return "", err
	}
	part := strings.SplitN(strings.TrimRight(string(value), "\x00"), ":", 4)
	if len(part) < 3 {
		return "", nil
	}
	if c.opt.Owner != nil {
		part[0], part[1] = fmt.Sprint(c.opt.Owner.UID), fmt.Sprint(c.opt.Owner.GID)
	}
	if perm, err := strconv.ParseUint(part[2], 8, 32); err == nil && c.opt.Mode != nil {
		part[2] = fmt.Sprintf("%o", c.perm(uint32(perm)&0o7777, false))
	}
	return strings.Join(part, ":"), nil
}
