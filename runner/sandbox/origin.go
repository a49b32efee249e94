package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// source is what a mount shows, opened while the outside is in sight.
type source struct {
	fd     int // O_PATH; -1 if there is none
	parent int // of what will be moved: the directory that it is in, and its name there; else -1
	name   string
	home   string // and its path
	lock   int    // the descriptor that has its lock, if that is not the origin's
}

// origin is a directory of the host that mounts show, or parts of it. It may be a cache, and then may lie in the tree of another box now, and a mount point
// of that tree at its name; also between two looks at it. So it is found by its name, which does not change, and only who has its lock looks into it.
type origin struct {
	parent int // the directory that it is in
	name   string
	path   string
	moved  bool // it, or a part of it: nobody else may have it
	fd     int  // once it is locked
}

// sources are what the files and mounts of a box show.
type sources struct {
	all     []source
	origins map[string]*origin // by path
}

// openSources opens what the files and mounts show.
func (b *box) openSources() (*sources, error) {
	mounts := slices.Concat(b.Files, b.Mounts)
	s := &sources{origins: map[string]*origin{}}
	of := make([]*origin, len(mounts))
	var err error
	for i, m := range mounts {
		if of[i], err = b.findOrigin(m); err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.Target, err)
		}
		of[i] = s.add(of[i])
	}
	if err := b.lockOrigins(s.origins); err != nil {
		return nil, err
	}
	for i, m := range mounts {
		one, err := b.openSource(m, of[i])
		if err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.Target, err)
		}
		s.all = append(s.all, one)
	}
	return s, apart(s.all)
}

// add adds o, which may be nil, and returns it, or what it is the same as.
func (s *sources) add(o *origin) *origin {
	if o == nil {
		return nil
	}
	if same := s.origins[o.path]; same != nil {
		unix.Close(o.parent)
		same.moved = same.moved || o.moved
		return same
	}
	s.origins[o.path] = o
	return o
}

// release lets others have what has been copied.
func (s *sources) release() {
	for _, o := range s.origins {
		if !o.moved {
			unix.Close(o.fd)
		}
	}
}

