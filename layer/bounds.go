package layer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// A few bytes can say that they are a file of exabytes, or a million directories. What Apply makes of a tar is bounded by the disk, and the
// memory that it needs for that by constants.

// room is how many bytes something may have: as many as the disk of a tree, used or not.
type room struct {
	left, total int64 // total is 0 if the disk does not say what it has
}

func roomOn(root *rootfs.Root) room {
	var disk unix.Statfs_t
	if unix.Fstatfs(int(root.File().Fd()), &disk) != nil {
		return room{}
	}
	size := int64(disk.Blocks) * disk.Bsize
	return room{size, size}
}

// take takes n bytes. Files with holes, and what leaves nothing behind, never fill the disk: they end here, and not after years.
func (r *room) take(n int64) error {
	if r.total == 0 {
		return nil
	}
	if r.left -= n; r.left < 0 {
		return fmt.Errorf("it has more than the %d bytes that the whole disk has: %w", r.total, unix.ENOSPC)
	}
	return nil
}

// roomReader reads as much of r as there is room for.
type roomReader struct {
	r    io.Reader
	room room
}

func (r *roomReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if terr := r.room.take(int64(n)); terr != nil {
		return 0, terr
	}
	return n, err
}

const (
	maxTimes = 16 << 20 // bytes that dirTimes takes
	timeSize = 64       // of that, what an entry takes beside its name
)

// dirTimes are the modification times of directories, set when nothing changes in them any more. If they are too many, or something else
// takes the place of a directory, they are set before that, and then read again from each directory that something is about to change in.
type dirTimes struct {
	of      map[string]unix.Timespec
	size    int
	flushed bool
}

func (d *dirTimes) set(name string, t unix.Timespec) {
	if _, ok := d.of[name]; !ok {
		d.size += len(name) + timeSize
	}
	if d.of == nil {
		d.of = make(map[string]unix.Timespec)
	}
	d.of[name] = t
}

// full says whether the times are to be flushed.
func (d *dirTimes) full() bool { return d.size > maxTimes }

// enter is told of every directory before something is changed in it.
func (u *unpacker) enter(dir int, name string) error {
	if _, ok := u.times.of[name]; ok || !u.times.flushed {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	u.times.set(name, st.Mtim)
	return nil
}

// flush sets the times of directories, and forgets them.
func (u *unpacker) flush() error {
	u.leave() // it is entered again
	return u.setTimes()
}

// setTimes is flush for a caller that enters the directory it is in again.
func (u *unpacker) setTimes() error {
	for _, name := range slices.Sorted(maps.Keys(u.times.of)) {
		t := u.times.of[name]
		dir, err := u.root.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // a later entry took its place
		}
		if err != nil {
			return err
		}
		err = rootfs.Utimes(dir, ".", t, t)
		_ = dir.Close()
		if err != nil {
			return fmt.Errorf("setting the time of %s: %w", name, err)
		}
	}
	u.times = dirTimes{flushed: true}
	return nil
}
