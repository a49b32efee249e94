package supervisor

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// statRules are the calls by which a step sees who owns a file. The 32-bit ABI's own forms are not among them: what programs of these
// see, but for statx, is root.
const statRules = `{"syscalls": [{"action": "SCMP_ACT_NOTIFY", "names": ["stat", "lstat", "fstat", "newfstatat", "statx"]}]}`

// statCalls are those of statRules.
func (o *Ownership) statCalls() map[string]handler {
	return map[string]handler{"stat": o.stat, "lstat": o.stat, "fstat": o.stat, "newfstatat": o.stat, "statx": o.stat}
}

// statArgs are the arguments of all calls of the family.
type statArgs struct {
	target
	flags int // as in fstatat(2)
	mask  int // of statx
	to    uint64
}

// statCall reads the arguments of r.
func statCall(r *request) (a statArgs, err error) {
	a.dir, a.to = unix.AT_FDCWD, r.args[1]
	at := 0
	switch r.name {
	case "fstat":
		a.dir, a.empty, a.follow = int(int32(r.args[0])), true, true
		return a, nil
	case "lstat":
		a.flags = unix.AT_SYMLINK_NOFOLLOW
	case "newfstatat":
		a.dir, a.to, a.flags, at = int(int32(r.args[0])), r.args[2], int(int32(r.args[3])), 1
	case "statx":
		a.dir, a.flags, a.mask, a.to, at = int(int32(r.args[0])), int(int32(r.args[2])), int(uint32(r.args[3])), r.args[4], 1
	}
	a.follow, a.empty = a.flags&unix.AT_SYMLINK_NOFOLLOW == 0, a.flags&unix.AT_EMPTY_PATH != 0
	if a.empty && r.args[at] == 0 {
		return a, nil // no path is as good as an empty one
	}
	a.path, err = r.text(r.args[at])
	return a, err
}

// name is t's path as one of this thread: where the caller starts, and the path from there. It is empty if there is none, and for what has
// no recorded owner.
func (t target) name(r *request) string {
	switch base := t.base(r); {
	case t.path == "" && (!t.empty || t.dir < 0 && t.dir != unix.AT_FDCWD):
		return ""
	case t.path == "":
		return base
	case base != "":
		return base + "/" + t.path
	}
	if own, ok := t.own(r); ok && t.follow {
		return own
	}
	if t.special() {
		return ""
	}
	return t.path
}

// stat answers for files that have a recorded owner other than root; the kernel does for all others. It comes often, so all that is asked of most files
// is whether they have the attribute.
func (o *Ownership) stat(r *request) (int64, error) {
	a, err := statCall(r)
	if err != nil {
		return 0, errKernel // which knows which error comes first
	}
	who, err := o.processes.of(r)
	if err != nil {
		return 0, errKernel
	}
	leave, err := o.enter(r)
	if err != nil {
		return 0, errKernel
	}
	defer leave()
	name := a.name(r)
	if name == "" {
		return 0, errKernel
	}
	flags := a.flags &^ unix.AT_EMPTY_PATH
	if o.shared || who.user.fs != 0 && a.path != "" && !a.openToAll(r, 0) {
		// With magic links, a name could lead out of the box; and users may not search every directory.
		fd, err := o.find(r, who, a.target)
		if err != nil {
			return 0, refusal(err)
		}
		defer unix.Close(fd)
		return o.statOpen(r, a, fd)
	}
	to, err := o.named(name, a.target)
	if err != nil || to == (owner{}) {
		return 0, errKernel
	}
	return 0, a.answer(r, unix.AT_FDCWD, name, flags, to)
}

// statOpen is stat for the file fd.
func (o *Ownership) statOpen(r *request, a statArgs, fd int) (int64, error) {
	to, err := o.owner(fd)
	if err != nil || to == (owner{}) {
		return 0, errKernel
	}
	return 0, a.answer(r, fd, "", unix.AT_EMPTY_PATH, to)
}

// answer tells the caller what the kernel says of name in dir, but for the owner.
func (a statArgs) answer(r *request, dir int, name string, flags int, to owner) error {
	if r.name == "statx" {
		var st unix.Statx_t
		if err := unix.Statx(dir, name, flags, a.mask, &st); err != nil {
			return errKernel
		}
		st.Uid, st.Gid = to.uid, to.gid
		return r.store(a.to, unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)))
	}
	if r.compat {
		return errKernel
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, flags); err != nil {
		return errKernel
	}
	st.Uid, st.Gid = to.uid, to.gid
	return r.store(a.to, unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)))
}

// named returns the recorded owner of what this thread finds by name, which stands for t.
func (o *Ownership) named(name string, t target) (owner, error) {
	text, err := getAttr(name, overrideStat, t.follow || t.path == "")
	if err != nil || text != "" {
		v, _ := parseOverride(text)
		return v.owner, err
	}
	if t.path == "" {
		return owner{}, nil
	}
	// Links, pipes and sockets have no attributes.
	var st unix.Stat_t
	flags := unix.AT_SYMLINK_NOFOLLOW
	if t.follow {
		flags = 0
	}
	if err := unix.Fstatat(unix.AT_FDCWD, name, &st, flags); err != nil || carries(st.Mode) {
		return owner{}, err
	}
	if t.follow {
		return o.followed(name)
	}
	dir, last := splitName(name)
	if last == "" {
		return owner{}, nil
	}
	if dir == "" {
		dir = "."
	}
	return entry(dir, last)
}

// followed returns the recorded owner of what this thread finds by name, which may be a link to it.
func (o *Ownership) followed(name string) (owner, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return owner{}, err
	}
	defer unix.Close(fd)
	return o.owner(fd)
}

// splitName splits a path into a directory and a name in it, which is empty if the path does not end in one.
func splitName(name string) (dir, last string) {
	i := strings.LastIndexByte(name, '/')
	dir, last = name[:i+1], name[i+1:]
	if last == "." || last == ".." {
		return dir, ""
	}
	return dir, last
}
