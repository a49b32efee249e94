package runner

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// selfPath is this program, whatever has become of its file.
const selfPath = "/proc/self/exe"

// exeFD is where the descriptor of the program is kept: above those that a child is given, which
// are put in place before the program is opened.
const exeFD = 100

// openSelf opens this program so that a box cannot write to it: a process of the box may get hold of the file through
// /proc/PID/exe (CVE-2019-5736), and then finds it on a read-only mount, which it has not the right to change, or finds a
// sealed copy in memory.
func openSelf() (*os.File, error) {
	fd, err := readOnlySelf()
	if err != nil {
		if fd, err = copySelf(); err != nil {
			return nil, fmt.Errorf("copying the program: %w", err)
		}
	}
	defer unix.Close(fd)
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, exeFD)
	if err != nil {
		return nil, fmt.Errorf("opening the program: %w", err)
	}
	return os.NewFile(uintptr(high), selfPath), nil
}

// readOnlySelf opens the program on a read-only copy of the mount that it is on.
func readOnlySelf() (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, selfPath, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if errors.Is(err, unix.EINVAL) {
		// The file was opened in another mount namespace (before Enter): take it by its name, if that is still it.
		fd, err = selfByName()
	}
	if err != nil {
		return -1, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func selfByName() (int, error) {
	name, err := os.Readlink(selfPath)
	if err != nil {
		return -1, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	var want, got unix.Stat_t
	if err := errors.Join(unix.Stat(selfPath, &want), unix.Fstat(fd, &got)); err != nil || want.Dev != got.Dev || want.Ino != got.Ino {
		unix.Close(fd)
		return -1, errors.New("the program's file has changed")
	}
	return fd, nil
}

// copySelf copies the program into memory and seals it.
func copySelf() (int, error) {
	in, err := os.Open(selfPath)
	if err != nil {
		return -1, err
	}
	defer in.Close()
	fd, err := unix.MemfdCreate("strake", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, err
	}
	out := os.NewFile(uintptr(fd), "strake")
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return -1, err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		return -1, err
	}
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}
