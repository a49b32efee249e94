package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// boxPrefix begins the names of what boxes need in Linux.Dir; the pid of their strake, which tells people more than Sweep, follows.
const boxPrefix = "box-"

// ownDir is a directory in Linux.Dir that this process holds the lock of (flock). Sweep leaves it alone until the process has died. The process's id
// would not tell: containers with pid namespaces of their own may share a store, and a process that was killed has its id until it is waited for, which
// the first process of many a container never does.
type ownDir struct {
	path string
	lock *os.File // the directory
}

// newOwnDir makes one in parent. The caller removes it.
func newOwnDir(parent, name string) (*ownDir, error) {
	for {
		path, err := os.MkdirTemp(parent, fmt.Sprintf("%s%d-%s", boxPrefix, os.Getpid(), name))
		if err != nil {
			return nil, err
		}
		d, err := lockOwn(path)
		// A Sweep that came between the two calls may have removed it, or be about to: then another one.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		return d, err
	}
}

// lockOwn takes the lock of path, as layer/flock does, which this wall does not know. It fails with EWOULDBLOCK if somebody holds it, and with fs.ErrNotExist if path is not, or not any more, what was locked.
func lockOwn(path string) (*ownDir, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		var locked, now fs.FileInfo
		if locked, err = f.Stat(); err == nil {
			if now, err = os.Lstat(path); err == nil && !os.SameFile(locked, now) {
				err = fs.ErrNotExist
			}
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &ownDir{path, f}, nil
}

// remove deletes the directory. It may be called more than once, and where there is none.
func (d *ownDir) remove() {
	if d != nil {
		os.RemoveAll(d.path)
		d.release()
	}
}

// release leaves the directory to a later Sweep.
func (d *ownDir) release() { d.lock.Close() }
