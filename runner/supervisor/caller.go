package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// caller is a thread of the step that waits for an answer, and what the kernel would look at for it.
type caller struct {
	path       string
	root, base int // base is where a relative path starts; -1 for an absolute one
	uid, gid   int // of the file system
	groups     []uint32
	caps       uint64
	umask      int
	sameGroups bool // as this process: the namespace knows no others
	namespace  bool // it is in the init's user namespace
}

// newCaller reads all that is to be known of the caller of r. The pid is the caller's for sure only if r is still valid afterwards.
func newCaller(r *request, a nodeArgs) (*caller, error) {
	dir, err := unix.Openat(r.s.proc, strconv.Itoa(int(r.pid)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	if err := r.valid(); err != nil {
		return nil, err
	}
	// From here on dir is of this thread for ever: it has no files any more when that ends.
	c := &caller{root: -1, base: -1}
	if err := c.read(r.s.proc, dir, a); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// read reads what there is to know of the caller, whose directory in /proc is dir; proc is the init's own.
func (c *caller) read(proc, dir int, a nodeArgs) (err error) {
	if c.path, err = callerPath(dir, a.path); err != nil {
		return err
	}
	if err := c.status(dir); err != nil {
		return err
	}
	var own, its unix.Stat_t
	if err := errors.Join(unix.Fstatat(proc, "self/ns/user", &own, 0), unix.Fstatat(dir, "ns/user", &its, 0)); err != nil {
		return err
	}
	c.namespace = own.Dev == its.Dev && own.Ino == its.Ino
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	if c.root, err = unix.Openat(dir, "root", flags, 0); err != nil {
		return err
	}
	if path.IsAbs(c.path) {
		return nil
	}
	if a.dir == unix.AT_FDCWD {
		c.base, err = unix.Openat(dir, "cwd", flags, 0)
		return err
	}
	c.base, err = unix.Openat(dir, "fd/"+strconv.Itoa(a.dir), flags, 0)
	if errors.Is(err, unix.ENOENT) {
		return unix.EBADF
	}
	return err
}

func (c *caller) close() {
	for _, fd := range []int{c.root, c.base} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// callerPath reads a path from a process's memory, page by page: what comes after its end may not be there.
func callerPath(dir int, addr uint64) (string, error) {
	mem, err := unix.Openat(dir, "mem", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(mem)
	page := uint64(os.Getpagesize())
	buf := make([]byte, 0, unix.PathMax)
	for len(buf) < cap(buf) {
		at := addr + uint64(len(buf))
		part := buf[len(buf):min(cap(buf), len(buf)+int(page-at%page))]
		n, err := unix.Pread(mem, part, int64(at))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return "", unix.EFAULT
		}
		if end := bytes.IndexByte(part[:n], 0); end >= 0 {
			return string(buf[:len(buf)+end]), nil
		}
		buf = buf[:len(buf)+n]
	}
	return "", unix.ENAMETOOLONG
}

// status reads who the caller is and what it may.
func (c *caller) status(dir int) error {
	data, err := readFile(dir, "status")
	if err != nil {
		return fmt.Errorf("reading the caller's status: %w", err)
	}
	return c.parseStatus(string(data))
}

// readFile reads a file of a proc file system.
func readFile(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(f)
}

// parseStatus reads the lines of /proc/PID/status that are needed (proc(5)); none may be missing.
func (c *caller) parseStatus(text string) error {
	found := 0
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		var err error
		switch key {
		case "Umask":
			c.umask, err = field(f, 0, 8)
		case "Uid":
			c.uid, err = field(f, 3, 10)
		case "Gid":
			c.gid, err = field(f, 3, 10)
		case "CapEff":
			c.caps, err = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		case "Groups":
			for i := range f {
				g, gerr := field(f, i, 10)
				err = errors.Join(err, gerr)
				c.groups = append(c.groups, uint32(g))
			}
		default:
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the caller's status: %q: %w", line, err)
		}
		found++
	}
	if found != 5 {
		return errors.New("reading the caller's status: a line is missing")
	}
	return nil
}

// field reads the number that f[i] is in a base; it fails with EINVAL where there is no such field.
func field(f []string, i, base int) (int, error) {
	if i >= len(f) {
		return 0, unix.EINVAL
	}
	n, err := strconv.ParseUint(f[i], base, 32)
	return int(n), err
}

// mayMake says whether the caller would be allowed to make devices if the kernel allowed it to anybody in the namespace.
func (c *caller) mayMake() bool { return c.namespace && c.caps&(1<<unix.CAP_MKNOD) != 0 }

// node is a file that was made.
type node struct {
	fd   int
	dir  int // where
	name string
	err  error
}

// create makes an empty file at the caller's path. A thread becomes the caller for it (root, umask, groups, ids of the file system, capabilities),
// so that the kernel itself finds the way and says what is allowed; then it ends.
func (c *caller) create(mode uint32) (node, error) {
	done := make(chan node)
	go c.thread(mode, done)
	n := <-done
	return n, n.err
}

func (c *caller) thread(mode uint32, done chan<- node) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The first thread cannot end before the others. While this one waits on it, the next is another one.
		inner := make(chan node)
		go c.thread(mode, inner)
		n := <-inner
		runtime.UnlockOSThread()
		done <- n
		return
	}
	// Never unlocked: the thread ends with the function.
	if err := c.become(); err != nil {
		done <- node{err: err}
		return
	}
	done <- c.place(mode)
}

// become makes the thread like the caller. An error is not the caller's fault, and so is told as EPERM.
func (c *caller) become() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return unix.EPERM
	}
	if err := errors.Join(unix.Fchdir(c.root), unix.Chroot(".")); err != nil {
		return unix.EPERM
	}
	unix.Umask(c.umask)
	var groups unsafe.Pointer
	if len(c.groups) > 0 {
		groups = unsafe.Pointer(&c.groups[0])
	}
	// Not the functions of package syscall, which are for all threads.
	if !c.sameGroups {
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(c.groups)), uintptr(groups), 0); e != 0 {
			return unix.EPERM
		}
	}
	for _, set := range []struct {
		f  func(int) (int, error)
		id int
	}{{unix.SetfsgidRetGid, c.gid}, {unix.SetfsuidRetUid, c.uid}} {
		_, _ = set.f(set.id)
		if now, _ := set.f(-1); now != set.id {
			return unix.EPERM
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return unix.EPERM
	}
	data[0].Effective = data[0].Permitted & uint32(c.caps)
	data[1].Effective = data[1].Permitted & uint32(c.caps>>32)
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return unix.EPERM
	}
	return nil
}

// place makes the file. Magic links (/proc/PID/cwd) lead nowhere: they are no names of the caller's.
// Preconditions: the thread is like the caller.
func (c *caller) place(mode uint32) node {
	if c.path == "" {
		return node{err: unix.ENOENT}
	}
	trimmed := strings.TrimRight(c.path, "/")
	if trimmed == "" {
		return node{err: unix.EEXIST}
	}
	dir, name := path.Split(trimmed)
	if dir == "" {
		dir = "."
	}
	parent, err := unix.Openat2(c.base, dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return node{err: err}
	}
	err = unix.EEXIST
	fd := -1
	switch {
	case name == "." || name == "..":
	case len(trimmed) < len(c.path): // only a directory can be made with a slash at its end
		var st unix.Stat_t
		if unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			err = unix.ENOENT
		}
	default:
		fd, err = unix.Openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	}
	if err != nil {
		unix.Close(parent)
		return node{err: err}
	}
	return node{fd: fd, dir: parent, name: name}
}
