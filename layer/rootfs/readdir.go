package rootfs

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry is what ReadDir says of a directory's entry without a stat of it.
type Entry struct {
	Name string
	Type uint8 // unix.DT_*; never DT_UNKNOWN
	Ino  uint64
}

// ReadDir lists the open directory dir by getdents(2), sorted by name, without
// "." and "..". It reads from the beginning each time; dir must not be an O_PATH descriptor.
func ReadDir(dir *os.File) ([]Entry, error) {
	var l Lister
	return l.ReadDir(dir)
}

// Lister lists directories as ReadDir does, with one buffer for all of them.
// It serves one goroutine at a time.
type Lister struct{ buf []byte }

// The buffer of a Lister, in bytes: most directories are small, and most listers see few.
const (
	firstBuffer = 4 << 10
	largeBuffer = 64 << 10
)

// ReadDir is as the function of that name.
func (l *Lister) ReadDir(dir *os.File) ([]Entry, error) {
	if l.buf == nil {
		l.buf = make([]byte, firstBuffer)
	}
	entries, err := l.list(int(dir.Fd()))
	runtime.KeepAlive(dir)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: dir.Name(), Err: err}
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// list reads the entries of the directory fd, in the order of the file system.
func (l *Lister) list(fd int) ([]Entry, error) {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	var entries []Entry
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(fd, l.buf) })
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return entries, nil
		}
		full := n > len(l.buf)/2
		for b := l.buf[:n]; len(b) > 0; {
			// struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name
			size := binary.NativeEndian.Uint16(b[16:])
			ino, typ, name := binary.NativeEndian.Uint64(b), b[18], b[19:size]
			b = b[size:]
			if i := bytes.IndexByte(name, 0); i >= 0 {
				name = name[:i]
			}
			if s := string(name); s != "." && s != ".." {
				e := Entry{Name: s, Type: typ, Ino: ino}
				if ok, err := complete(fd, &e); err != nil {
					return nil, err
				} else if ok {
					entries = append(entries, e)
				}
			}
		}
		if full && len(l.buf) < largeBuffer {
			l.buf = make([]byte, largeBuffer)
		}
	}
}

// complete fills in the type where the file system does not tell it; false if
// the entry is gone.
func complete(fd int, e *Entry) (bool, error) {
	if e.Type != unix.DT_UNKNOWN {
		return true, nil
	}
	var st unix.Stat_t
	err := unix.Fstatat(fd, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	e.Type = uint8(st.Mode & unix.S_IFMT >> 12)
	return true, err
}
