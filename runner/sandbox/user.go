package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// identity is whom a process runs as.
type identity struct {
	UID, GID uint32
	Groups   []uint32 // the supplementary groups, GID among them
	Home     string   // never empty
}

// passwdEntry is one user of a passwd file.
type passwdEntry struct {
	Name     string
	UID, GID uint32
	Home     string
}

const maxID = 1<<31 - 1 // as Docker and BuildKit have it

// Limits of passwd and group: of the whole file, and of a line, since a group may have many members.
const (
	maxUserFile = 10 << 20 // that of COPY --chown, too
	maxLine     = 1 << 20
)

// lookupUser resolves "user[:group]", both a name or a number, as BuildKit and runc do: passwd and group are the texts of
// the root's files. Without a group the user's own one counts, and all groups that list the user; a number that
// is not in passwd has group 0. The empty string is 0:0.
func lookupUser(spec string, passwd, group io.Reader) (*identity, error) {
	name, groupName, _ := strings.Cut(spec, ":")
	id := &identity{Home: "/"}
	want := name
	if want == "" {
		want = "0"
	}
	user, err := findPasswd(want, passwd)
	if err != nil {
		return nil, err
	}
	switch {
	case user != nil:
		id.UID, id.GID = user.UID, user.GID
		if user.Home != "" {
			id.Home = user.Home
		}
		if spec == "" {
			id.GID = 0
		}
	default:
		n, ok, err := number(want)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", want, err)
		}
		if !ok {
			return nil, fmt.Errorf("unable to find user %s: no matching entries in passwd file", want)
		}
		id.UID = n
	}
	if groupName != "" {
		if id.GID, err = findGroup(groupName, group); err != nil {
			return nil, err
		}
	}
	id.Groups = []uint32{id.GID}
	if groupName == "" && spec != "" && user != nil {
		if err := id.addGroups(user.Name, group); err != nil {
			return nil, err
		}
	}
	return id, nil
}

// number parses a numeric id; ok is false if s is not a number at all.
func number(s string) (n uint32, ok bool, err error) {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		if errors.Is(err, strconv.ErrRange) {
			return 0, true, errors.New("uids and gids must be in range 0-2147483647")
		}
		return 0, false, nil
	}
	if v < 0 || v > maxID {
		return 0, true, errors.New("uids and gids must be in range 0-2147483647")
	}
	return uint32(v), true, nil
}

// fields calls f with the fields of each line until it returns true.
func fields(r io.Reader, f func([]string) bool) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if f(strings.Split(line, ":")) {
			return nil
		}
	}
	return s.Err()
}

