package supervisor

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Ownership lets a step in a user namespace with a single id see, and leave, files of many users. The kernel cannot give files away there, so
// the init records their owners: a file or a directory has the attribute user.containers.override_stat, everything else
// is in the attribute user.strake.owners of its directory. It also remembers whom each process takes itself for (processes).
//
// A thread that serves it has the box's root as its root and the init's /proc as its working directory: the kernel itself finds the way to what
// a caller means, for "PID/cwd/path" and "PID/fd/3/path" are paths too.
type Ownership struct {
	root      int       // the box's
	shared    bool      // the box's /proc shows processes that are none of the box
	once      sync.Once // guards the writing of proc
	proc      int       // of the supervisor
	processes *processes
	chrooted  atomic.Bool // a process may have another root than the box's

	mu sync.Mutex // held while an ownerTable is changed
}

// ownerRules are calls that Ownership answers. 15 is IDLimit.
const ownerRules = `{"syscalls": [
	{"action": "SCMP_ACT_NOTIFY", "names": ["chown", "lchown", "fchown", "fchownat", "chown32", "lchown32", "fchown32",
		"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups",
		"getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups",
		"setuid32", "setgid32", "setreuid32", "setregid32", "setresuid32", "setresgid32", "setfsuid32", "setfsgid32", "setgroups32",
		"getuid32", "geteuid32", "getgid32", "getegid32", "getresuid32", "getresgid32", "getgroups32",
		"chroot", "pivot_root", "setns"]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["setrlimit", "getrlimit", "ugetrlimit"], "args": [{"index": 0, "value": 15, "op": "SCMP_CMP_EQ"}]},
	{"action": "SCMP_ACT_NOTIFY", "names": ["prlimit64"], "args": [{"index": 1, "value": 15, "op": "SCMP_CMP_EQ"}]}
]}`

// OneID is a box whose user namespace has a single id.
type OneID struct {
	Root        int      // the box's
	Shared      bool     // the box's /proc shows processes that are none of the box
	Insecure    bool     // the step may do more than chroot
	User, Group uint32   // of the step
	Groups      []uint32 // the supplementary ones
}

// NewOwnership prepares for the step of b, and returns the limit (IDLimit) by which the step begins as its user.
func NewOwnership(b OneID) (*Ownership, unix.Rlimit, error) {
	user, group := b.User, b.Group
	p, l, err := newProcesses(&credentials{user: ids{user, user, user, user}, group: ids{group, group, group, group}, groups: slices.Sorted(slices.Values(b.Groups))})
	o := &Ownership{root: b.Root, shared: b.Shared, processes: p}
	o.chrooted.Store(b.Insecure)
	return o, l, err
}

func (o *Ownership) calls() map[string]handler {
	out := o.idCalls()
	for _, name := range []string{"listxattr", "llistxattr", "flistxattr"} {
		out[name] = o.list
	}
	for _, name := range []string{"setrlimit", "getrlimit", "ugetrlimit", "prlimit64"} {
		out[name] = o.limit
	}
	maps.Copy(out, o.statCalls())
	maps.Copy(out, o.createCalls())
	maps.Copy(out, o.userCalls())
	for _, name := range []string{"chown", "lchown", "fchown", "fchownat", "chown32", "lchown32", "fchown32"} {
		out[name] = o.chownCall
	}
	for _, name := range []string{"chroot", "pivot_root", "setns"} {
		out[name] = func(r *request) (int64, error) {
			if who, err := o.processes.of(r); err != nil || !who.root() {
				return 0, unix.EPERM
			}
			o.chrooted.Store(true)
			return 0, errKernel
		}
	}
	return out
}

func (o *Ownership) prepare(s *Supervisor) error {
	o.once.Do(func() { o.proc = s.proc })
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("preparing to record owners: %w", err)
	}
	if err := unix.Fchdir(s.proc); err != nil {
		return fmt.Errorf("preparing to record owners: %w", err)
	}
	return nil
}

func (o *Ownership) end() error { return nil }

// target is a file that a call names.
type target struct {
	dir    int // as in openat(2)
	path   string
	follow bool
	empty  bool // the path may be empty: dir itself is meant
}

// enter gives this thread the caller's root, if that may be another one; leave takes it back.
func (o *Ownership) enter(r *request) (leave func(), err error) {
	if !o.chrooted.Load() {
		return func() {}, nil
	}
	root, err := unix.Open(strconv.Itoa(int(r.pid))+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, unix.EPERM
	}
	defer unix.Close(root)
	leave = func() { _ = o.chroot(o.root) }
	if err := o.chroot(root); err != nil {
		leave()
		return nil, unix.EPERM
	}
	return leave, nil
}

func (o *Ownership) chroot(root int) error {
	return errors.Join(unix.Fchdir(root), unix.Chroot("."), unix.Fchdir(o.proc))
}

