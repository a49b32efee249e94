package layer

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// markHidden writes the whiteout of e, unless there is an entry of that name: a directory is marked opaque then, and
// what is no directory hides what is below anyway.
func (u *unpacker) markHidden(e entry) error {
	st, err := rootfs.StatEntry(e.dir, e.base)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		u.marks = true
		return makeMark(e.dir, whiteoutPrefix+e.base)
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return u.markOpaque(e)
	}
	return err
}

// markOpaque writes the mark of an opaque directory.
func (u *unpacker) markOpaque(e entry) error {
	f, err := rootfs.OpenEntry(e.dir, e.base, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close() // nothing was written through it
	if err := u.enter(int(f.Fd()), e.name); err != nil {
		return err
	}
	return makeMark(f, opaqueName)
}

// makeMark makes an empty file, if it is not there.
func makeMark(dir *os.File, base string) error {
	f, err := rootfs.CreateEntry(dir, base, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// replaceMark makes the new directory e opaque if there was a whiteout of its name.
func (u *unpacker) replaceMark(e entry) error {
	if !u.marks {
		return nil
	}
	had, err := unmark(e.dir, e.base)
	if had {
		err = u.markOpaque(e)
	}
	return err
}

// unmark removes the whiteout of base, and says whether there was one.
func unmark(dir *os.File, base string) (bool, error) {
	err := rootfs.Remove(dir, whiteoutPrefix+base)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG) {
		return false, nil
	}
	return err == nil, err
}

// isMark says whether the entry of a Marked layer is a whiteout.
func isMark(e rootfs.Entry) bool {
	return e.Type != unix.DT_DIR && strings.HasPrefix(e.Name, whiteoutPrefix) && !strings.HasPrefix(e.Name, metaPrefix)
}

// sortMarks puts the whiteouts among the entries of a directory to where the names are that they hide, as
// with Form Overlay. It drops opaque marks, files of aufs, and whiteouts beside what they name.
func sortMarks(entries []rootfs.Entry) []rootfs.Entry {
	isMeta := func(e rootfs.Entry) bool { return e.Type != unix.DT_DIR && strings.HasPrefix(e.Name, metaPrefix) }
	if !slices.ContainsFunc(entries, func(e rootfs.Entry) bool { return isMark(e) || isMeta(e) }) {
		return entries
	}
	entries = slices.DeleteFunc(entries, isMeta)
	slices.SortStableFunc(entries, func(a, b rootfs.Entry) int {
		aMark, bMark := isMark(a), isMark(b)
		if c := strings.Compare(hiddenName(a, aMark), hiddenName(b, bMark)); c != 0 || aMark == bMark {
			return c
		}
		if aMark {
			return 1
		}
		return -1
	})
	return slices.CompactFunc(entries, func(a, b rootfs.Entry) bool { return isMark(b) && hiddenName(b, true) == a.Name })
}

func hiddenName(e rootfs.Entry, isMark bool) string {
	if isMark {
		return e.Name[len(whiteoutPrefix):]
	}
	return e.Name
}
