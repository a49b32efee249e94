package rootfs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Extended attributes of an entry. The system calls that take a directory and a
// name are new (Linux 6.13), so these go through /proc/self/fd, which must be mounted.

// SetXattr sets an extended attribute of the entry base in dir.
func SetXattr(dir *os.File, base, name string, value []byte) error {
	return on("setxattr "+name, dir, base, func(fd int) error {
		return unix.Lsetxattr(procPath(fd, base), name, value, 0)
	})
}

// GetXattr returns an extended attribute of the entry; one that is not set, or that
// the file system does not know, is (nil, nil).
func GetXattr(dir *os.File, base, name string) ([]byte, error) {
	var value []byte
	err := on("getxattr "+name, dir, base, func(fd int) (err error) {
		value, err = readXattr(func(buf []byte) (int, error) {
			return unix.Lgetxattr(procPath(fd, base), name, buf)
		})
		return err
	})
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	return value, err
}

// FileXattr is GetXattr for an open file (a descriptor that is not O_PATH).
func FileXattr(fd int, name string) ([]byte, error) {
	value, err := readXattr(func(buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) })
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("getxattr %s: %w", name, err)
	}
	return value, nil
}

// FileXattrs is ListXattr for an open file (a descriptor that is not O_PATH).
func FileXattrs(fd int) ([]string, error) {
	list, err := readXattr(func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) })
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("listxattr: %w", err)
	}
	return splitNames(list), nil
}

// ListXattr returns the names of the entry's extended attributes, in the file system's order.
func ListXattr(dir *os.File, base string) ([]string, error) {
	var names []string
	err := on("listxattr", dir, base, func(fd int) error {
		list, err := readXattr(func(buf []byte) (int, error) {
			return unix.Llistxattr(procPath(fd, base), buf)
		})
		names = splitNames(list)
		return err
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	return names, err
}

// RemoveXattr removes an extended attribute of the entry; one that is not set is no error.
func RemoveXattr(dir *os.File, base, name string) error {
	err := on("removexattr "+name, dir, base, func(fd int) error {
		return unix.Lremovexattr(procPath(fd, base), name)
	})
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// splitNames splits what listxattr(2) returns.
func splitNames(list []byte) []string {
	if len(list) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00")
}

// readXattr calls get with larger buffers until the answer, which may grow meanwhile, fits.
func readXattr(get func(buf []byte) (int, error)) ([]byte, error) {
	var stack [256]byte // most answers are short, and many are empty
	for size := len(stack); ; size *= 4 {
		buf := stack[:]
		if size > len(stack) {
			buf = make([]byte, size)
		}
		n, err := get(buf)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return append([]byte{}, buf[:n]...), nil
	}
}