// own rewrites names of the caller's own descriptors, which lead this thread nowhere, for the init's /proc. Nothing else of that must be within reach: it shows
// more than the box's processes.
func (t target) own(r *request) (string, bool) {
	for _, prefix := range []string{"/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/"} {
		if fd, ok := strings.CutPrefix(t.path, prefix); ok {
			if _, err := strconv.ParseUint(fd, 10, 31); err != nil {
				return "", false
			}
			return strconv.Itoa(int(r.pid)) + "/fd/" + fd, true
		}
	}
	for i, name := range []string{"/dev/stdin", "/dev/stdout", "/dev/stderr"} {
		if t.path == name {
			return strconv.Itoa(int(r.pid)) + "/fd/" + strconv.Itoa(i), true
		}
	}
	return "", false
}

// base is where t's path starts, as a path of this thread: empty for an absolute one.
func (t target) base(r *request) string {
	pid := strconv.Itoa(int(r.pid))
	switch {
	case path.IsAbs(t.path):
		return ""
	case t.dir == unix.AT_FDCWD:
		return pid + "/cwd"
	}
	return pid + "/fd/" + strconv.Itoa(t.dir)
}

// open opens (O_PATH) the file that t is for the caller.
// Preconditions: this thread has the caller's root.
func (o *Ownership) open(r *request, t target) (int, error) {
	if t.path == "" && !t.empty {
		return -1, unix.ENOENT
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	if !t.follow {
		how.Flags |= unix.O_NOFOLLOW
	}
	base := unix.AT_FDCWD
	if own, ok := t.own(r); ok {
		t.path, how.Resolve = own, 0
	} else if name := t.base(r); name != "" {
		flags := unix.O_PATH | unix.O_CLOEXEC
		if t.path != "" {
			flags |= unix.O_DIRECTORY
		}
		fd, err := unix.Open(name, flags, 0)
		if errors.Is(err, unix.ENOENT) {
			err = unix.EBADF
		}
		if err != nil {
			return -1, err
		}
		if t.path == "" {
			if err := r.valid(); err != nil {
				unix.Close(fd)
				return -1, err
			}
			return fd, nil
		}
		defer unix.Close(fd)
		base = fd
	}
	// From here on it does not matter any more whether the pid is the caller's.
	if err := r.valid(); err != nil {
		return -1, err
	}
	return unix.Openat2(base, t.path, &how)
}

// fdPath is a path of this thread to what its own descriptor fd is.
func fdPath(fd int) string { return "self/fd/" + strconv.Itoa(fd) }

// chownCall serves all calls that change the owner of a file.
func (o *Ownership) chownCall(r *request) (int64, error) {
	t := target{dir: unix.AT_FDCWD, follow: true}
	ids := 1
	var err error
	switch r.base() {
	case "lchown":
		t.follow = false
	case "fchown":
		t.dir, t.empty = int(int32(r.args[0])), true
		if t.dir < 0 {
			return 0, unix.EBADF
		}
	case "fchownat":
		flags := uint32(r.args[4])
		if flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
			return 0, unix.EINVAL
		}
		t.dir, t.follow, t.empty, ids = int(int32(r.args[0])), flags&unix.AT_SYMLINK_NOFOLLOW == 0, flags&unix.AT_EMPTY_PATH != 0, 2
	}
	if r.base() != "fchown" {
		if t.path, err = r.text(r.args[ids-1]); err != nil {
			return 0, err
		}
	}
	leave, err := o.enter(r)
	if err != nil {
		return 0, err
	}
	defer leave()
	who, err := o.processes.of(r)
	if err != nil {
		return 0, err
	}
	fd, err := o.find(r, who, t)
	if errors.Is(err, errKernel) {
		fd, err = o.open(r, t)
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if r.base() == "fchown" && o.place(r, t.dir) {
		return 0, unix.EBADF
	}
	return 0, o.chown(who, fd, r.argID(ids), r.argID(ids+1))
}

// place says whether a descriptor of the caller is only a place (O_PATH).
func (o *Ownership) place(r *request, fd int) bool {
	flags, err := procField(strconv.Itoa(int(r.pid))+"/fdinfo/"+strconv.Itoa(fd), "flags:")
	return err != nil || flags&unix.O_PATH != 0
}

// procField reads an octal number from the start of a file of /proc.
func procField(name, key string) (uint64, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 512)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return 0, err
	}
	_, text, _ := strings.Cut(string(buf[:n]), "\n"+key)
	text, _, _ = strings.Cut(text, "\n")
	return strconv.ParseUint(strings.TrimSpace(text), 8, 64)
}

