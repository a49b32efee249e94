package rootfs

import (
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links a lookup follows (path_resolution(7)).
const maxLinks = 40

// Resolve follows every symbolic link in name and returns the clean path,
// relative to the root and without links ("." for the root). Trailing components
// that do not exist are kept as they are, ".." after them taken by the letter;
// a component below something that is no directory is an error.
//
// The answer is true at the moment of the call. Using it is safe all the same: a
// later lookup of it stays in the root like that of any other name.
func (r *Root) Resolve(name string) (string, error) {
	w := walk{root: r, dir: -1}
	defer w.reset()
	err := w.follow(name)
	if err != nil {
		return "", &fs.PathError{Op: "resolve", Path: name, Err: err}
	}
	if len(w.done) == 0 {
		return ".", nil
	}
	return strings.Join(w.done, "/"), nil
}

// walk is a lookup in progress. done is where it stands, without links; the last
// missing of its components do not exist. dir is that directory opened, or -1.
type walk struct {
	root    *Root
	dir     int
	done    []string
	missing int
	links   int
}

func (w *walk) reset() {
	if w.dir >= 0 {
		_ = unix.Close(w.dir)
	}
	w.dir = -1
}

// follow takes every component of name, links expanded in place.
func (w *walk) follow(name string) error {
	for todo := name; todo != ""; {
		comp, rest, more := strings.Cut(todo, "/")
		todo = rest
		switch comp {
		case "", ".":
			continue
		case "..":
			w.up()
			continue
		}
		if strings.IndexByte(comp, 0) >= 0 {
			return unix.EINVAL
		}
		target, err := w.down(comp, more)
		if err != nil {
			return err
		}
		if target == "" {
			continue
		}
		if w.links++; w.links > maxLinks {
			return unix.ELOOP
		}
		if target[0] == '/' {
			w.reset()
			w.done, w.missing = w.done[:0], 0
		}
		if more {
			target += "/" + rest
		}
		todo = target
		if len(todo) > 64*pathMax { // 40 links of nearly PATH_MAX each would otherwise pile up
			return unix.ENAMETOOLONG
		}
	}
	return nil
}

// up goes to the parent; that of the root is the root.
func (w *walk) up() {
	if len(w.done) == 0 {
		return
	}
	w.done = w.done[:len(w.done)-1]
	if w.missing > 0 {
		w.missing--
		return
	}
	w.reset()
}

// down goes to comp, or returns the target if that is a symbolic link. mustDir:
// more components or a slash follow.
func (w *walk) down(comp string, mustDir bool) (target string, err error) {
	if w.missing > 0 {
		w.done, w.missing = append(w.done, comp), w.missing+1
		return "", nil
	}
	if err := w.openDir(); err != nil {
		return "", err
	}
	next, err := openat(w.dir, comp, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		w.done, w.missing = append(w.done, comp), 1
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err = unix.Fstat(next, &st); err == nil {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err = readlinkat(next, "")
			_ = unix.Close(next)
			return target, err
		case unix.S_IFDIR:
			w.reset()
			w.dir, w.done = next, append(w.done, comp)
			return "", nil
		}
		if mustDir {
			err = unix.ENOTDIR
		}
	}
	_ = unix.Close(next)
	if err == nil {
		// The last component: nothing can follow it but another walk upwards.
		w.reset()
		w.done = append(w.done, comp)
	}
	return "", err
}

// openDir opens the directory where the walk stands, if it went up or to the root.
func (w *walk) openDir() error {
	if w.dir >= 0 {
		return nil
	}
	fd, err := w.root.open(strings.Join(w.done, "/"), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		w.dir = fd
	}
	return err
}
