package supervisor

import (
	"errors"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// procfs serves, under chroot, what the kernel serves in /proc by process: there is no proc file system in the tree. What is the same for all
// processes lies there as files (the init makes them), and costs nothing.
//
// It answers paths that say /proc/self, /proc/PID or /dev/fd in so many words, or that go on from there where the caller has a directory of it (locate.go);
// whatever leads there otherwise finds the files only. It hands out nothing that leads out of the tree: no directories but those of the tree, no files but those
// of a list, no program from outside (program.go), and nothing of other processes that the kernel guards.
type procfs struct {
	Box
	known map[string]bool // what paths that are answered can end with, but for numbers

	mu       sync.Mutex  // held while the tree's /proc is changed
	programs map[int]int // what processes executed last by the name of their own, or of another's, program
}

func newProcfs(b Box) *procfs {
	return &procfs{Box: b, known: knownNames(), programs: map[int]int{}}
}

// procRules ask for calls that name a file, and the host; not for those that may name none (4096 is AT_EMPTY_PATH).
const procRules = `{"syscalls": [
	{"names": ["open", "openat", "openat2", "stat", "lstat", "readlink", "readlinkat", "access", "faccessat", "faccessat2",
		"getxattr", "lgetxattr", "listxattr", "llistxattr", "uname", "creat", "truncate", "chdir", "execve"], "action": "SCMP_ACT_NOTIFY"},
	{"names": ["execveat"], "action": "SCMP_ACT_NOTIFY", "args": [{"index": 4, "value": 4096, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"names": ["newfstatat"], "action": "SCMP_ACT_NOTIFY", "args": [{"index": 3, "value": 4096, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"names": ["statx"], "action": "SCMP_ACT_NOTIFY", "args": [{"index": 2, "value": 4096, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}
]}`

func (p *procfs) calls() map[string]handler {
	calls := map[string]handler{
		"open": p.opening(0, openFlags), "openat": p.opening(1, openFlags), "openat2": p.opening(1, p.openHow), "creat": p.opening(0, creatFlags),
		"truncate": p.truncate, "chdir": p.handle(0, p.chdir), "execve": p.handle(0, p.execute), "execveat": p.handle(1, p.execute),
		"stat": p.handle(0, p.stat), "lstat": p.handle(0, p.lstat), "newfstatat": p.handle(1, p.fstatat), "statx": p.handle(1, p.statx),
		"readlink": p.handle(0, p.readlink), "readlinkat": p.handle(1, p.readlink),
		"uname":    p.uname,
		"getxattr": p.handle(0, noAttributes), "lgetxattr": p.handle(0, noAttributes),
		"listxattr": p.handle(0, noAttributes), "llistxattr": p.handle(0, noAttributes),
		"access": p.handle(0, p.access), "faccessat": p.handle(1, p.access), "faccessat2": p.handle(1, p.access),
	}
	maps.Copy(calls, p.changeCalls())
	return calls
}

// noAttributes says that files have no extended attributes.
func noAttributes(*asked) (int64, error) { return 0, unix.EOPNOTSUPP }

func (p *procfs) prepare(*Supervisor) error { return nil }

func (p *procfs) end() error {
	for _, fd := range p.programs {
		unix.Close(fd)
	}
	return unix.Close(p.Tree)
}

// asked is a call about something in /proc.
type asked struct {
	*request
	args  []uint64 // those after the path
	own   int      // the caller's process
	who   relative // whose file it is; pid is 0 for /proc itself
	name  string   // of the file in /proc/PID, empty for that itself
	whole string   // the path
	slash bool     // it ended with one, or with dots: it is a directory
}

// handle makes a handler of f, for calls whose argument i is a path.
func (p *procfs) handle(i int, f func(*asked) (int64, error)) handler {
	return func(r *request) (int64, error) {
		a, err := p.ask(r, i, false)
		if err == nil {
			err = p.parse(a)
		}
		if err != nil {
			return 0, err
		}
		return f(a)
	}
}

// ask makes an asked of r, whose argument i is a path, if it could concern this duty. every: any name can, not only those that are known.
func (p *procfs) ask(r *request, i int, every bool) (*asked, error) {
	if r.compat {
		return nil, errKernel
	}
	name, err := p.path(r, r.args[i])
	if err == nil && name != "" && name[0] != '/' && (every || p.mayServe(name)) {
		name, err = p.absolute(r, i, name)
	}
	if err != nil || !concerns(name) || strings.Contains(name, "/../") {
		return nil, errKernel // which finds out what is wrong with it
	}
	a := &asked{request: r, args: r.args[i+1:], whole: path.Clean(name)}
	a.slash = slices.Contains([]string{"", ".", ".."}, name[strings.LastIndexByte(name, '/')+1:])
	return a, nil
}

// path reads the path of a caller, if it is one that could concern this duty. The kernel does not let this process look into all: not into
// one that has just become another user.
func (p *procfs) path(r *request, addr uint64) (string, error) {
	var buf [64]byte // enough for what is served
	n, err := p.memory(r, func(mem int) (int, error) { return unix.Pread(mem, buf[:], int64(addr)) })
	if err != nil || n <= 0 {
		return "", unix.EFAULT
	}
	end := slices.Index(buf[:n], 0)
	if end < 0 {
		return "", unix.ENAMETOOLONG
	}
	return string(buf[:end]), nil
}

// memory lets f read or write the memory of the caller, as the caller's user if root may not.
func (p *procfs) memory(r *request, f func(mem int) (int, error)) (int, error) {
	name := strconv.Itoa(int(r.pid)) + "/mem"
	fd, err := unix.Openat(p.Proc, name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		err = p.as(r, func() error {
			fd, err = unix.Openat(p.Proc, name, unix.O_RDWR|unix.O_CLOEXEC, 0)
			return err
		})
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return f(fd)
}

// as calls f with the user and group that the caller's files have.
// Preconditions: the thread serves calls only.
func (p *procfs) as(r *request, f func() error) error {
	uid, gid, err := p.fileOwner(int(r.pid))
	if err != nil {
		return err
	}
	defer func() {
		_, _ = unix.SetfsuidRetUid(0)
		_, _ = unix.SetfsgidRetGid(0)
	}()
	_, _ = unix.SetfsgidRetGid(gid)
	_, _ = unix.SetfsuidRetUid(uid)
	if now, _ := unix.SetfsuidRetUid(-1); now != uid {
		return unix.EPERM
	}
	return f()
}

// fileOwner reads the last of the four user and group ids of a thread.
func (p *procfs) fileOwner(pid int) (uid, gid int, err error) {
	data, err := readFile(p.Proc, strconv.Itoa(pid)+"/status")
	if err != nil {
		return 0, 0, err
	}
	var c caller
	if err := c.parseStatus(string(data)); err != nil {
		return 0, 0, err
	}
	return c.uid, c.gid, nil
}

// concerns says whether a path is one that this duty answers.
func concerns(name string) bool {
	return strings.HasPrefix(name, "/proc") || strings.HasPrefix(name, "/sys/") || strings.HasPrefix(name, "/dev/fd") || strings.HasPrefix(name, "/dev/std")
}

// split turns a clean path into a process (its number, or "self"; empty for /proc itself) and a name there; ok is false if it is the kernel's.
func split(clean string) (who, file string, ok bool) {
	switch fd, isFD := strings.CutPrefix(clean, "/dev/fd/"); {
	case isFD:
		return "self", "fd/" + fd, true
	case clean == "/dev/fd":
		return "self", "fd", true
	}
	if i := slices.Index([]string{"/dev/stdin", "/dev/stdout", "/dev/stderr"}, clean); i >= 0 {
		return "self", "fd/" + strconv.Itoa(i), true
	}
	if clean == "/proc" {
		return "", "", true
	}
	if rest, ok := strings.CutPrefix(clean, "/sys/"); ok {
		return "", clean, slices.Contains(sysFiles(), rest)
	}
	rest, ok := strings.CutPrefix(clean, "/proc/")
	if !ok {
		return "", "", false
	}
	if slices.Contains(kernelFiles(), rest) {
		return "", rest, true
	}
	who, file, _ = strings.Cut(rest, "/")
	if who == "thread-self" {
		who = "self"
	}
	if _, err := strconv.ParseUint(who, 10, 31); err != nil && who != "self" {
		return "", "", false
	}
	return who, file, true
}

// parse finds out which process and which file of /proc the name in a means.
func (p *procfs) parse(a *asked) error {
	who, file, ok := split(a.whole)
	if !ok {
		return errKernel
	}
	pid, _, err := (&relatives{family: p.Family}).caller(a.request)
	if err != nil {
		return err
	}
	a.own, a.name = pid, file
	if who == "" {
		return nil
	}
	if who != "self" {
		if pid, err = strconv.Atoi(who); err != nil || !p.Family.has(pid) {
			return unix.ENOENT
		}
	}
	if task, rest, ok := strings.Cut(strings.TrimPrefix(file, "task/"), "/"); ok && strings.HasPrefix(file, "task/") {
		tid, err := strconv.Atoi(task)
		if err != nil || !p.Family.has(tid) {
			return unix.ENOENT
		}
		pid, a.name = tid, rest
	}
	a.who, err = p.Family.read(pid)
	if err != nil {
		return unix.ENOENT
	}
	return nil
}

// plainFiles are the files of /proc/PID that are handed out as they are, for reading. None is a way to anything else.
func plainFiles() []string {
	return []string{
		"stat", "status", "statm", "cmdline", "comm", "limits", "maps", "smaps", "smaps_rollup", "oom_score", "oom_score_adj", "oom_adj",
		"wchan", "schedstat", "io", "loginuid", "sessionid", "cgroup", "personality", "uid_map", "gid_map", "setgroups", "environ", "auxv",
	}
}

// guarded are those of them that are for the process itself only.
func guarded() []string { return []string{"environ", "auxv", "maps", "smaps", "smaps_rollup", "io"} }

// target returns the path of a's file in the proc file system outside.
func (p *procfs) target(a *asked) (string, error) {
	name := strconv.Itoa(a.who.pid) + "/" + a.name
	own := a.who.pid == a.own || a.who.pid == int(a.pid)
	switch {
	case slices.Contains(guarded(), a.name) && !own:
		return "", unix.EACCES
	case slices.Contains(plainFiles(), a.name), a.name == "exe":
		return name, nil
	case a.name == "cwd" || a.name == "root" || strings.HasPrefix(a.name, "fd/"):
		if !own {
			return "", unix.EACCES
		}
		if n, ok := strings.CutPrefix(a.name, "fd/"); ok {
			if _, err := strconv.ParseUint(n, 10, 31); err != nil {
				return "", unix.ENOENT
			}
		}
		return name, nil
	}
	return "", unix.ENOENT
}

// isDir says whether a is about a directory of this duty.
func (a *asked) isDir() bool {
	return a.name == "" || a.name == "fd" || a.name == "task"
}

// isLink says whether a names a link that the tree has itself.
func (a *asked) isLink() bool {
	return !a.slash && slices.Contains([]string{"/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr"}, a.whole)
}

// inTree says whether a is about a file that is the same for all processes.
func (a *asked) inTree() bool { return a.name == "mounts" || a.name == "mountinfo" }

// reopenFlags are the flags by which a file that is open may be opened again.
const reopenFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_NONBLOCK | unix.O_TRUNC | unix.O_DIRECTORY | unix.O_LARGEFILE | unix.O_PATH

// openWith opens the file of /proc that a means.
func (p *procfs) openWith(a *asked, flags int) (int64, error) {
	if a.who.pid == 0 && a.name == "" {
		p.list()
		return 0, errKernel
	}
	if a.who.pid == 0 {
		return p.openKernel(a, flags)
	}
	if a.isDir() || a.inTree() {
		return p.openTree(a, flags)
	}
	target, err := p.target(a)
	if err != nil {
		return 0, err
	}
	again := strings.HasPrefix(a.name, "fd/")
	switch {
	case !again && flags&(unix.O_ACCMODE|unix.O_TRUNC) != unix.O_RDONLY:
		return 0, unix.EACCES
	case flags&unix.O_NOFOLLOW != 0 && (again || a.name == "exe"):
		return 0, unix.ELOOP
	case flags&unix.O_PATH != 0 && a.name == "exe":
		return p.openProgram(a, flags)
	case flags&unix.O_PATH != 0 && !again, a.name == "cwd", a.name == "root":
		return 0, unix.EACCES
	}
	want := flags
	if again { // this process must not wait for the other end of a fifo
		flags |= unix.O_NONBLOCK
	}
	fd, err := p.reopen(a.request, target, flags)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if a.who.pid != a.own && !p.Family.has(a.who.pid) { // it has ended, and its pid may be another's
		return 0, unix.ENOENT
	}
	if a.name == "exe" {
		if _, ok := p.boxed(fd); !ok {
			return 0, unix.EACCES
		}
	}
	if again {
		if err := unblock(fd, want); err != nil {
			return 0, err
		}
	}
	return a.give(fd, flags)
}

// reopen opens target, a file in the proc file system outside, as the caller's user, which may not open all that it has. What is there of the kernel
// itself can only be read: the descriptor that is opened again may be one that was handed out here.
func (p *procfs) reopen(r *request, target string, flags int) (fd int, err error) {
	fd = -1
	err = p.as(r, func() error {
		at, err := unix.Openat(p.Proc, target, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(at)
		if serves(at) && flags&(unix.O_ACCMODE|unix.O_TRUNC) != unix.O_RDONLY {
			return unix.EACCES
		}
		fd, err = unix.Openat(p.Proc, "self/fd/"+strconv.Itoa(at), flags&reopenFlags|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// openKernel opens one of kernelFiles or sysFiles.
func (p *procfs) openKernel(a *asked, flags int) (int64, error) {
	if flags&(unix.O_ACCMODE|unix.O_TRUNC) != unix.O_RDONLY {
		return 0, unix.EROFS
	}
	dir, name := p.kernelFile(a)
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return a.give(fd, flags)
}

// kernelFile returns the directory, /proc or /sys outside of the box, and the name in it of the file that a means.
func (p *procfs) kernelFile(a *asked) (dir int, name string) {
	if rest, ok := strings.CutPrefix(a.name, "/sys/"); ok {
		return p.Sys, rest
	}
	return p.Proc, a.name
}

// unblock makes fd blocking, unless flags say otherwise.
func unblock(fd, flags int) error {
	if flags&(unix.O_NONBLOCK|unix.O_PATH) != 0 {
		return nil
	}
	return unix.SetNonblock(fd, false)
}

// openTree opens a directory or file of the tree's /proc, brought up to date.
func (p *procfs) openTree(a *asked, flags int) (int64, error) {
	name, err := p.refresh(a)
	if err != nil {
		return 0, err
	}
	if flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0 {
		return 0, unix.EACCES
	}
	return p.giveTree(a, name, flags)
}

// giveTree gives the caller a directory or file of the tree's /proc.
func (p *procfs) giveTree(a *asked, name string, flags int) (int64, error) {
	fd, err := unix.Openat2(p.Tree, name, &unix.OpenHow{
		Flags: uint64(flags&(unix.O_DIRECTORY|unix.O_PATH) | unix.O_CLOEXEC | unix.O_NONBLOCK), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return a.give(fd, flags)
}
