package supervisor

import (
	"errors"
	"maps"
	"path"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// createRules are the calls that make files and change their names: what a process that takes itself for another user than root makes is
// that user's. 64 is O_CREAT, 4194304 the bit of O_TMPFILE, 61440 S_IFMT, 4096 S_IFIFO, 32768 S_IFREG.
const createRules = `{"syscalls": [
	{"action": "SCMP_ACT_NOTIFY", "names": ["open"], "args": [{"index": 1, "value": 64, "valueTwo": 64, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["open"], "args": [{"index": 1, "value": 4194304, "valueTwo": 4194304, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["openat"], "args": [{"index": 2, "value": 64, "valueTwo": 64, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["openat"], "args": [{"index": 2, "value": 4194304, "valueTwo": 4194304, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["mknod"], "args": [{"index": 1, "value": 61440, "valueTwo": 4096, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["mknod"], "args": [{"index": 1, "value": 61440, "valueTwo": 32768, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["mknod"], "args": [{"index": 1, "value": 61440, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["mknodat"], "args": [{"index": 2, "value": 61440, "valueTwo": 4096, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["mknodat"], "args": [{"index": 2, "value": 61440, "valueTwo": 32768, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["mknodat"], "args": [{"index": 2, "value": 61440, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["creat", "openat2", "mkdir", "mkdirat", "symlink", "symlinkat",
		"rename", "renameat", "renameat2", "link", "linkat", "execve", "execveat", "access", "faccessat", "faccessat2"]}
]}`

// createCalls are those of createRules.
func (o *Ownership) createCalls() map[string]handler {
	out := map[string]handler{}
	for _, name := range []string{"open", "openat", "openat2", "creat", "mkdir", "mkdirat", "symlink", "symlinkat", "mknod", "mknodat"} {
		out[name] = o.createCall
	}
	maps.Copy(out, map[string]handler{
		"rename": o.rename, "renameat": o.rename, "renameat2": o.rename, "link": o.rename, "linkat": o.rename,
		"execve": o.exec, "execveat": o.exec, "access": o.access, "faccessat": o.access, "faccessat2": o.access,
	})
	return out
}

// creation is a file that is to be made.
type creation struct {
	target
	how  unix.OpenHow // of the opens: flags, mode and resolve; of the others, only mode
	kind uint32       // S_IFREG for the opens
	link string       // of a symlink
	node bool         // by mknod
}

// creationCall reads the arguments of r. What the kernel would refuse is left to it.
func creationCall(r *request) (c creation, err error) {
	c.dir, c.kind = unix.AT_FDCWD, unix.S_IFREG
	args := r.args[:]
	name, at := strings.CutSuffix(strings.TrimSuffix(r.name, "2"), "at")
	if r.name == "creat" {
		name, at = r.name, false
	}
	if name == "symlink" {
		if c.link, err = r.text(args[0]); err != nil {
			return c, err
		}
		args = args[1:]
	}
	if at {
		c.dir, args = int(int32(args[0])), args[1:]
	}
	if c.path, err = r.text(args[0]); err != nil {
		return c, err
	}
	switch name {
	case "open":
		if r.name == "openat2" {
			return c, c.openHow(r)
		}
		c.how.Flags, c.how.Mode = uint64(uint32(args[1])), args[2]&0o7777
	case "creat":
		c.how.Flags, c.how.Mode = unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, args[1]&0o7777
	case "mkdir":
		c.kind, c.how.Mode = unix.S_IFDIR, args[1]&0o7777
	case "symlink":
		c.kind = unix.S_IFLNK
	case "mknod":
		c.node, c.how.Mode = true, args[1]&0o7777
		if args[1]&unix.S_IFMT != 0 {
			c.kind = uint32(args[1]) & unix.S_IFMT
		}
		if c.kind != unix.S_IFREG && c.kind != unix.S_IFIFO {
			return c, unix.EINVAL // devices are for others
		}
	}
	return c, nil
}

// openHow reads the argument of openat2.
func (c *creation) openHow(r *request) error {
	var buf [24]byte
	if r.args[3] != uint64(len(buf)) {
		return unix.EINVAL
	}
	if err := r.load(r.args[2], buf[:]); err != nil {
		return err
	}
	c.how = *(*unix.OpenHow)(unsafe.Pointer(&buf))
	if c.how.Mode > 0o7777 {
		return unix.EINVAL
	}
	return nil
}

// tmpFile is the bit that tells O_TMPFILE from O_DIRECTORY.
const tmpFile = unix.O_TMPFILE &^ unix.O_DIRECTORY

// parentOf opens the directory that t's last name is in, and returns that name. An error is for the kernel to tell.
// Preconditions: this thread has the caller's root.
func (o *Ownership) parentOf(r *request, who *credentials, t target, slashes bool) (dir int, name string, err error) {
	p := t.path
	if slashes {
		p = strings.TrimRight(p, "/")
	}
	dirName, name := path.Split(p)
	if name == "" || name == "." || name == ".." || len(t.path) >= unix.PathMax {
		return -1, "", errKernel
	}
	if t.special() {
		return -1, "", errKernel
	}
	t.path, t.follow, t.empty = dirName, true, true
	if dir, err = o.find(r, who, t); err != nil {
		return -1, "", refusal(err)
	}
	return dir, name, nil
}

// createCall serves all calls that make one file.
func (o *Ownership) createCall(r *request) (int64, error) {
	who, err := o.processes.of(r)
	if err != nil {
		return 0, err
	}
	c, err := creationCall(r)
	if err != nil {
		return 0, errKernel
	}
	leave, err := o.enter(r)
	if err != nil {
		return 0, errKernel
	}
	defer leave()
	if c.opens() && c.how.Flags&(unix.O_CREAT|tmpFile) == 0 {
		return 0, o.mayOpen(r, who, c)
	}
	if c.how.Flags&tmpFile != 0 {
		dir, err := o.find(r, who, target{dir: c.dir, path: c.path, follow: true})
		if err != nil {
			return 0, refusal(err)
		}
		defer unix.Close(dir)
		return o.createIn(r, who, c, dir, ".")
	}
	for range maxLinks {
		dir, name, err := o.parentOf(r, who, c.target, c.kind == unix.S_IFDIR)
		if err != nil {
			return 0, err
		}
		val, err := o.createIn(r, who, c, dir, name)
		var link linkError
		if !errors.As(err, &link) {
			unix.Close(dir)
			return val, err
		}
		// The file at the end of a link.
		if !path.IsAbs(string(link)) {
			full, perr := readlinkAt(fdPath(dir))
			if perr != nil || !path.IsAbs(full) {
				unix.Close(dir)
				return 0, errKernel
			}
			link = linkError(full + "/" + string(link))
		}
		unix.Close(dir)
		c.path = string(link)
	}
	return 0, errKernel
}

// linkError is where a link leads to.
type linkError string

func (l linkError) Error() string { return "a link to " + string(l) }

func readlinkAt(name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink(name, buf)
	return string(buf[:max(n, 0)]), err
}

// createIn makes what c says as name in dir, if the kernel itself would not make it the right user's.
func (o *Ownership) createIn(r *request, who *credentials, c creation, dir int, name string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return 0, errKernel
	}
	to := owner{who.user.fs, who.group.fs}
	if who.fsRoot() && st.Mode&unix.S_ISGID == 0 {
		if carries(c.kind) {
			return 0, errKernel
		}
		return 0, o.forget(dir, name)
	}
	parent, err := o.owner(dir)
	if err != nil {
		return 0, errKernel
	}
	if st.Mode&unix.S_ISGID != 0 {
		to.gid = parent.gid
	}
	if to == (owner{}) {
		return 0, errKernel
	}
	var there unix.Stat_t
	if name != "." && unix.Fstatat(dir, name, &there, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return 0, existing(who, c, dir, name, &there)
	}
	if !who.may(parent, st.Mode, 3) {
		return 0, unix.EACCES
	}
	mask, err := o.umask(r)
	if err != nil {
		return 0, unix.EPERM
	}
	unix.Umask(mask)
	if err := r.valid(); err != nil {
		return 0, err
	}
	return o.make(r, c, dir, name, to)
}

