package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

const (
	// maxName bounds the names in a tar, in bytes. Linux takes 4 KiB at once; deeper trees exist, but not endless ones.
	maxName = 32 << 10
	// maxID is the largest user or group id; the next means "none".
	maxID = 1<<32 - 2
)

// Apply unpacks the tar r into root. Entries that try to leave the root, or
// that the tar's own symbolic links lead elsewhere, stay inside; malformed ones
// are an error. It reads r to its end.
//
// An existing directory is kept under a directory entry, with the entry's mode,
// owner and time; everything else is replaced. Missing parents are made with mode 0755, owner
// 0:0 (or Owner) and the time of the entry that needs them. In a layer an entry for the
// root directory sets its mode and owner, in Form Plain it is ignored, as BuildKit does.
// An attribute that belongs to the layer and cannot be set is an error, so is an owner that the user
// namespace does not have, and so is more than the whole disk could hold. After an error, what was unpacked so far is left for the caller to remove.
func Apply(ctx context.Context, root *rootfs.Root, r io.Reader, opt Options) error {
	owners := opt.owners(root)
	if opt.RecordOwners = owners.Records(); opt.RecordOwners {
		root = root.With(owners)
	}
	if opt.Dir != "" {
		owner := Owner{}
		if opt.Owner != nil {
			owner = *opt.Owner
		}
		if _, err := root.MkdirAll(opt.Dir, 0o755, owner.UID, owner.GID); err != nil {
			return err
		}
		dir, err := root.OpenFile(opt.Dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		root = rootfs.FromFile(dir).With(owners)
		defer root.Close() // nothing was written through it
	}
	u := &unpacker{root: root, opt: opt, owners: owners, room: roomOn(root), buf: make([]byte, 256<<10)}
	defer u.leave()
	r = bufio.NewReaderSize(&roomReader{r, u.room}, 64<<10) // headers are read one by one
	tr := tar.NewReader(r)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading tar: %w", err)
		}
		if err := u.entry(ctx, hdr, tr); err != nil {
			return fmt.Errorf("unpacking %.200q: %w", hdr.Name, err)
		}
	}
	if err := u.flush(); err != nil {
		return err
	}
	if _, err := copyAll(ctx, io.Discard, r, u.buf); err != nil {
		return fmt.Errorf("reading tar: %w", err)
	}
	return nil
}

// unpacker is the state of one Apply.
type unpacker struct {
	root   *rootfs.Root
	opt    Options
	owners *rootfs.Owners
	// dir is the directory of the entry before, which is often that of the next one
	// too. What removes or replaces something makes it stale.
	dir     *os.File
	dirName string
	times   dirTimes
	room    room // for the content of files, holes included
	// marks says that there are whiteouts in Form Marked, which what is made takes the place of.
	marks bool
	buf   []byte
}

// entry unpacks one entry.
func (u *unpacker) entry(ctx context.Context, hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil // about the archive, not about a file
	}
	if len(hdr.Name) > maxName || len(hdr.Linkname) > maxName {
		return errors.New("the name is too long")
	}
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) > maxID || int64(hdr.Gid) > maxID {
		return fmt.Errorf("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	if u.opt.Owner != nil {
		hdr.Uid, hdr.Gid = u.opt.Owner.UID, u.opt.Owner.GID
	}
	if u.times.full() {
		if err := u.flush(); err != nil {
			return err
		}
	}
	name := strings.TrimPrefix(path.Clean("/"+hdr.Name), "/")
	if name == "" {
		return u.rootEntry(hdr)
	}
	if u.opt.Form != Plain && strings.Contains("/"+name, "/"+whiteoutPrefix) {
		return u.whiteout(hdr, name)
	}
	dir, err := u.parent(path.Dir(name), hdr)
	if err != nil {
		return err
	}
	e := entry{dir: dir, base: path.Base(name), name: name, hdr: hdr}
	if u.owners.Hides(e.base) {
		return errors.New("the name is reserved where owners are recorded")
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return u.directory(e)
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse: //nolint:staticcheck // old archives hold TypeRegA
		return u.file(ctx, e, r)
	case tar.TypeSymlink:
		return u.symlink(e)
	case tar.TypeLink:
		return u.hardLink(e)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.node(e)
	}
	return fmt.Errorf("entries of type %q are not supported", hdr.Typeflag)
}

// rootEntry is an entry for the root directory itself.
func (u *unpacker) rootEntry(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return errors.New("the root directory cannot be replaced")
	}
	if u.opt.Form == Plain {
		return nil
	}
	u.times.set(".", mtime(hdr))
	return u.metadata(entry{dir: u.root.File(), base: ".", name: ".", hdr: hdr})
}

