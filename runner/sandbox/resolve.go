package sandbox

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/supervisor"
)

// made is a mount point that did not exist before: it is removed after the step. The times of
// the directory that it is in do not tell.
type made struct {
	parent int // O_PATH
	name   string
	dir    bool
}

// inRoot opens name as seen from inside the root: no symlink leads out, no magic link (/proc/1/root) leads anywhere.
func (b *box) inRoot(name string, flags, resolve uint64) (int, error) {
	return openIn(b.root, name, &unix.OpenHow{
		Flags:   unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	})
}

// openIn is openat2, again when the kernel cannot tell what ".." is since something on the machine is being renamed.
func openIn(dir int, name string, how *unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(dir, name, how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// point opens the mount point name, following symlinks inside the root, and makes it if it is missing: a
// directory or an empty file.
func (b *box) point(name string, dir bool) (int, error) {
	fd, err := b.inRoot(name, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) {
		if err = b.makePoint(name, dir); err == nil {
			fd, err = b.inRoot(name, unix.O_PATH, 0)
		}
	}
	if err != nil {
		return -1, fmt.Errorf("mount point %s: %w", name, err)
	}
	return fd, nil
}

// makePoint makes what is missing of name. It walks by itself, because the end of a dangling symlink
// (/etc/resolv.conf → ../run/systemd/resolve/stub-resolv.conf) is what must be made.
func (b *box) makePoint(name string, dir bool) error {
	todo := strings.Split(name, "/")
	cur := "/"
	for links := 0; len(todo) > 0; {
		c := todo[0]
		todo = todo[1:]
		if c == "" || c == "." {
			continue
		}
		if c == ".." {
			cur = path.Dir(cur)
			continue
		}
		next := path.Join(cur, c)
		fd, err := b.inRoot(next, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			if err := b.makeOne(cur, c, dir || rest(todo)); err != nil {
				return err
			}
			cur = next
			continue
		}
		if err != nil {
			return err
		}
		target, isLink, err := supervisor.ReadLink(fd)
		unix.Close(fd)
		if err != nil {
			return err
		}
		if !isLink {
			cur = next
			continue
		}
		if links++; links > 40 {
			return unix.ELOOP
		}
		if path.IsAbs(target) {
			cur = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return nil
}

// rest says whether anything but dots and empty names is left to walk.
func rest(todo []string) bool {
	for _, c := range todo {
		if c != "" && c != "." {
			return true
		}
	}
	return false
}

// makeOne makes c, a directory or an empty file, in the existing directory dir and notes it if that is the root's.
func (b *box) makeOne(dir, c string, isDir bool) error {
	fd, err := b.inRoot(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if isDir {
		err = unix.Mkdirat(fd, c, 0o755)
	} else {
		var f int
		if f, err = unix.Openat(fd, c, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o755); err == nil {
			unix.Close(f)
		}
	}
	if err != nil {
		return err
	}
	// In a bind or a cache mount they stay, as with BuildKit and Docker: it is not for the box to say what others see there.
	if st.Dev != b.rootDev || b.mountedOn(dir, fd) {
		unix.Close(fd)
		return nil
	}
	b.made = append(b.made, made{parent: fd, name: c, dir: isDir})
	return utimes(fd, []unix.Timespec{st.Atim, st.Mtim})
}

// mountedOn says whether the existing directory dir, which is open as opened, is on another mount than the root, or in what is put in a mount's place. Where
// the root is a copy, a cache may be on the same file system.
func (b *box) mountedOn(dir string, opened int) bool {
	if b.Chroot {
		at, err := b.pathOf(opened)
		return err == nil && slices.ContainsFunc(b.placed, func(p placed) bool { return at == p.at || under(at, p.at) })
	}
	fd, err := b.inRoot(dir, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
	if err == nil {
		unix.Close(fd)
	}
	return errors.Is(err, unix.EXDEV)
}

// giveUser makes the directories that were made after the first n the user's.
func (b *box) giveUser(n int) error {
	if b.who.UID == 0 && b.who.GID == 0 {
		return nil
	}
	for _, m := range b.made[n:] {
		fd, err := unix.Openat(m.parent, m.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = b.give(fd, Mount{UID: int(b.who.UID), GID: int(b.who.GID), Mode: 0o755})
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// keep lets the mount points stay that were made after the first n.
func (b *box) keep(n int) {
	for _, m := range b.made[n:] {
		unix.Close(m.parent)
	}
	b.made = b.made[:n]
}

// cleanup removes the mount points that were made.
// Preconditions: the step is dead, and with it all that could use them. What the
// step has put into them stays: then it is not a mount point any more.
func (b *box) cleanup() {
	if len(b.made) == 0 {
		return
	}
	_ = unix.Chdir("/")
	for i := len(b.mounted) - 1; i >= 0; i-- {
		_ = unix.Unmount(b.mounted[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	for i := len(b.made) - 1; i >= 0; i-- {
		b.made[i].remove()
		unix.Close(b.made[i].parent)
	}
	b.made = nil
}

func (m made) remove() {
	var dir unix.Stat_t
	if err := unix.Fstat(m.parent, &dir); err != nil {
		return
	}
	flags := 0
	if m.dir {
		flags = unix.AT_REMOVEDIR
	} else {
		var st unix.Stat_t
		if err := unix.Fstatat(m.parent, m.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Size != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return
		}
	}
	if err := unix.Unlinkat(m.parent, m.name, flags); err != nil {
		return
	}
	// An O_PATH descriptor is good for AT_EMPTY_PATH only.
	_ = utimes(m.parent, []unix.Timespec{dir.Atim, dir.Mtim})
}
