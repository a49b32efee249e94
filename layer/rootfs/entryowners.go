package rootfs

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// The owners of symbolic links, fifos and sockets are recorded in their directory, one line for each that is not 0:0:
//
//	UID:GID NAME
//
// with "%", line feeds and zero bytes of NAME as %25, %0A and %00. The lines are the value of the attribute user.strake.owners, sorted by
// name. What does not fit in there (ext4 has 4 KiB for all attributes of a file) goes to the end of
// the file ownersFile in the directory, where the last line for a name counts and 0:0 takes an earlier one back; the attribute wins
// over the file. Lines for names that do not exist or are something else say nothing.
const (
	// ownersFile is a name that readers of layers ignore, as one of aufs' own.
	ownersFile = ".wh..wh.strake.owners"
	// maxOwnersXattr bounds the attribute, in bytes.
	maxOwnersXattr = 2 << 10
	// maxOwnersFile bounds what is read of the file, in bytes: a step may have written anything to it.
	maxOwnersFile = 256 << 20
)

// entryOwner is an owner that is recorded for a name.
type entryOwner struct{ uid, gid uint32 }

// DirStat describes many entries of one directory, and reads its record once.
type DirStat struct {
	owners *Owners
	dir    *os.File
	path   string // of dir in the root, where Owners has layers
	once   sync.Once
	list   map[string]entryOwner
	err    error
}

// In returns a DirStat of the open directory dir (O_PATH is enough). It may be used concurrently, as long as dir is open.
func (o *Owners) In(dir *os.File) *DirStat { return &DirStat{owners: o, dir: dir, path: unknownPath} }

// unknownPath is no path.
const unknownPath = "\x00"

// InDir is In for the directory that is called path, relative to the root and without links. It finds all records where
// a tree consists of layers.
func (o *Owners) InDir(path string, dir *os.File) *DirStat {
	return &DirStat{owners: o, dir: dir, path: path}
}

// Owners is what the DirStat is of.
func (d *DirStat) Owners() *Owners { return d.owners }

// StatEntry is Owners.StatEntry.
func (d *DirStat) StatEntry(base string) (unix.Stat_t, error) {
	st, err := StatEntry(d.dir, base)
	if err != nil || d.owners == nil {
		return st, err
	}
	if hasXattrs(&st) {
		err = d.owners.see(entryTarget{d.dir, base}, &st)
		return st, err
	}
	d.once.Do(func() { d.list, d.err = d.read() })
	id := d.list[base]
	st.Uid, st.Gid = id.uid, id.gid
	return st, d.err
}