// parent opens the directory name, making what is missing of it.
func (u *unpacker) parent(name string, hdr *tar.Header) (*os.File, error) {
	if u.dir != nil && u.dirName == name {
		return u.dir, nil
	}
	u.leave()
	dir, err := u.root.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		dir, err = u.imply(name, hdr)
	}
	if err != nil {
		return nil, err
	}
	u.dir, u.dirName = dir, name
	return dir, u.enter(int(dir.Fd()), name)
}

// leave closes the directory that parent remembers.
func (u *unpacker) leave() {
	if u.dir != nil {
		_ = u.dir.Close()
	}
	u.dir = nil
}

// imply makes the missing components of the directory name and opens it. hdr is the entry that needs it.
func (u *unpacker) imply(name string, hdr *tar.Header) (_ *os.File, err error) {
	dir, err := u.root.OpenFile(".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	done := ""
	for base := range strings.SplitSeq(name, "/") {
		done = path.Join(done, base)
		next, err := u.implyOne(dir, base, done, hdr)
		_ = dir.Close()
		if err != nil {
			return nil, err
		}
		dir = next
	}
	return dir, nil
}

// implyOne opens the directory base in dir, which is called name, or makes it.
func (u *unpacker) implyOne(dir *os.File, base, name string, hdr *tar.Header) (*os.File, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY
	next, err := rootfs.OpenEntry(dir, base, flags)
	if err == nil {
		return next, nil
	}
	e := entry{dir: dir, base: base, name: name, hdr: &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: hdr.ModTime}}
	if u.opt.Implied != nil {
		e.hdr.Uid, e.hdr.Gid = u.opt.Implied.UID, u.opt.Implied.GID
	}
	if errors.Is(err, fs.ErrNotExist) {
		err := u.enter(int(dir.Fd()), path.Dir(name))
		if err == nil && u.opt.Form == Plain {
			err = u.inherit(e)
		}
		if err == nil {
			err = u.directory(e)
		}
		if err != nil {
			return nil, err
		}
		return rootfs.OpenEntry(dir, base, flags)
	}
	if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		return nil, err
	}
	st, err := rootfs.StatEntry(dir, base)
	if err != nil {
		return nil, err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return u.throughLink(name, hdr)
	case u.opt.Form == Overlay && IsWhiteout(&st):
		if err := u.directory(e); err != nil {
			return nil, err
		}
		return rootfs.OpenEntry(dir, base, flags)
	}
	return nil, fmt.Errorf("%s is not a directory", name)
}

// inherit gives a directory that is to be made in one with the set-group-ID bit that bit, as mkdir(2) does.
func (u *unpacker) inherit(e entry) error {
	parent, err := u.owners.StatEntry(e.dir, ".")
	e.hdr.Mode |= int64(parent.Mode & unix.S_ISGID)
	return err
}

// throughLink opens the directory that the symbolic link name leads to. In a
// layer its target may be in a layer below, and is made here then. In a tree
// a dangling link is an error, as in BuildKit.
func (u *unpacker) throughLink(name string, hdr *tar.Header) (*os.File, error) {
	dir, err := u.root.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if !errors.Is(err, fs.ErrNotExist) || u.opt.Form == Plain {
		return dir, err
	}
	target, err := u.root.Resolve(name)
	if err != nil {
		return nil, err
	}
	return u.imply(target, hdr)
}

// whiteout does what an entry says whose name has a component with the prefix ".wh.".
// By layer.md it is about the layers below only, wherever in the tar it stands.
func (u *unpacker) whiteout(hdr *tar.Header, name string) error {
	dirName, base := path.Dir(name), path.Base(name)
	if base != opaqueName && strings.Contains("/"+name, "/"+metaPrefix) {
		return nil
	}
	if strings.Contains("/"+dirName, "/"+whiteoutPrefix) {
		return errors.New("a whiteout has nothing below it")
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return errors.New("the whiteout names nothing")
	}
	dir, err := u.parent(dirName, hdr)
	if err != nil {
		return err
	}
	if base == opaqueName {
		return u.opaque(entry{dir: dir, base: ".", name: dirName})
	}
	e := entry{dir: dir, base: hidden, name: path.Join(dirName, hidden)}
	if u.opt.Form == Marked {
		return u.markHidden(e)
	}
	err = rootfs.Mknod(dir, hidden, unix.S_IFCHR, 0)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	st, err := rootfs.StatEntry(dir, hidden)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return u.opaque(e)
	}
	return err // what is no directory hides what is below anyway
}

// opaque marks a directory so that nothing of the layers below shows in it.
func (u *unpacker) opaque(e entry) error {
	if u.opt.Form == Marked {
		return u.markOpaque(e)
	}
	return rootfs.SetXattr(e.dir, e.base, u.opt.OpaqueXattr(), []byte("y"))
}

// copyAll copies r to w until its end or that of ctx.
func copyAll(ctx context.Context, w io.Writer, r io.Reader, buf []byte) (int64, error) {
	var total int64
	for {
		if err := context.Cause(ctx); err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return total, err
			}
			total += int64(n)
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
