package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// The functions of this file work on an entry: the thing called base in the open
// directory dir (O_PATH is enough). base is one component; if it is a
// symbolic link it is never followed. Those that neither make nor remove the entry
// take "." for dir itself. Modes are not subject to the umask.

// StatEntry describes the entry.
func StatEntry(dir *os.File, base string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := on("lstat", dir, base, func(fd int) error {
		return unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st, err
}

// OpenEntry opens the entry with the flags of open(2); O_NOFOLLOW and O_CLOEXEC are
// added. A symbolic link is the error ELOOP, but with O_PATH.
func OpenEntry(dir *os.File, base string, flag int) (*os.File, error) {
	return openEntry(dir, base, flag, 0)
}

func openEntry(dir *os.File, base string, flag int, perm uint32) (*os.File, error) {
	fd, err := openFD(dir, base, flag, perm)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), base), nil
}

// OpenFD is OpenEntry for those who open very many files: it returns the bare
// descriptor, which spares what os.File does with each (four system calls with O_NONBLOCK).
func OpenFD(dir *os.File, base string, flag int) (int, error) { return openFD(dir, base, flag, 0) }

func openFD(dir *os.File, base string, flag int, perm uint32) (opened int, err error) {
	err = on("open", dir, base, func(fd int) (err error) {
		opened, err = openat(fd, base, flag|unix.O_NOFOLLOW, perm)
		return err
	})
	return opened, err
}

// CreateEntry makes an empty regular file, open for reading and writing. What exists is an error (fs.ErrExist).
func CreateEntry(dir *os.File, base string, perm uint32) (*os.File, error) {
	f, err := openEntry(dir, base, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, perm&0o777)
	if err != nil {
		return nil, err
	}
	if err := unix.Fchmod(int(f.Fd()), perm); err != nil {
		_ = f.Close()
		return nil, &fs.PathError{Op: "chmod", Path: base, Err: err}
	}
	return f, nil
}

// CreateFD makes an empty regular file for writing, as CreateEntry, but returns the bare descriptor, and the umask
// applies to perm: for those who make very many files, and look at the mode anyway.
func CreateFD(dir *os.File, base string, perm uint32) (int, error) {
	return openFD(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, perm&0o777)
}

// Mkdir makes a directory. What exists is an error (fs.ErrExist).
func Mkdir(dir *os.File, base string, perm uint32) error {
	if err := mkdirat(dir, base, perm&0o777); err != nil {
		return err
	}
	return Chmod(dir, base, perm)
}

// MkdirMasked is Mkdir whose perm the umask applies to: for those who look at the mode anyway.
func MkdirMasked(dir *os.File, base string, perm uint32) error { return mkdirat(dir, base, perm&0o777) }

func mkdirat(dir *os.File, base string, perm uint32) error {
	return onChild("mkdir", dir, base, func(fd int) error { return unix.Mkdirat(fd, base, perm) })
}

// Symlink makes a symbolic link to target.
func Symlink(target string, dir *os.File, base string) error {
	return onChild("symlink", dir, base, func(fd int) error { return unix.Symlinkat(target, fd, base) })
}

// Mknod makes a device, fifo or socket: mode holds the type (unix.S_IFCHR, …) and the permissions.
func Mknod(dir *os.File, base string, mode uint32, dev uint64) error {
	err := onChild("mknod", dir, base, func(fd int) error { return unix.Mknodat(fd, base, mode, int(dev)) })
	if err != nil || mode&0o7777 == 0 {
		return err // the umask cannot take anything from 0
	}
	return Chmod(dir, base, mode)
}

// Link makes a hard link to an entry; a symbolic link is linked itself.
func Link(oldDir *os.File, oldBase string, dir *os.File, base string) error {
	if err := checkBase(oldBase); err != nil {
		return &fs.PathError{Op: "link", Path: oldBase, Err: err}
	}
	return onChild("link", dir, base, func(fd int) error {
		return unix.Linkat(int(oldDir.Fd()), oldBase, fd, base, 0)
	})
}

// Remove removes the entry: a file, or an empty directory.
func Remove(dir *os.File, base string) error {
	err := onChild("remove", dir, base, func(fd int) error { return unix.Unlinkat(fd, base, 0) })
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	return onChild("remove", dir, base, func(fd int) error { return unix.Unlinkat(fd, base, unix.AT_REMOVEDIR) })
}

// Chown sets the owner; -1 keeps an id. The kernel may clear set-id bits and
// capabilities, so it comes before Chmod and SetXattr.
func Chown(dir *os.File, base string, uid, gid int) error {
	return on("chown", dir, base, func(fd int) error {
		return explainOwner(unix.Fchownat(fd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW), uid, gid)
	})
}

// explainOwner says what is wrong with an owner that a user namespace does not have.
func explainOwner(err error, uid, gid int) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("the owner %d:%d is outside the subordinate id range (see /etc/subuid and /etc/subgid): %w", uid, gid, err)
	}
	return err
}

// Chmod sets the mode, set-id and sticky bits included. A symbolic link, which has none, is an error.
func Chmod(dir *os.File, base string, mode uint32) error {
	return on("chmod", dir, base, func(fd int) error {
		mode := mode & 0o7777
		err := unix.Fchmodat(fd, base, mode, unix.AT_SYMLINK_NOFOLLOW)
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
			return err
		}
		// A kernel without fchmodat2 (Linux 6.6), or a link, which chmod through /proc refuses too.
		entry, err := openat(fd, base, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(entry) // nothing was written
		return unix.Chmod(procPath(entry, ""), mode)
	})
}

// Utimes sets the access and modification times. Nsec may be unix.UTIME_OMIT to keep
// one, or unix.UTIME_NOW.
func Utimes(dir *os.File, base string, atime, mtime unix.Timespec) error {
	return on("utimes", dir, base, func(fd int) error {
		return unix.UtimesNanoAt(fd, base, []unix.Timespec{atime, mtime}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// ReadlinkEntry returns the target of the symbolic link.
func ReadlinkEntry(dir *os.File, base string) (string, error) {
	var target string
	err := on("readlink", dir, base, func(fd int) (err error) {
		target, err = readlinkat(fd, base)
		return err
	})
	return target, err
}

// RemoveAll removes the entry and what is below it. An entry that does not exist is no error.
func RemoveAll(dir *os.File, base string) error {
	var l Lister
	return l.removeAll(dir, Entry{Name: base, Type: unix.DT_UNKNOWN})
}

// removeAll removes the entry e of dir with everything below it.
func (l *Lister) removeAll(dir *os.File, e Entry) error {
	err := remove(dir, e)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	sub, err := OpenEntry(dir, e.Name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer sub.Close() // only read
	// Another process may add entries meanwhile, but not for ever.
	for range 8 {
		entries, err := l.ReadDir(sub)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := l.removeAll(sub, e); err != nil {
				return err
			}
		}
		if err = remove(dir, e); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return &fs.PathError{Op: "remove", Path: e.Name, Err: unix.ENOTEMPTY}
}

// remove is Remove for an entry whose type may be known.
func remove(dir *os.File, e Entry) error {
	if e.Type == unix.DT_DIR {
		err := onChild("remove", dir, e.Name, func(fd int) error { return unix.Unlinkat(fd, e.Name, unix.AT_REMOVEDIR) })
		if !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
	return Remove(dir, e.Name)
}

// procPath names base in the directory fd for calls that have no *at form. The last
// component is the only one that is looked up, so the l-variants follow nothing.
func procPath(fd int, base string) string {
	p := "/proc/self/fd/" + strconv.Itoa(fd)
	if base != "" {
		p += "/" + base
	}
	return p
}
