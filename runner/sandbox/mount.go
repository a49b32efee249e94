package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/supervisor"
)

const (
	noExec = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	noDev  = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
)

// option is a parameter of a new file system; an empty value is a flag.
type option struct{ key, value string }

// newFS makes a file system and returns it as a detached mount.
func newFS(kind string, attrs int, opts ...option) (int, error) {
	f, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("opening the %s file system: %w", kind, err)
	}
	defer unix.Close(f)
	for _, o := range append(opts, option{"source", kind}) {
		if o.value == "" {
			err = unix.FsconfigSetFlag(f, o.key)
		} else {
			err = unix.FsconfigSetString(f, o.key, o.value)
		}
		if err != nil {
			return -1, fsError(f, "setting "+kind+"'s "+o.key, err)
		}
	}
	if err := unix.FsconfigCreate(f); err != nil {
		return -1, fsError(f, "making a "+kind+" file system", err)
	}
	fd, err := unix.Fsmount(f, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, fsError(f, "mounting a "+kind+" file system", err)
	}
	return fd, nil
}

// cloneTree returns a detached copy of the mount that name is on, rooted at name.
func cloneTree(dir int, name string, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	return unix.OpenTree(dir, name, flags)
}

// setAttr adds attributes to a mount and all below it.
func setAttr(fd int, attrs uint64) error {
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attrs})
}

// attach puts the detached mount fd onto the opened mount point target.
func attach(fd, target int) error {
	return unix.MoveMount(fd, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// mountAt attaches fd to target and closes both.
func mountAt(fd, target int) error {
	err := attach(fd, target)
	unix.Close(fd)
	unix.Close(target)
	return err
}

// utimes sets the times of an O_PATH descriptor (utimensat with AT_EMPTY_PATH, Linux 5.8).
func utimes(fd int, times []unix.Timespec) error {
	var empty byte
	_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), uintptr(unsafe.Pointer(&empty)),
		uintptr(unsafe.Pointer(&times[0])), unix.AT_EMPTY_PATH, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// mountAll makes the mounts of the caller, whose binds are fds.
func (b *box) mountAll(mounts []Mount, fds []int) error {
	for i, m := range mounts {
		dir, err := isDir(fds[i])
		if err != nil {
			return fmt.Errorf("mounting %s: %w", m.Target, err)
		}
		if m.Type == "tmpfs" {
			if m.Mode, err = b.tmpfsMode(m); err != nil {
				return err
			}
		}
		target, err := b.point(m.Target, dir)
		if err != nil {
			return err
		}
		if there, err := isDir(target); err == nil && there != dir {
			return fmt.Errorf("mounting %s: the source and the mount point must both be directories or both files", m.Target)
		}
		fd := fds[i]
		switch m.Type {
		case "tmpfs":
			fd, err = b.tmpfs(m)
		case "volume":
			fd, err = b.volume(target)
		}
		if err != nil {
			return fmt.Errorf("mounting %s: %w", m.Target, err)
		}
		at, err := b.pathOf(target)
		if err != nil {
			return fmt.Errorf("mount point %s: %w", m.Target, err)
		}
		if at == "/" || at == "/proc" || under(at, "/proc") {
			return fmt.Errorf("mounting %s: nothing can be mounted over %s", m.Target, at)
		}
		if err := mountAt(fd, target); err != nil {
			return fmt.Errorf("mounting %s: %w", m.Target, err)
		}
		b.mounted = append(b.mounted, at)
	}
	return nil
}

func under(name, dir string) bool { return len(name) > len(dir) && name[:len(dir)+1] == dir+"/" }

// pathOf returns the path of fd inside the root, which need not be the process's root yet.
func (b *box) pathOf(fd int) (string, error) {
	root, err := b.nameOf(b.root)
	if err != nil {
		return "", err
	}
	p, err := b.nameOf(fd)
	switch {
	case err != nil:
		return "", err
	case root == "/" || p == root:
		return path.Join("/", strings.TrimPrefix(p, root)), nil
	case under(p, root):
		return p[len(root):], nil
	}
	return "", errors.New("it is outside of the root")
}

// nameOf returns the path of fd as the process sees it.
func (b *box) nameOf(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(b.proc, path.Join("self/fd", strconv.Itoa(fd)), buf)
	if err != nil {
		return "", err
	}
	p := string(buf[:n])
	if !path.IsAbs(p) {
		return "", errors.New("it is outside of the root")
	}
	return p, nil
}

// readProc reads a file of the init's proc file system.
func (b *box) readProc(name string) ([]byte, error) {
	fd, err := unix.Openat(b.proc, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(f)
}

// volume returns a copy of the mount that target is on: what is done to the attributes of that later does not matter to it.
func (b *box) volume(target int) (int, error) {
	fd, err := cloneTree(target, "", false)
	if err != nil {
		return -1, err
	}
	if err := setAttr(fd, b.deviceAttr(fd)); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// freshTmpfs is the mode of a tmpfs where there was no directory.
const freshTmpfs uint32 = 0o1777

// tmpfsMode is the mode of a tmpfs that names none: that of the directory which it hides, as runc has it.
//
// Preconditions: the mount point was not made for it, or with that mode.
func (b *box) tmpfsMode(m Mount) (uint32, error) {
	if m.Mode != 0 {
		return m.Mode, nil
	}
	fd, err := b.inRoot(m.Target, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) {
		return freshTmpfs, nil
	}
	if err != nil {
		return 0, fmt.Errorf("mount point %s: %w", m.Target, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return st.Mode & 0o7777, err
}

func (b *box) tmpfs(m Mount) (int, error) {
	opts := []option{{"mode", strconv.FormatUint(uint64(m.Mode), 8)}}
	if m.Size != 0 {
		opts = append(opts, option{"size", strconv.FormatInt(m.Size, 10)})
	}
	for key, id := range map[string]int{"uid": m.UID, "gid": m.GID} {
		if id != 0 && !b.OneID {
			opts = append(opts, option{key, strconv.Itoa(id)})
		}
	}
	attrs := noDev
	if m.ReadOnly && !b.OneID {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	if m.NoExec {
		attrs |= unix.MOUNT_ATTR_NOEXEC
	}
	fd, err := newFS("tmpfs", attrs, opts...)
	if err != nil || !b.OneID {
		return fd, err
	}
	if m.UID != 0 || m.GID != 0 {
		err = b.giveRoot(fd, m)
	}
	if err == nil && m.ReadOnly {
		err = setAttr(fd, unix.MOUNT_ATTR_RDONLY)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("preparing a tmpfs: %w", err)
	}
	return fd, nil
}

// giveRoot makes the root of the file system fd the owner's of m.
func (b *box) giveRoot(fd int, m Mount) error {
	root, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	return b.give(root, m)
}

// give makes fd, a file or directory of a tmpfs, the owner's of m.
func (b *box) give(fd int, m Mount) error {
	if !b.OneID {
		return explainID(unix.Fchown(fd, m.UID, m.GID), m.UID, m.GID)
	}
	return supervisor.Record(fd, uint32(m.UID), uint32(m.GID), m.Mode)
}
