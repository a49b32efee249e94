// Package rootfs does file operations inside a root directory.
//
// Every name given to a Root is looked up as a process would that has the
// directory as its "/": absolute symbolic links, "..", and links that somebody
// swaps while the lookup runs all stay inside (openat2 with RESOLVE_IN_ROOT).
// It is the only package that turns names from Dockerfiles, archives and images
// into system calls.
//
// What a Root cannot say by name is done on an entry: an open directory and the
// name of one thing in it, which is never followed. Root.Parent gives such a
// pair; Mkdir, Symlink, Chown and their like take it.
//
// Errors are *fs.PathError, so that errors.Is(err, fs.ErrNotExist) works.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoOpenat2 replaces ENOSYS, which tells a person nothing.
var errNoOpenat2 = fmt.Errorf("%w: openat2 (Linux 5.6 or later is needed, and no seccomp filter that hides this call)", unix.ENOSYS)

const (
	// pathMax is the longest name that the kernel takes in one call, its final 0 not counted.
	pathMax = unix.PathMax - 1
	// lookupRetries bounds how often a lookup is repeated that the kernel gave up
	// because something was renamed or mounted meanwhile (EAGAIN, openat2(2)).
	lookupRetries = 1 << 16
)

// Root is an open directory that serves as "/". Its methods may be called concurrently.
type Root struct {
	dir    *os.File
	owners *Owners // nil: the file system has them
}

// Open opens the directory dir of the host as a root.
func Open(dir string) (*Root, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &Root{dir: os.NewFile(uintptr(fd), dir)}, nil
}

// FromFile makes a root of an open directory, such as a detached mount. The Root owns f.
func FromFile(f *os.File) *Root { return &Root{dir: f} }

// With returns the same root, with owners kept as o says by its methods, and by those who ask it (Owners). Closing one closes both.
func (r *Root) With(o *Owners) *Root { return &Root{dir: r.dir, owners: o} }

// Owners is how the owners of the tree are kept.
func (r *Root) Owners() *Owners { return r.owners }

// Close releases the root.
func (r *Root) Close() error { return r.dir.Close() }

// File is the root directory itself. It may be an O_PATH descriptor (that of a
// detached mount is): to list it, open "." with OpenFile.
func (r *Root) File() *os.File { return r.dir }