// findOrigin finds the directory that m shows a part of. It is nil if m shows anything else.
func (b *box) findOrigin(m Mount) (*origin, error) {
	if m.Type != "bind" || m.HasData || m.Overlay != nil {
		return nil, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(m.Source, &st); err != nil {
		return nil, &fs.PathError{Op: "bind", Path: m.Source, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, nil
	}
	name, err := filepath.EvalSymlinks(m.Source)
	if err != nil {
		return nil, err
	}
	o := &origin{name: path.Base(name), moved: !m.ReadOnly, fd: -1}
	if o.parent, err = unix.Open(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, &fs.PathError{Op: "bind", Path: m.Source, Err: err}
	}
	dir, err := b.nameOf(o.parent)
	o.path = path.Join(dir, o.name)
	return o, err
}

// lockOrigins takes the locks of all origins, in the order that all boxes keep: a directory can be in one place only. The locks are those of this process's
// descriptors, and go with it.
func (b *box) lockOrigins(origins map[string]*origin) error {
	for _, name := range slices.Sorted(maps.Keys(origins)) {
		o := origins[name]
		how := unix.LOCK_SH
		if o.moved {
			how = unix.LOCK_EX
		}
		if err := b.lockOrigin(o, how); err != nil {
			return fmt.Errorf("locking %s: %w", o.path, err)
		}
	}
	return nil
}

// lockOrigin takes the lock of o. The box that had it may have been killed before it could bring it back.
func (b *box) lockOrigin(o *origin, how int) (err error) {
	for {
		if o.fd, err = b.lockAt(o.parent, o.name, how); err != nil {
			return err
		}
		missing, err := b.bringBack(o.path)
		if err != nil || !missing {
			return err
		}
		unix.Close(o.fd)
		if b.ended.Load() {
			return errEnded
		}
	}
}

// bringBack brings back what a box that is dead has taken from home or from below, and says whether there was anything.
// Preconditions: what is at home is locked, so that no living box has it.
func (b *box) bringBack(home string) (missing bool, err error) {
	dir := filepath.Dir(b.Aside)
	boxes, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("looking for what a dead box has moved: %w", err)
	}
	for _, e := range boxes {
		if !e.IsDir() {
			continue
		}
		all, err := ReadJournal(filepath.Join(dir, e.Name()))
		if err != nil {
			return false, err
		}
		for _, m := range all {
			if m.Home != home && !under(m.Home, home) {
				continue
			}
			returned, err := m.Return()
			if errors.Is(err, unix.EWOULDBLOCK) { // somebody else is at it
				time.Sleep(lockPause)
				return true, nil
			}
			if err != nil || returned {
				return returned, err
			}
		}
	}
	return false, nil
}

// lockPause is how long lockAt waits before it looks again.
const lockPause = time.Millisecond

// lockAt opens and locks the directory name, when no other box has it. While one has, something else is at its name, with a lock as well.
func (b *box) lockAt(parent int, name string, how int) (int, error) {
	for {
		fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		err = unix.Flock(fd, how|unix.LOCK_NB)
		if err == nil && is(parent, name, fd) {
			return fd, nil
		}
		unix.Close(fd)
		switch {
		case err != nil && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return -1, err
		case b.ended.Load():
			return -1, errEnded
		}
		time.Sleep(lockPause)
	}
}

// openSource opens what m shows of o, or of a file system of its own. A directory that can be written will be moved.
// Preconditions: o is locked.
func (b *box) openSource(m Mount, o *origin) (s source, err error) {
	s = source{fd: -1, parent: -1, lock: -1}
	if m.Type != "bind" || m.HasData {
		return s, nil
	}
	switch {
	case o != nil:
		s.fd, err = within(o.fd, m.Inside)
	case m.Overlay != nil:
		s.fd, err = openPart(*m.Overlay, m.Source, m.Inside)
	default:
		s.fd, err = openPath(m.Source)
	}
	if err != nil {
		return s, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return s, err
	}
	if m.ReadOnly || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return s, nil
	}
	if err := b.findHome(&s); err != nil {
		return s, err
	}
	if o == nil || !is(o.fd, ".", s.fd) { // who brings it back after a crash asks for its lock
		s.lock, err = b.lockAt(s.parent, s.name, unix.LOCK_EX)
	}
	return s, err
}

// openPath opens a path of the host.
func openPath(name string) (int, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "bind", Path: name, Err: err}
	}
	return fd, nil
}

// openPart opens a path inside of a path of a file system that is one directory. What is at the first may be a file, if the second is empty.
func openPart(o Overlay, parts ...string) (int, error) {
	name := o.Upper
	if len(o.Lower) > 0 {
		name = o.Lower[0]
	}
	fd, err := openPath(name)
	for _, part := range parts {
		if err != nil {
			return -1, err
		}
		if path.Clean("/"+part) == "/" {
			continue
		}
		dir := fd
		fd, err = within(dir, part)
		unix.Close(dir)
	}
	return fd, err
}

// findHome finds the directory that s is in, and its name there.
// Preconditions: nobody else moves it.
func (b *box) findHome(s *source) (err error) {
	if s.home, err = b.nameOf(s.fd); err != nil {
		return err
	}
	s.name = path.Base(s.home)
	if s.parent, err = unix.Open(path.Dir(s.home), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if !is(s.parent, s.name, s.fd) {
		return fmt.Errorf("finding %s: %w", s.home, unix.ESTALE)
	}
	return nil
}

// apart refuses sources of which one is, or is in, another one that will be moved.
func apart(all []source) error {
	var moved []source
	for _, s := range all {
		if s.parent >= 0 {
			moved = append(moved, s)
		}
	}
	slices.SortFunc(moved, func(x, y source) int { return cmp.Compare(x.home, y.home) })
	for i, s := range moved[min(1, len(moved)):] {
		if s.home == moved[i].home || under(s.home, moved[i].home) {
			return fmt.Errorf("isolation chroot: one step cannot have the same cache at two places: %s", s.home)
		}
	}
	return nil
}
