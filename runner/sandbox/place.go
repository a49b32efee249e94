package sandbox

import (
	"errors"
	"fmt"
	"path"
	"strconv"

	"golang.org/x/sys/unix"
)

// placed is something that takes the place of a name in the tree for as long as the step runs: what a mount is on other rungs. It was
// exchanged, at once, with what was there, and is exchanged again at the end. No name is ever missing.
type placed struct {
	fd        int // of what was put there, O_PATH
	parent    int // where, O_PATH
	name      string
	at        string // the whole path
	other     int    // where the two are exchanged with: Config.Aside, or the home of a cache
	otherName string
	home      bool // what was put there is to come back whatever the step did
}

// errEnded says that the step is not wanted any more.
var errEnded = errors.New("the sandbox has been ended")

// place exchanges otherName in other with the name target in the tree, which is made if it is missing. For a directory that must come
// back whatever the step does, home is its path outside.
func (b *box) place(target string, other int, otherName, home string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(other, otherName, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	at, err := b.spot(target, isDir)
	if err != nil {
		return err
	}
	p := placed{name: path.Base(at), at: at, other: other, otherName: otherName, home: home != ""}
	if p.parent, err = b.inRoot(path.Dir(at), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS); err != nil {
		return err
	}
	if p.fd, err = unix.Openat(other, otherName, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if p.home {
		// What will be at the cache's name meanwhile is nobody's cache: who finds it waits for this process's end.
		if err := b.lockPoint(&p); err != nil {
			return fmt.Errorf("locking the mount point: %w", err)
		}
		if err := b.remember(Moved{Home: home, Tree: b.Root.Upper, At: at, Dev: st.Dev, Ino: st.Ino}); err != nil {
			return err
		}
	}
	if err := p.exchange(); err != nil {
		return err
	}
	b.placed = append(b.placed, p)
	return nil
}

// lockPoint locks the directory where p will be put, for as long as this process lives. Who waited for what has been there before may have the lock for
// a moment still.
func (b *box) lockPoint(p *placed) error {
	for _, earlier := range b.placed {
		if is(p.parent, p.name, earlier.fd) {
			return fmt.Errorf("isolation chroot: another directory that can be written is mounted at %s", p.at)
		}
	}
	_, err := b.lockAt(p.parent, p.name, unix.LOCK_EX)
	return err
}

// spot finds the path of target in the tree, its links resolved. It must be of the kind that will be put there.
func (b *box) spot(target string, isDir bool) (string, error) {
	fd, err := b.point(target, isDir)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	at, err := b.pathOf(fd)
	if err != nil {
		return "", fmt.Errorf("mount point %s: %w", target, err)
	}
	for _, top := range []string{"/proc", "/sys", "/dev"} {
		served := at == top || under(at, top) && top != "/dev" // the box's /dev is a directory as any other
		if at == "/" || served && path.Clean(target) != top {
			return "", fmt.Errorf("nothing can be put over %s without mounts", at)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if isDir != (st.Mode&unix.S_IFMT == unix.S_IFDIR) {
		return "", fmt.Errorf("the source and the mount point must both be directories or both files: %w", unix.ENOTDIR)
	}
	return at, nil
}

// exchange swaps the two. The times of the directory in the tree stay what they are.
func (p *placed) exchange() error {
	var st unix.Stat_t
	if err := unix.Fstat(p.parent, &st); err != nil {
		return err
	}
	err := unix.Renameat2(p.other, p.otherName, p.parent, p.name, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("%w: what is mounted must be on the file system of the layers: keep the whole store on one", err)
	}
	if err != nil {
		return err
	}
	return utimes(p.parent, []unix.Timespec{st.Atim, st.Mtim})
}

// is says whether name in dir is the file that fd is.
func is(dir int, name string, fd int) bool {
	var a, b unix.Stat_t
	return unix.Fstatat(dir, name, &a, unix.AT_SYMLINK_NOFOLLOW) == nil && unix.Fstat(fd, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// putBack undoes all that place did, the last first.
// Preconditions: the step is dead.
func (b *box) putBack() error {
	var first error
	for i := len(b.placed) - 1; i >= 0; i-- {
		p := &b.placed[i]
		if err := b.restore(p, i); err != nil && first == nil {
			first = fmt.Errorf("putting %s back: %w", p.name, err)
		}
		unix.Close(p.fd)
		unix.Close(p.parent)
	}
	b.placed = nil
	return first
}

func (b *box) restore(p *placed, number int) error {
	if is(p.parent, p.name, p.fd) {
		return p.exchange()
	}
	// The step has moved or removed what it was given, as it cannot with a mount. What it has put there instead is not kept.
	if err := b.discard(p.parent, p.name, "instead-"+strconv.Itoa(number)); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if !p.home {
		if at, parent, ok := b.find(p.fd); ok { // it must not come into the layer
			err := b.discard(parent, path.Base(at), "moved-"+strconv.Itoa(number))
			unix.Close(parent)
			if err != nil {
				return err
			}
		}
		return b.back(p)
	}
	// Bring it to a place that is there, and exchange from there.
	lost := "lost-" + strconv.Itoa(number)
	if at, parent, ok := b.find(p.fd); ok {
		err := unix.Renameat(parent, path.Base(at), b.aside, lost)
		unix.Close(parent)
		if err != nil {
			return err
		}
	} else if err := makeLike(b.aside, lost, p.fd); err != nil {
		return err
	}
	if err := unix.Renameat2(p.other, p.otherName, b.aside, lost, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	err := unix.Renameat(b.aside, lost, p.parent, p.name)
	if errors.Is(err, unix.ENOENT) {
		return nil // the directory is gone: so is what was in it
	}
	return err
}

// back moves what was in the tree to its place.
func (b *box) back(p *placed) error {
	err := unix.Renameat(p.other, p.otherName, p.parent, p.name)
	if errors.Is(err, unix.ENOENT) {
		return nil // the directory is gone: so is what was in it
	}
	return err
}

// discard moves a name out of the tree.
func (b *box) discard(parent int, name, as string) error {
	return unix.Renameat(parent, name, b.aside, as)
}

// find looks for fd in the tree, and opens its directory.
func (b *box) find(fd int) (at string, parent int, ok bool) {
	at, err := b.pathOf(fd)
	if err != nil || at == "/" {
		return "", -1, false
	}
	if parent, err = b.inRoot(path.Dir(at), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS); err != nil {
		return "", -1, false
	}
	if !is(parent, path.Base(at), fd) {
		unix.Close(parent)
		return "", -1, false
	}
	return at, parent, true
}

// makeLike makes an empty directory with the owner and mode of the removed one that fd is.
func makeLike(dir int, name string, fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return makeDir(dir, name, st.Mode&0o7777, int(st.Uid), int(st.Gid))
}

// makeDir makes a directory.
func makeDir(dir int, name string, mode uint32, uid, gid int) error {
	if err := unix.Mkdirat(dir, name, 0o700); err != nil {
		return err
	}
	if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Fchmodat(dir, name, mode, 0)
}
