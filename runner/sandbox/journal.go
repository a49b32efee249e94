package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Moved is a directory that lies in a tree for the time of a step: the journal of Config.Aside has one in each line.
type Moved struct {
	Home string // its own path
	Tree string // the root of the tree
	At   string // where in it
	Dev  uint64 // which it is
	Ino  uint64
}

// Journal is the name of the file in Config.Aside that remembers what was moved out of there into a tree.
const Journal = "moved"

// remember writes into the journal what is about to be moved.
func (b *box) remember(m Moved) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(b.aside, Journal, unix.O_CREAT|unix.O_APPEND|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), Journal)
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// ReadJournal returns what the journal in dir says. If there is none, nothing was moved.
func ReadJournal(dir string) ([]Moved, error) {
	data, err := os.ReadFile(filepath.Join(dir, Journal))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what a box has moved: %w", err)
	}
	var all []Moved
	for line := range strings.Lines(string(data)) {
		var m Moved
		if json.Unmarshal([]byte(line), &m) == nil { // else it was written when the machine stopped: before anything was moved
			all = append(all, m)
		}
	}
	return all, nil
}

// Return brings m home if it is still where it was put, and says whether that was so. The error is EWOULDBLOCK while the init lives that has it, and brings
// it back itself.
func (m Moved) Return() (returned bool, err error) {
	var st unix.Stat_t
	if unix.Lstat(m.Home, &st) == nil && m.is(&st) {
		return false, nil
	}
	tree, err := unix.Open(m.Tree, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(tree)
	// The tree is a step's: no link in it leads anywhere.
	parent, err := unix.Openat2(tree, "."+path.Dir(m.At), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return false, nil // the step has moved it: it is lost
	}
	defer unix.Close(parent)
	name := path.Base(m.At)
	if unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || !m.is(&st) {
		return false, nil
	}
	cache, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(cache)
	if err := unix.Flock(cache, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return false, err
	}
	err = unix.Renameat2(parent, name, unix.AT_FDCWD, m.Home, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = unix.Renameat(parent, name, unix.AT_FDCWD, m.Home)
	}
	return err == nil, err
}

func (m Moved) is(st *unix.Stat_t) bool { return st.Dev == m.Dev && st.Ino == m.Ino }
