package rootfs

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// DiskUsage measures what files take of the disk.
type DiskUsage struct {
	// Skip says what is left out, with all below it, by its path; nil leaves out nothing.
	Skip func(path string) bool
	// Private leaves out files with several names: they belong to somebody else.
	Private bool

	lister Lister
	seen   map[inode]bool
}

type inode struct{ dev, ino uint64 }

// Of returns how many bytes the file or tree path takes, links not followed, each file once; what is not there takes none. After an
// error the sum is of what could be read.
func (u *DiskUsage) Of(path string) (int64, error) {
	if u.seen == nil {
		u.seen = make(map[inode]bool)
	}
	parent, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, ignoreMissing(err)
	}
	defer parent.Close() // only read
	return u.entry(parent, filepath.Base(path), path)
}

// entry adds up what an entry takes, with everything below it.
func (u *DiskUsage) entry(dir *os.File, name, path string) (int64, error) {
	st, err := StatEntry(dir, name)
	if err != nil {
		return 0, ignoreMissing(err)
	}
	size := st.Blocks * 512
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if st.Nlink > 1 {
			id := inode{st.Dev, st.Ino}
			if u.Private || u.seen[id] {
				return 0, nil
			}
			u.seen[id] = true
		}
		return size, nil
	}
	f, err := OpenEntry(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return size, ignoreMissing(err)
	}
	defer f.Close() // only read
	entries, err := u.lister.ReadDir(f)
	if err != nil {
		return size, ignoreMissing(err)
	}
	var failed error
	for _, e := range entries {
		below := ""
		if u.Skip != nil {
			if below = path + "/" + e.Name; u.Skip(below) {
				continue
			}
		}
		n, err := u.entry(f, e.Name, below)
		size += n
		if failed == nil {
			failed = err
		}
	}
	return size, failed
}

// ignoreMissing drops the error of a file that was removed meanwhile.
func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