// OpenFile opens name, following symbolic links inside the root. flag is as for
// open(2), O_CLOEXEC is added; perm is used only with O_CREAT (umask does not apply to it).
func (r *Root) OpenFile(name string, flag int, perm uint32) (*os.File, error) {
	fd, err := r.openFile(name, flag, perm)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openFile is open(2) inside the root. perm counts whatever the umask.
func (r *Root) openFile(name string, flag int, perm uint32) (int, error) {
	if flag&unix.O_TMPFILE == unix.O_TMPFILE {
		return r.create(name, flag, perm)
	}
	if flag&unix.O_CREAT == 0 {
		return r.open(name, flag, 0)
	}
	if flag&unix.O_EXCL != 0 {
		return r.create(name, flag, perm)
	}
	// The mode may be set only on a file that this call made, and only O_EXCL
	// tells. It does not follow a dangling link, so that is resolved first.
	for range lookupRetries {
		fd, err := r.open(name, flag&^unix.O_CREAT, 0)
		if !errors.Is(err, unix.ENOENT) {
			return fd, err
		}
		target, err := r.Resolve(name)
		if err != nil {
			return -1, errnoOf(err)
		}
		if strings.HasSuffix(name, "/") {
			return -1, unix.EISDIR
		}
		fd, err = r.create(target, flag|unix.O_EXCL, perm)
		if !errors.Is(err, unix.EEXIST) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// create opens a file that does not exist yet and gives it perm exactly.
func (r *Root) create(name string, flag int, perm uint32) (int, error) {
	fd, err := r.open(name, flag, perm)
	if err != nil {
		return -1, err
	}
	if err := unix.Fchmod(fd, perm); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// open is openat2(2) in the root. "" is the root, as "/" is.
func (r *Root) open(name string, flag int, perm uint32) (int, error) {
	if name == "" {
		name = "."
	}
	if len(name) > pathMax {
		return r.openLong(name, flag, perm)
	}
	fd, err := openat2(int(r.dir.Fd()), name, flag, perm, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	runtime.KeepAlive(r.dir)
	return fd, err
}

// openLong opens a name that is longer than the kernel takes at once, as deep
// trees have. Only what is beyond the first part is restricted: it must not hold
// symbolic links or "..".
func (r *Root) openLong(name string, flag int, perm uint32) (int, error) {
	cut := strings.LastIndexByte(name[:pathMax], '/')
	if cut <= 0 {
		return -1, unix.ENAMETOOLONG
	}
	dir, err := r.open(name[:cut], unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	rest := name[cut:]
	for {
		rest = strings.TrimLeft(rest, "/")
		resolve := uint64(unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS)
		if len(rest) <= pathMax {
			if rest == "" {
				rest = "."
			}
			fd, err := openat2(dir, rest, flag, perm, resolve)
			_ = unix.Close(dir)
			return fd, err
		}
		cut := strings.LastIndexByte(rest[:pathMax], '/')
		if cut <= 0 {
			_ = unix.Close(dir)
			return -1, unix.ENAMETOOLONG
		}
		next, err := openat2(dir, rest[:cut], unix.O_PATH|unix.O_DIRECTORY, 0, resolve)
		_ = unix.Close(dir)
		if err != nil {
			return -1, err
		}
		dir, rest = next, rest[cut:]
	}
}

// Parent opens the directory that holds name (its links followed inside the
// root) and returns it with name's last component, which is not followed. It is
// the handle for *at system calls on an entry itself. The root itself is an error.
// The directory is an O_PATH descriptor; the last component need not exist.
func (r *Root) Parent(name string) (dir *os.File, base string, err error) {
	parent, base := splitLast(name)
	if base == ".." {
		// Only a lookup can tell what this is called.
		resolved, err := r.Resolve(name)
		if err != nil {
			return nil, "", err
		}
		parent, base = splitLast(resolved)
	}
	if base == "" {
		return nil, "", &fs.PathError{Op: "parent", Path: name, Err: errors.New("is the root directory")}
	}
	fd, err := r.open(parent, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), parent), base, nil
}

// splitLast splits name before its last component, "." and slashes at the end
// dropped. The root has the base "".
func splitLast(name string) (parent, base string) {
	for {
		name = strings.TrimRight(name, "/")
		if name != "." && !strings.HasSuffix(name, "/.") {
			break
		}
		name = name[:len(name)-1]
	}
	i := strings.LastIndexByte(name, '/')
	return name[:i+1], name[i+1:]
}

// Lstat describes name without following a link in its last component.
func (r *Root) Lstat(name string) (unix.Stat_t, error) {
	parent, base := splitLast(name)
	st, err := r.stat("lstat", parent+base, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil || r.owners == nil {
		return st, err
	}
	return r.recorded(parent+base, st)
}

// Stat describes what name leads to.
func (r *Root) Stat(name string) (unix.Stat_t, error) {
	st, err := r.stat("stat", name, unix.O_PATH)
	if err != nil || r.owners == nil {
		return st, err
	}
	return r.recorded(name, st)
}

// recorded looks for what is recorded of name, whose description without that is st.
func (r *Root) recorded(name string, st unix.Stat_t) (unix.Stat_t, error) {
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		resolved, err := r.Resolve(name)
		if err != nil {
			return st, err
		}
		name = resolved
	}
	if _, base := splitLast(name); base == "" {
		return r.owners.StatEntry(r.dir, ".")
	}
	dir, base, err := r.Parent(name)
	if err != nil {
		return st, err
	}
	defer dir.Close() // nothing was written through it
	return r.owners.InDir(path.Dir(path.Clean("/" + name))[1:], dir).StatEntry(base)
}

func (r *Root) stat(op, name string, flag int) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := r.open(name, flag, 0)
	if err == nil {
		err = unix.Fstat(fd, &st)
		_ = unix.Close(fd)
	}
	if err != nil {
		return unix.Stat_t{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return st, nil
}

// Readlink returns the target of the symbolic link name.
func (r *Root) Readlink(name string) (string, error) {
	parent, base := splitLast(name)
	fd, err := r.open(parent+base, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	defer unix.Close(fd) // nothing was written
	// On a descriptor of something else than a link the kernel says ENOENT.
	target, err := readlinkat(fd, "")
	if errors.Is(err, unix.ENOENT) {
		err = unix.EINVAL
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// RemoveAll removes name and what is below it, without following links. A name
// that does not exist is no error.
func (r *Root) RemoveAll(name string) error {
	dir, base, err := r.Parent(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close() // nothing was written through it
	return RemoveAll(dir, base)
}

// MkdirAll makes the directory name and its missing parents, each with perm and
// owner, following links inside the root. What exists keeps its mode and owner.
// As with mkdir(2), a directory in one that has the set-group-ID bit gets that bit, and with the gid -1 its group.
// It returns the paths it made, outermost first, as Resolve spells them (relative to
// the root, without links); also those it made before an error. The umask does not apply.
func (r *Root) MkdirAll(name string, perm uint32, uid, gid int) ([]string, error) {
	if st, err := r.Stat(name); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil, nil
	}
	resolved, err := r.Resolve(name)
	if err != nil {
		return nil, err
	}
	var made []string
	dir, err := r.OpenFile(".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	done := ""
	for base := range strings.SplitSeq(resolved, "/") {
		done = path.Join(done, base)
		if base == "." {
			continue
		}
		next, isNew, err := r.mkdirOrOpen(dir, base, perm, ids{uid, gid})
		if isNew {
			made = append(made, done)
		}
		if err != nil {
			return made, fmt.Errorf("making directory %s: %w", done, err)
		}
		_ = dir.Close()
		dir = next
	}
	return made, nil
}

// mkdirOrOpen opens the directory base in dir, after making it if it is missing.
func (r *Root) mkdirOrOpen(dir *os.File, base string, perm uint32, id ids) (next *os.File, isNew bool, err error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW
	next, err = OpenEntry(dir, base, flags)
	if !errors.Is(err, fs.ErrNotExist) {
		return next, false, err
	}
	switch err = mkdirat(dir, base, 0o700); {
	case errors.Is(err, fs.ErrExist): // somebody else made it meanwhile
		next, err = OpenEntry(dir, base, flags)
		return next, false, err
	case err != nil:
		return nil, false, err
	}
	parent, err := r.owners.StatEntry(dir, ".")
	if err != nil {
		return nil, true, err
	}
	if parent.Mode&unix.S_ISGID != 0 {
		perm |= unix.S_ISGID
		if id.gid < 0 {
			id.gid = int(parent.Gid)
		}
	}
	if err := r.owners.Chown(dir, base, id.uid, id.gid); err != nil {
		return nil, true, err
	}
	if err := r.owners.Chmod(dir, base, perm); err != nil {
		return nil, true, err
	}
	next, err = OpenEntry(dir, base, flags)
	return next, true, err
}