// existing says what becomes of c if there is a file of that name already.
func existing(who *credentials, c creation, dir int, name string, st *unix.Stat_t) error {
	if c.how.Flags&unix.O_CREAT == 0 || c.how.Flags&(unix.O_EXCL|unix.O_NOFOLLOW) != 0 {
		return errKernel
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		var fs unix.Statfs_t
		if err := unix.Fstatfs(dir, &fs); err != nil || fs.Type == unix.PROC_SUPER_MAGIC {
			return errKernel // no link at all
		}
		link, err := readlinkAt(fdPath(dir) + "/" + name)
		if err != nil || link == "" {
			return errKernel
		}
		return linkError(link)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errKernel
	}
	text, err := readAttr(fdPath(dir)+"/"+name, overrideStat, false)
	if err != nil {
		return errKernel
	}
	v, _ := parseOverride(text)
	if !who.may(v.owner, st.Mode, c.wants()) {
		return unix.EACCES
	}
	return errKernel
}

// make makes the file. Nobody else has the name, or the kernel says so.
// Preconditions: this thread has the caller's root and umask.
func (o *Ownership) make(r *request, c creation, dir int, name string, to owner) (int64, error) {
	var err error
	switch {
	case c.kind == unix.S_IFDIR:
		err = unix.Mkdirat(dir, name, uint32(c.how.Mode))
	case c.kind == unix.S_IFLNK:
		if err = unix.Symlinkat(c.link, dir, name); err == nil {
			return 0, o.recordName(dir, name, to)
		}
	case c.kind == unix.S_IFIFO:
		if err = unix.Mknodat(dir, name, unix.S_IFIFO|uint32(c.how.Mode), 0); err == nil {
			return 0, o.recordName(dir, name, to)
		}
	case c.node:
		err = unix.Mknodat(dir, name, unix.S_IFREG|uint32(c.how.Mode), 0)
	default:
		return o.makeOpen(r, c, dir, name, to)
	}
	if err != nil {
		return 0, err
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, nil // it is gone already
	}
	defer unix.Close(fd)
	return 0, o.record(fd, to)
}

