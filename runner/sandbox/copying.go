package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// opener opens the same file each time.
type opener func(flags int) (int, error)

// copying copies trees with all that a step can see of them, but for the identity of hard links.
type copying struct {
	ended func() bool
	depth int
}

// copyDepth limits how deep trees may be: each level keeps two files open.
const copyDepth = 400

// copy copies what open opens, whose status is st, to name in dir.
func (c *copying) copy(open opener, dir int, name string, st *unix.Stat_t) error {
	if c.ended() {
		return errEnded
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = c.dir(open, dir, name)
	case unix.S_IFREG:
		err = file(open, dir, name)
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFLNK: // by who reads the directory
		return unix.EINVAL
	default:
		err = unix.Mknodat(dir, name, st.Mode&unix.S_IFMT|0o600, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	return finish(dir, name, st)
}

// finish gives a copy the owner, the mode and the times of st.
func finish(dir int, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(dir, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(dir, name, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// dir copies a directory with everything below it.
func (c *copying) dir(open opener, dir int, name string) error {
	if c.depth++; c.depth > copyDepth {
		return fmt.Errorf("copying %s: %w", name, unix.ELOOP)
	}
	defer func() { c.depth-- }()
	fd, err := open(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	from := os.NewFile(uintptr(fd), name)
	defer from.Close()
	names, err := from.Readdirnames(-1)
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(dir, name, 0o700); err != nil {
		return err
	}
	to, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	for _, n := range names {
		if err := c.entry(fd, to, n); err != nil {
			return fmt.Errorf("copying %s: %w", n, err)
		}
	}
	return attributes(fd, to)
}

// entry copies the entry name of the directory from.
func (c *copying) entry(from, to int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(from, name, buf)
		if err == nil {
			err = unix.Symlinkat(string(buf[:n]), to, name)
		}
		if err != nil {
			return err
		}
		return finish(to, name, &st)
	}
	return c.copy(func(flags int) (int, error) {
		return unix.Openat(from, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}, to, name, &st)
}

// file copies a regular file: by sharing its blocks where the file system can.
func file(open opener, dir int, name string) error {
	in, err := open(unix.O_RDONLY | unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	from := os.NewFile(uintptr(in), name)
	defer from.Close()
	out, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	to := os.NewFile(uintptr(out), name)
	defer to.Close()
	if _, err := to.ReadFrom(from); err != nil { // by copy_file_range
		return err
	}
	return attributes(in, out)
}

// attributes copies the extended attributes.
func attributes(from, to int) error {
	size, err := unix.Flistxattr(from, nil)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && size == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	list := make([]byte, size)
	if size, err = unix.Flistxattr(from, list); err != nil {
		return err
	}
	value := make([]byte, 1<<16) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:size]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") && name != "security.capability" {
			continue
		}
		n, err := unix.Fgetxattr(from, name, value)
		if err == nil {
			err = unix.Fsetxattr(to, name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("the attribute %s: %w", name, err)
		}
	}
	return nil
}