// chown gives what fd is to uid and gid, for c.
func (o *Ownership) chown(c *credentials, fd int, uid, gid uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if !carries(st.Mode) {
		return o.chownEntry(c, fd, &st, owner{uid, gid})
	}
	text, err := getAttr(fdPath(fd), overrideStat, true)
	if err != nil {
		return err
	}
	now, _ := parseOverride(text)
	if !c.mayChown(now.owner, owner{uid, gid}) {
		return unix.EPERM
	}
	if err := kernelChown(fd, uid, gid); err != nil {
		return err
	}
	return putOverride(fd, text, now, now.changed(uid, gid), st.Mode)
}

// chownEntry is chown for what is recorded in its directory. What has no name has its owner for nobody.
func (o *Ownership) chownEntry(c *credentials, fd int, st *unix.Stat_t, to owner) error {
	now, err := o.ownerOf(fd, st)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	if !c.mayChown(now, to) {
		return unix.EPERM
	}
	if err := kernelChown(fd, to.uid, to.gid); err != nil {
		return err
	}
	if err := unix.Fstat(fd, st); err != nil {
		return err
	}
	dir, name, err := o.parent(fd, st)
	if err != nil {
		return nil // it has no name
	}
	defer unix.Close(dir)
	return o.recordName(dir, name, now.changed(to.uid, to.gid))
}

// kernelChown lets the kernel do the rest of what the call means, with the one owner that it knows: the copy of a file from a layer below, times, setuid bits,
// capabilities, and what a mount or a file forbids.
func kernelChown(fd int, uid, gid uint32) error {
	return unix.Fchownat(fd, "", real(uid), real(gid), unix.AT_EMPTY_PATH)
}

// changed is o with other ids; as in chown(2), keep leaves one as it is.
func (o owner) changed(uid, gid uint32) owner {
	if uid != keep {
		o.uid = uid
	}
	if gid != keep {
		o.gid = gid
	}
	return o
}

// real is the id that the kernel gets for id.
func real(id uint32) int {
	if id == keep {
		return -1
	}
	return 0
}

// mayChown says whether a process may turn one owner into the other.
func (c *credentials) mayChown(from, to owner) bool {
	if c.user.fs == 0 || to.uid == keep && to.gid == keep {
		return true
	}
	return from.uid == c.user.fs && (to.uid == keep || to.uid == from.uid) && (to.gid == keep || to.gid == from.gid || c.inGroup(to.gid))
}

// carries says whether files of a mode can carry attributes of users.
func carries(mode uint32) bool {
	typ := mode & unix.S_IFMT
	return typ == unix.S_IFREG || typ == unix.S_IFDIR
}

// owner returns the recorded owner of what fd is: ENOTSUP where none can be recorded.
func (o *Ownership) owner(fd int) (owner, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return owner{}, err
	}
	return o.ownerOf(fd, &st)
}

// ownerOf is owner for a file whose stat is known.
func (o *Ownership) ownerOf(fd int, st *unix.Stat_t) (owner, error) {
	if carries(st.Mode) {
		text, err := readAttr(fdPath(fd), overrideStat, true)
		if err != nil {
			return owner{}, err
		}
		v, _ := parseOverride(text)
		return v.owner, nil
	}
	dir, name, err := o.parent(fd, st)
	if err != nil {
		return owner{}, nil // it has no name
	}
	defer unix.Close(dir)
	if _, err := readAttr(fdPath(dir), ownersAttr, true); err != nil {
		return owner{}, err
	}
	return entry(fdPath(dir), name)
}

// record writes down that a new file or directory has the owner to.
func (o *Ownership) record(fd int, to owner) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return putOverride(fd, "", override{}, to, st.Mode)
}

// putOverride changes the attribute of fd, which is text and means now.
func putOverride(fd int, text string, now override, to owner, mode uint32) error {
	now.owner, now.mode = to, mode&0o7777
	value := now.String()
	if now.kind == "" && to == (owner{}) {
		value = ""
	}
	if value == text {
		return nil
	}
	return putAttr(fdPath(fd), overrideStat, value)
}

// parent finds a directory (O_PATH) and a name in it for what fd is: that the kernel remembers where it was found does not mean that
// it is still there.
// Preconditions: this thread has the caller's root.
func (o *Ownership) parent(fd int, st *unix.Stat_t) (dir int, name string, err error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink(fdPath(fd), buf)
	if err != nil {
		return -1, "", err
	}
	full := string(buf[:n])
	if !path.IsAbs(full) {
		return -1, "", unix.ENOENT
	}
	dirName, name := path.Split(full)
	dir, err = unix.Openat2(unix.AT_FDCWD, dirName, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, "", err
	}
	var there unix.Stat_t
	if err := unix.Fstatat(dir, name, &there, unix.AT_SYMLINK_NOFOLLOW); err != nil || there.Dev != st.Dev || there.Ino != st.Ino {
		unix.Close(dir)
		return -1, "", unix.ENOENT
	}
	return dir, name, nil
}
