package supervisor

import (
	"errors"
	"io"
	"maps"
	"os"

	"golang.org/x/sys/unix"
)

// ownersFile is a file in a directory that takes the place of ownersAttr when the file system has no room for that. Its lines are the same, in any order: the last
// one of a name counts, and 0:0 takes an earlier one back. The attribute wins.
const ownersFile = ".wh..wh.strake.owners"

// maxOwnersFile bounds what is read of it: a step may have written anything there.
const maxOwnersFile = 16 << 20

// entries returns the owners that are recorded in dir, a path of this thread, and whether the file is there.
func entries(dir string) (t ownerTable, inFile bool, err error) {
	text, err := getAttr(dir, ownersAttr, true)
	if err != nil {
		return nil, false, err
	}
	t = parseOwnerTable(text)
	fd, err := unix.Open(dir+"/"+ownersFile, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return t, false, nil // what is there is no record
	}
	f := os.NewFile(uintptr(fd), ownersFile)
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return t, false, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxOwnersFile))
	if err != nil {
		return nil, false, err
	}
	all := parseOwnerTable(string(data))
	maps.Copy(all, t)
	return all, true, nil
}

// entry returns what is recorded of name in the directory dir.
func entry(dir, name string) (owner, error) {
	t, _, err := entries(dir)
	return t[name], err
}

// recordName writes down that name in the directory dir, which can carry no attribute, has the owner to.
func (o *Ownership) recordName(dir int, name string, to owner) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	t, inFile, err := entries(fdPath(dir))
	if err != nil || t[name] == to {
		return err
	}
	if !inFile {
		if t[name] = to; to == (owner{}) {
			delete(t, name)
		}
		err := putAttr(fdPath(dir), ownersAttr, t.String())
		if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.E2BIG) && !errors.Is(err, unix.ERANGE) {
			return err
		}
	} else {
		t = ownerTable{name: to}
	}
	return o.append(dir, name, t)
}

// append writes to the file, so that the attribute says nothing else of name.
func (o *Ownership) append(dir int, name string, t ownerTable) error {
	fd, err := unix.Openat(dir, ownersFile, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), ownersFile)
	_, err = f.WriteString(t.String())
	if err := errors.Join(err, f.Close()); err != nil {
		return unix.ENOSPC
	}
	text, err := getAttr(fdPath(dir), ownersAttr, true)
	if err != nil || text == "" {
		return err
	}
	old := parseOwnerTable(text)
	if delete(old, name); len(t) > 1 {
		clear(old) // all of it is in the file now
	}
	return putAttr(fdPath(dir), ownersAttr, old.String())
}
