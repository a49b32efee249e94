package copier

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// maxUserFile bounds /etc/passwd and /etc/group, as BuildKit does; a line may have 64 KiB.
const maxUserFile = 10 << 20

// UnknownError says that a name is not in the image's /etc/passwd or /etc/group.
type UnknownError struct {
	Name  string
	Group bool // Name is a group's
}

func (e *UnknownError) Error() string {
	if e.Group {
		return fmt.Sprintf("unable to find group %s: no matching entries in group file", e.Name)
	}
	return fmt.Sprintf("unable to find user %s: no matching entries in passwd file", e.Name)
}

// Owner looks a "user[:group]" up in the /etc/passwd and /etc/group of root, as COPY --chown means it: a user without a
// group has its primary group, a numeric user without one has the same number. "" is 0:0, an
// empty part is 0.
//
// A name that is not there is an *UnknownError. The Owner that comes with it is the one that BuildKit takes instead,
// silently: 0 for the user, and for the group that of the user.
func Owner(root *rootfs.Root, chown string) (layer.Owner, error) {
	user, group, hasGroup := strings.Cut(chown, ":")
	o, err := lookUser(root, user)
	if !hasGroup || err != nil && !isUnknown(err) {
		return o, err
	}
	gid, groupErr := lookGroup(root, group)
	if groupErr == nil {
		o.GID = gid
	}
	if err == nil {
		err = groupErr
	}
	return o, err
}

func isUnknown(err error) bool {
	_, ok := errors.AsType[*UnknownError](err)
	return ok
}

func lookUser(root *rootfs.Root, name string) (layer.Owner, error) {
	if id, ok := number(name); ok {
		return layer.Owner{UID: id, GID: id}, nil
	}
	// passwd(5): name:password:UID:GID:GECOS:directory:shell
	line, err := lookUp(root, "/etc/passwd", name)
	if err != nil {
		return layer.Owner{}, err
	}
	if line == nil {
		return layer.Owner{}, &UnknownError{Name: name}
	}
	uid, err1 := idField(line, 2)
	gid, err2 := idField(line, 3)
	if err := errors.Join(err1, err2); err != nil {
		return layer.Owner{}, fmt.Errorf("user %s in /etc/passwd: %w", name, err)
	}
	return layer.Owner{UID: uid, GID: gid}, nil
}

func lookGroup(root *rootfs.Root, name string) (int, error) {
	if id, ok := number(name); ok {
		return id, nil
	}
	// group(5): name:password:GID:members
	line, err := lookUp(root, "/etc/group", name)
	if err != nil {
		return 0, err
	}
	if line == nil {
		return 0, &UnknownError{Name: name, Group: true}
	}
	gid, err := idField(line, 2)
	if err != nil {
		return 0, fmt.Errorf("group %s in /etc/group: %w", name, err)
	}
	return gid, nil
}

// number reads what needs no file: nothing, root, or a number. What does not fit into 31 bits is a name, as BuildKit has it, and a
// negative number is what the kernel makes of it: -1 changes nothing, so what is made stays root's.
func number(name string) (id int, ok bool) {
	if name == "" || name == "root" {
		return 0, true
	}
	n, err := strconv.ParseInt(name, 10, 32)
	if err != nil {
		return 0, false
	}
	if n == -1 {
		return 0, true
	}
	return int(uint32(n)), true // two's complement is meant
}

// idField reads the id that is field i of a line; one that is missing is 0, as in BuildKit. The largest number of 32 bits stands
// for "no id" in system calls.
func idField(line []string, i int) (int, error) {
	if i >= len(line) || line[i] == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(line[i], 10, 32)
	if err != nil || id == 1<<32-1 {
		return 0, fmt.Errorf("invalid id %.40q: it must be a number between 0 and 4294967294", line[i])
	}
	return int(id), nil
}

// lookUp finds the first line of a colon-separated file that begins with name; nil if there is none.
func lookUp(root *rootfs.Root, file, name string) ([]string, error) {
	f, err := root.OpenFile(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", file)
	}
	limited := &io.LimitedReader{R: f, N: maxUserFile + 1}
	lines := bufio.NewScanner(limited)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, name+":") {
			return strings.Split(line, ":"), nil
		}
	}
	if limited.N == 0 {
		return nil, fmt.Errorf("%q exceeds %d bytes", file, maxUserFile)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return nil, nil
}

// MakeDir makes a working directory (WORKDIR): 0755, owned by owner (nil is root), as are the parents that are missing; one that exists is left alone.
// at is the modification time of what is made, in seconds since 1970; nil is now.
func MakeDir(root *rootfs.Root, dir string, owner *layer.Owner, at *int64) error {
	st, err := root.Stat(dir)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	made, err := makeDirs(root, dir, parentPerm, owner)
	if err != nil || at == nil {
		return err
	}
	for _, name := range slices.Backward(made) { // what is made in a folder changes its time
		if err := setTime(root, name, *at); err != nil {
			return err
		}
	}
	return nil
}

// setTime sets the modification time of a directory.
func setTime(root *rootfs.Root, name string, at int64) error {
	f, err := root.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close() // what is set is no data
	return rootfs.Utimes(f, ".", unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Sec: at})
}