// makeOpen makes a file and gives the caller a descriptor of it.
func (o *Ownership) makeOpen(r *request, c creation, dir int, name string, to owner) (int64, error) {
	flags := int(c.how.Flags) | unix.O_CLOEXEC
	if flags&tmpFile == 0 {
		flags |= unix.O_EXCL | unix.O_NOFOLLOW
	}
	fd, err := unix.Openat(dir, name, flags, uint32(c.how.Mode))
	if errors.Is(err, unix.EEXIST) && c.how.Flags&unix.O_EXCL == 0 {
		return 0, errKernel // somebody was faster
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := o.record(fd, to); err != nil {
		return 0, err
	}
	return r.give(fd, int(c.how.Flags))
}

// forget removes what is known of an earlier owner of name in dir, which the kernel is about to make something of that carries
// no attributes.
func (o *Ownership) forget(dir int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		return errKernel
	}
	if err := o.recordName(dir, name, owner{}); err != nil {
		return err
	}
	return errKernel
}

// may says whether a process may do with a file of that owner and mode what want says: 4 to read, 2 to write, 1 to execute or search.
func (c *credentials) may(of owner, mode, want uint32) bool {
	switch {
	case c.user.fs == 0:
		return true
	case of.uid == c.user.fs:
		mode >>= 6
	case c.inGroup(of.gid):
		mode >>= 3
	}
	return mode&want == want
}

// umask reads the umask of the caller in /proc: no call tells that of another process.
func (o *Ownership) umask(r *request) (int, error) {
	mask, err := procField(strconv.Itoa(int(r.pid))+"/status", "Umask:")
	return int(mask & 0o777), err
}
