package supervisor

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ownersAttr is the attribute of a directory that records who owns what in it cannot carry an attribute of its own: symbolic links, pipes, sockets and
// devices. Its form is that of ownerTable.
const ownersAttr = "user.strake.owners"

// owner is who owns a file.
type owner struct{ uid, gid uint32 }

// override is the value of the attribute overrideStat.
type override struct {
	owner
	mode uint32
	kind string // of a device: "char-1-3"
}

// parseOverride reads "uid:gid:mode" or "uid:gid:mode:kind". Anybody may have written it.
func parseOverride(text string) (override, bool) {
	f := strings.SplitN(text, ":", 4)
	if len(f) < 3 {
		return override{}, false
	}
	uid, err1 := strconv.ParseUint(f[0], 10, 32)
	gid, err2 := strconv.ParseUint(f[1], 10, 32)
	mode, err3 := strconv.ParseUint(f[2], 8, 32)
	if err := errors.Join(err1, err2, err3); err != nil {
		return override{}, false
	}
	o := override{owner: owner{uint32(uid), uint32(gid)}, mode: uint32(mode)}
	if len(f) == 4 {
		o.kind = f[3]
	}
	return o, true
}

func (o override) String() string {
	text := fmt.Sprintf("%d:%d:%o", o.uid, o.gid, o.mode)
	if o.kind != "" {
		text += ":" + o.kind
	}
	return text
}

// ownerTable is the value of ownersAttr, by names. As text it has a line "uid:gid name" for each, sorted by name; in the name,
// '%', zero bytes and ends of lines are written as '%' and two hexadecimal digits.
type ownerTable map[string]owner

// parseOwnerTable reads a table of owners; lines that make no sense are left out.
func parseOwnerTable(text string) ownerTable {
	t := ownerTable{}
	for line := range strings.Lines(text) {
		ids, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		uid, gid, ok2 := strings.Cut(ids, ":")
		u, err1 := strconv.ParseUint(uid, 10, 32)
		g, err2 := strconv.ParseUint(gid, 10, 32)
		name, ok3 := unescapeName(name)
		if ok && ok2 && ok3 && errors.Join(err1, err2) == nil {
			t[name] = owner{uint32(u), uint32(g)}
		}
	}
	return t
}

func (t ownerTable) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(&b, "%d:%d %s\n", t[name].uid, t[name].gid, escapeName(name))
	}
	return b.String()
}

func escapeName(name string) string {
	return strings.NewReplacer("%", "%25", "\n", "%0A", "\x00", "%00").Replace(name)
}

func unescapeName(name string) (string, bool) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(name, "%")
		b.WriteString(before)
		if !found {
			return b.String(), b.Len() > 0 && !strings.Contains(b.String(), "/")
		}
		if len(after) < 2 {
			return "", false
		}
		c, err := strconv.ParseUint(after[:2], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		name = after[2:]
	}
}

// Record writes down, in a box with a single id, that fd, a file or directory, has another owner and mode. Where the file system has no
// attributes, nothing is recorded: everybody in the box may read it all the same.
func Record(fd int, uid, gid, mode uint32) error {
	value := override{owner: owner{uid, gid}, mode: mode & 0o7777}.String()
	if err := unix.Fsetxattr(fd, overrideStat, []byte(value), 0); !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}

// getAttr reads an attribute of the file name; a missing one, and one of a file system that has none, is empty.
func getAttr(name, attr string, follow bool) (string, error) {
	text, err := readAttr(name, attr, follow)
	if errors.Is(err, unix.ENOTSUP) {
		return "", nil
	}
	return text, err
}

// readAttr is getAttr for those who must know of a file system that has none: ENOTSUP.
func readAttr(name, attr string, follow bool) (string, error) {
	call := unix.Lgetxattr
	if follow {
		call = unix.Getxattr
	}
	var small [64]byte
	buf := small[:]
	for {
		n, err := call(name, attr, buf)
		switch {
		case err == nil:
			return string(buf[:n]), nil
		case errors.Is(err, unix.ERANGE):
			buf = make([]byte, 1<<16) // XATTR_SIZE_MAX
		case errors.Is(err, unix.ENODATA):
			return "", nil
		default:
			return "", err
		}
	}
}

// putAttr writes an attribute, or removes it if value is empty. Where the file system has no attributes (a tmpfs before Linux 6.6), nothing can be
// recorded, nor comes anything into a layer.
func putAttr(name, attr, value string) error {
	var err error
	if value == "" {
		if err = unix.Removexattr(name, attr); errors.Is(err, unix.ENODATA) {
			return nil
		}
	} else {
		err = unix.Setxattr(name, attr, []byte(value), 0)
	}
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}