// findPasswd returns the first user with that name or number, or nil. A number is no name.
func findPasswd(want string, passwd io.Reader) (*passwdEntry, error) {
	n, isNumber, rangeErr := number(want)
	isNumber = isNumber && rangeErr == nil
	var found *passwdEntry
	homes := map[uint32]string{} // that of the first line with a number is meant, as in BuildKit, also where another line has the name
	err := fields(passwd, func(f []string) bool {
		if len(f) < 4 {
			return false
		}
		uid, ok, err := number(f[2])
		if !ok || err != nil {
			return false
		}
		gid, ok, err := number(f[3])
		if !ok || err != nil {
			return false
		}
		if _, known := homes[uid]; !known {
			homes[uid] = ""
			if len(f) > 5 {
				homes[uid] = f[5]
			}
		}
		if isNumber && uid != n || !isNumber && f[0] != want {
			return false
		}
		found = &passwdEntry{Name: f[0], UID: uid, GID: gid, Home: homes[uid]}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("reading the passwd file: %w", err)
	}
	return found, nil
}

// findGroup returns the id of the group with that name; a number is one.
func findGroup(want string, group io.Reader) (uint32, error) {
	n, isNumber, err := number(want)
	if err != nil {
		return 0, fmt.Errorf("group %s: %w", want, err)
	}
	if isNumber {
		return n, nil
	}
	var found bool
	var gid uint32
	err = fields(group, func(f []string) bool {
		if len(f) < 3 {
			return false
		}
		id, ok, err := number(f[2])
		if ok && err == nil && f[0] == want {
			found, gid = true, id
		}
		return found
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("reading the group file: %w", err)
	case !found:
		return 0, fmt.Errorf("unable to find group %s: no matching entries in group file", want)
	}
	return gid, nil
}

// addGroups adds the groups that list the user name.
func (id *identity) addGroups(name string, group io.Reader) error {
	err := fields(group, func(f []string) bool {
		if len(f) < 4 {
			return false
		}
		gid, ok, err := number(f[2])
		if !ok || err != nil {
			return false
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if member == name && len(id.Groups) < 65536 {
				id.Groups = append(id.Groups, gid)
				break
			}
		}
		return false
	})
	if err != nil {
		return fmt.Errorf("reading the group file: %w", err)
	}
	return nil
}

// identity finds out whom the step runs as, and sets HOME if the environment has none.
func (b *box) identity(hostTrees) error {
	passwd, err := b.openText("/etc/passwd")
	if err != nil {
		return err
	}
	defer passwd.Close()
	group, err := b.openText("/etc/group")
	if err != nil {
		return err
	}
	defer group.Close()
	if b.who, err = lookupUser(b.User, passwd, group); err != nil {
		return err
	}
	b.who.Groups = append(b.who.Groups, b.Groups...)
	for i, e := range b.Env {
		if home, ok := strings.CutPrefix(e, "HOME="); ok {
			if home == "" {
				b.Env[i] = "HOME=" + b.who.Home
			}
			return b.ownStreams()
		}
	}
	b.Env = append(b.Env, "HOME="+b.who.Home)
	return b.ownStreams()
}

// ownStreams gives the pipes and the terminal to the step's user, so that /dev/stdout can be opened again.
func (b *box) ownStreams() error {
	if b.NullStdin {
		if err := unix.Dup3(b.null[0], 0, 0); err != nil {
			return fmt.Errorf("opening /dev/null: %w", err)
		}
	}
	if b.who.UID == 0 || b.OneID {
		return nil
	}
	if b.console != nil {
		if err := b.console.Chown(int(b.who.UID), -1); err != nil {
			return fmt.Errorf("giving the terminal to the user: %w", b.who.explain(err))
		}
		return nil
	}
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			continue
		}
		if err := unix.Fchown(fd, int(b.who.UID), -1); err != nil {
			return fmt.Errorf("giving the output to the user: %w", b.who.explain(err))
		}
	}
	return nil
}

// explain is explainID for the user's own ids.
func (id *identity) explain(err error) error { return explainID(err, int(id.UID), int(id.GID)) }

// explainID says what is wrong with ids that a user namespace does not have.
func explainID(err error, uid, gid int) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%d:%d is outside the subordinate id range (see /etc/subuid and /etc/subgid): %w", uid, gid, err)
	}
	return err
}

// openText opens a regular file inside the root; a missing one is empty. It never blocks, whatever is there.
func (b *box) openText(name string) (*os.File, error) {
	fd, err := b.inRoot(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		if fd, err = unix.FcntlInt(uintptr(b.null[0]), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return nil, fmt.Errorf("opening /dev/null: %w", err)
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	var fs unix.Statfs_t
	st, err := f.Stat()
	switch {
	case err != nil || !st.Mode().IsRegular() || unix.Fstatfs(fd, &fs) != nil || fs.Type == unix.PROC_SUPER_MAGIC:
		err = errors.New("it is not a regular file") // of /proc, this process may read more than the step
	case st.Size() > maxUserFile:
		err = fmt.Errorf("it is larger than %d MiB", maxUserFile>>20)
	default:
		return f, nil
	}
	f.Close()
	return nil, fmt.Errorf("opening %s: %w", name, err)
}
