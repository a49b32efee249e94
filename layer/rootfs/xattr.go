package rootfs

import (
	"errors"
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

// ListXattr returns the names of the entry's extended attributes, in the file system's order.
func ListXattr(dir *os.File, base string) ([]string, error) {
	var names []string
	err := on("listxattr", dir, base, func(fd int) error {
		list, err := readXattr(func(buf []byte) (int, error) {
			return unix.Llistxattr(procPath(fd, base), buf)
		})
		names = strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 })
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

// readXattr calls get with larger buffers until the answer, which may grow meanwhile, fits.
func readXattr(get func(buf []byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := get(buf)
		if err == unix.ERANGE && size < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}
