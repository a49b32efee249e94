package tree

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// Lend makes the directory name in the root, if no layer has one, for the time of a step whose sandbox needs it. If it is empty when the change is looked
// for it goes, and never was. In a directory that the sandbox makes itself nobody would watch, so that every file had to be looked at.
func (t *Tree) Lend(name string) error {
	if t.watch == nil || t.top.kids[name] != nil {
		return nil
	}
	dir, err := t.open(".")
	if err != nil {
		return err
	}
	defer dir.Close() // only read
	if err := keepTimes(dir, func() error { return rootfs.Mkdir(dir, name, 0o755) }); err != nil {
		return err
	}
	n, err := look(dir, name)
	if err != nil {
		return err
	}
	sub, err := rootfs.OpenEntry(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer sub.Close() // only read
	n.kids = map[string]*node{}
	t.attach(n, t.top)
	t.watch.add(n, sub)
	t.lent = n
	if t.watch.drain().lost { // else it is what was just done
		t.watch.close()
	}
	return t.lookAtRoot(dir)
}

// takeBack removes what was lent, if it is empty, and takes it out of the table: whatever has its name now is new. want are the names to look at.
func (t *Tree) takeBack(want map[*node][]string) error {
	n := t.lent
	if n == nil {
		return nil
	}
	t.lent = nil
	dir, err := t.open(".")
	if err != nil {
		return err
	}
	defer dir.Close() // only read
	now, err := look(dir, n.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && n.sameDir(now) {
		err = keepTimes(dir, func() error { return rootfs.Remove(dir, n.name) })
		if err != nil && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	t.drop(n, func(*node) {})
	delete(want, n)
	if names, ok := want[t.top]; !ok || names != nil {
		want[t.top] = append(names, n.name)
	}
	return t.lookAtRoot(dir)
}

// lookAtRoot brings the table's root up to date, which is open as dir.
func (t *Tree) lookAtRoot(dir *os.File) error {
	now, err := look(dir, ".")
	if err != nil {
		return err
	}
	t.top.become(now)
	t.seen(t.top)
	return nil
}

// keepTimes calls change and sets dir's times to what they were.
func keepTimes(dir *os.File, change func() error) error {
	st, err := rootfs.StatEntry(dir, ".")
	if err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	return rootfs.Utimes(dir, ".", st.Atim, st.Mtim)
}