// read reads what is recorded of the directory's entries.
func (d *DirStat) read() (map[string]entryOwner, error) {
	if d.path == unknownPath || len(d.owners.layers) == 0 {
		return readEntryOwners(d.dir)
	}
	all := map[string]entryOwner{}
	for _, layer := range slices.Backward(d.owners.layers) {
		if err := readLayer(layer, d.path, all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// readLayer adds to all what is recorded in the directory path of a layer, for the entries that are in there.
func readLayer(layer, path string, all map[string]entryOwner) error {
	root, err := Open(layer)
	if err != nil {
		return err
	}
	defer root.Close() // only read
	dir, err := root.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close() // only read
	entries, err := ReadDir(dir)
	if err != nil {
		return err
	}
	list, err := readEntryOwners(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if id, ok := list[e.Name]; ok {
			all[e.Name] = id
		} else {
			delete(all, e.Name)
		}
	}
	return nil
}

// CopyEntryOwner records for an entry what is recorded of the one that it is a copy of or a link to, if that has no attributes of its own.
func (o *Owners) CopyEntryOwner(oldDir *os.File, oldBase string, dir *os.File, base string) error {
	if o == nil {
		return nil
	}
	st, err := o.StatEntry(oldDir, oldBase)
	if err != nil || hasXattrs(&st) || isNode(&st) {
		return err
	}
	return o.setEntryOwner(dir, base, ids{int(st.Uid), int(st.Gid)})
}

// setEntryOwner records the owner of an entry that has no attributes.
func (o *Owners) setEntryOwner(dir *os.File, base string, id ids) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	value, err := GetXattr(dir, ".", ownersXattr)
	if err != nil {
		return err
	}
	inXattr := parseEntryOwners(string(value))
	f, err := OpenEntry(dir, ownersFile, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, fs.ErrNotExist) {
		now := inXattr[base]
		now.uid, now.gid = id.merge(now.uid, now.gid)
		return o.setInXattr(dir, base, now, inXattr)
	}
	if err != nil {
		return err
	}
	defer f.Close() // only read
	now, ok := inXattr[base]
	if !ok && (id.uid < 0 || id.gid < 0) {
		list := map[string]entryOwner{}
		if err := scanEntryOwners(f, list); err != nil {
			return err
		}
		now = list[base]
	}
	now.uid, now.gid = id.merge(now.uid, now.gid)
	if ok {
		delete(inXattr, base)
		if err := o.writeXattr(dir, inXattr); err != nil {
			return err
		}
	}
	return appendEntryOwners(dir, map[string]entryOwner{base: now})
}

// setInXattr sets the owner of base in list, and moves the list to the file if it is too large.
func (o *Owners) setInXattr(dir *os.File, base string, now entryOwner, list map[string]entryOwner) error {
	before, had := list[base]
	if now == before && had == (now != entryOwner{}) {
		return nil
	}
	list[base] = now
	if now == (entryOwner{}) {
		delete(list, base)
	}
	err := o.writeXattr(dir, list)
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.E2BIG) && !errors.Is(err, unix.ERANGE) {
		return err
	}
	if err := appendEntryOwners(dir, list); err != nil {
		return err
	}
	return o.writeXattr(dir, nil)
}

// writeXattr writes the attribute of dir.
func (o *Owners) writeXattr(dir *os.File, list map[string]entryOwner) error {
	value := formatEntryOwners(list)
	if len(value) > maxOwnersXattr {
		return unix.E2BIG
	}
	return change(entryTarget{dir, "."}, ownersXattr, value)
}

// appendEntryOwners appends to the file.
func appendEntryOwners(dir *os.File, list map[string]entryOwner) error {
	f, err := openEntry(dir, ownersFile, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(formatEntryOwners(list))
	return errors.Join(err, f.Close())
}

// readEntryOwners reads all that is recorded in dir.
func readEntryOwners(dir *os.File) (map[string]entryOwner, error) {
	list := map[string]entryOwner{}
	f, err := OpenEntry(dir, ownersFile, unix.O_RDONLY|unix.O_NONBLOCK)
	if err == nil {
		err = scanEntryOwners(f, list)
		_ = f.Close() // only read
	} else if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		err = nil // a step may have put anything there
	}
	if err != nil {
		return nil, err
	}
	value, err := GetXattr(dir, ".", ownersXattr)
	maps.Copy(list, parseEntryOwners(string(value)))
	return list, err
}

// scanEntryOwners adds the lines of the file.
func scanEntryOwners(f *os.File, list map[string]entryOwner) error {
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return err
	}
	lines := bufio.NewScanner(io.LimitReader(f, maxOwnersFile))
	for lines.Scan() {
		if name, id, ok := parseEntryOwner(lines.Text()); ok {
			list[name] = id
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("reading %s: %w", ownersFile, err)
	}
	return nil
}

// parseEntryOwners reads the attribute; what is malformed is left out.
func parseEntryOwners(value string) map[string]entryOwner {
	list := map[string]entryOwner{}
	for line := range strings.Lines(value) {
		if name, id, ok := parseEntryOwner(strings.TrimSuffix(line, "\n")); ok {
			list[name] = id
		}
	}
	return list
}

// parseEntryOwner reads a line.
func parseEntryOwner(line string) (name string, id entryOwner, ok bool) {
	owner, name, ok := strings.Cut(line, " ")
	u, g, ok2 := strings.Cut(owner, ":")
	uid, err1 := strconv.ParseUint(u, 10, 32)
	gid, err2 := strconv.ParseUint(g, 10, 32)
	if !ok || !ok2 || err1 != nil || err2 != nil || uid > maxID || gid > maxID {
		return "", entryOwner{}, false
	}
	name = decodeName.Replace(name)
	return name, entryOwner{uint32(uid), uint32(gid)}, checkBase(name) == nil
}

// formatEntryOwners is the inverse of parseEntryOwners.
func formatEntryOwners(list map[string]entryOwner) string {
	var b strings.Builder
	for _, name := range slices.SortedFunc(maps.Keys(list), cmp.Compare[string]) {
		fmt.Fprintf(&b, "%d:%d %s\n", list[name].uid, list[name].gid, encodeName.Replace(name))
	}
	return b.String()
}

// A Replacer is safe for concurrent use and never changes.
var (
	encodeName = strings.NewReplacer("%", "%25", "\n", "%0A", "\x00", "%00")
	decodeName = strings.NewReplacer("%25", "%", "%0A", "\n", "%0a", "\n", "%00", "\x00")
)
