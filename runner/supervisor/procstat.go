package supervisor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refresh makes the tree's /proc say what it does about a's process, and returns the name there.
func (p *procfs) refresh(a *asked) (string, error) {
	if a.inTree() {
		return "self/" + a.name, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pid := strconv.Itoa(a.who.pid)
	if err := p.processDir(a.who.pid); err != nil {
		return "", err
	}
	if a.name == "" {
		return pid, nil
	}
	name := pid + "/" + a.name
	if a.name == "fd" && a.who.pid != a.own && a.who.pid != int(a.pid) {
		return "", unix.EACCES
	}
	// The names are those that the kernel has now; what they are is asked one by one.
	dir, err := unix.Openat(p.Proc, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		err = p.as(a.request, func() error {
			dir, err = unix.Openat(p.Proc, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			return err
		})
	}
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(dir), name)
	defer f.Close()
	now, err := f.Readdirnames(-1)
	if err != nil {
		return "", err
	}
	return name, p.fill(name, now, a.name == "task")
}

// fill makes a directory of the tree's /proc have the names now and no others.
func (p *procfs) fill(name string, now []string, dirs bool) error {
	if err := unix.Mkdirat(p.Tree, name, 0o555); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat2(p.Tree, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	there, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	stale := map[string]bool{}
	for _, n := range there {
		stale[n] = true
	}
	for _, n := range now {
		if stale[n] {
			delete(stale, n)
		} else if dirs {
			err = errors.Join(err, unix.Mkdirat(fd, n, 0o555))
		} else {
			err = errors.Join(err, unix.Symlinkat("/proc/self/fd/"+n, fd, n))
		}
	}
	for n := range stale {
		flags := 0
		if dirs {
			flags = unix.AT_REMOVEDIR
		}
		_ = unix.Unlinkat(fd, n, flags)
	}
	return err
}

// processDir makes the directory of a process, owned by its user: ps takes that from there.
func (p *procfs) processDir(pid int) error {
	uid, gid, err := p.fileOwner(pid)
	if err != nil {
		return unix.ENOENT
	}
	name := strconv.Itoa(pid)
	if err := unix.Mkdirat(p.Tree, name, 0o555); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return unix.Fchownat(p.Tree, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

// list makes the tree's /proc have a directory for each process of the step.
func (p *procfs) list() {
	all, err := p.Family.all()
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	live := map[string]bool{}
	for _, r := range all {
		if p.processDir(r.pid) == nil {
			live[strconv.Itoa(r.pid)] = true
		}
	}
	fd, err := unix.Openat(p.Tree, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	dir := os.NewFile(uintptr(fd), "/proc")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return
	}
	for _, n := range names {
		// It may be of one that was born after the look, and executes itself just now.
		if pid, err := strconv.Atoi(n); err == nil && !live[n] && !p.Family.alive(pid) {
			p.remove(n)
		}
	}
}

// remove removes the directory of a process that has ended.
func (p *procfs) remove(name string) {
	for _, sub := range []string{"fd", "task"} {
		_ = p.fill(name+"/"+sub, nil, sub == "task")
		_ = unix.Unlinkat(p.Tree, name+"/"+sub, unix.AT_REMOVEDIR)
	}
	for _, program := range []string{"/exe", "/program/exe"} {
		_ = unix.Unlinkat(p.Tree, name+program, 0)
	}
	_ = unix.Unlinkat(p.Tree, name+"/program", unix.AT_REMOVEDIR)
	_ = unix.Unlinkat(p.Tree, name, unix.AT_REMOVEDIR)
}

// The ways in which a path may be looked at.
func (p *procfs) stat(a *asked) (int64, error) { return p.statWith(a, a.args[0], true) }

func (p *procfs) lstat(a *asked) (int64, error) { return p.statWith(a, a.args[0], false) }

func (p *procfs) fstatat(a *asked) (int64, error) {
	return p.statWith(a, a.args[0], a.args[1]&unix.AT_SYMLINK_NOFOLLOW == 0)
}

// find opens what a names as an O_PATH descriptor for looking at it.
func (p *procfs) find(a *asked, follow bool) (int, error) {
	flags := unix.O_PATH | unix.O_CLOEXEC
	if !follow {
		flags |= unix.O_NOFOLLOW
	}
	if a.who.pid == 0 && a.name != "" {
		dir, name := p.kernelFile(a)
		return unix.Openat(dir, name, flags, 0)
	}
	if a.who.pid == 0 { // that of the kernel: another device than the tree's, as of a mount point
		return unix.Openat(p.Proc, ".", flags, 0)
	}
	target := a.whole[min(len("/proc/"), len(a.whole)):]
	var err error
	switch {
	case !follow && a.isLink():
		return -1, errKernel
	case !follow && !a.slash && (a.whole == "/proc/self" || a.whole == "/proc/thread-self"): // a link there as well
	case a.isDir():
		target = strconv.Itoa(a.who.pid) + "/" + a.name
	case a.inTree():
		return unix.Openat(p.Tree, "self/"+a.name, flags, 0)
	default:
		target, err = p.target(a)
	}
	if err != nil {
		return -1, err
	}
	fd, err := unix.Openat(p.Proc, target, flags, 0)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		err = p.as(a.request, func() error {
			fd, err = unix.Openat(p.Proc, target, flags, 0)
			return err
		})
	}
	return fd, err
}

func (p *procfs) statWith(a *asked, to uint64, follow bool) (int64, error) {
	fd, err := p.find(a, follow)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	return 0, p.put(a.request, to, unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)))
}

func (p *procfs) statx(a *asked) (int64, error) {
	fd, err := p.find(a, a.args[0]&unix.AT_SYMLINK_NOFOLLOW == 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, int(uint32(a.args[1])), &st); err != nil {
		return 0, err
	}
	return 0, p.put(a.request, a.args[2], unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)))
}

// put writes data to the caller's memory. Once that is open, it is the caller's for ever; that it was the caller's then is seen afterwards.
func (p *procfs) put(r *request, to uint64, data []byte) error {
	n, err := p.memory(r, func(mem int) (int, error) {
		if err := r.valid(); err != nil {
			return 0, err
		}
		return unix.Pwrite(mem, data, int64(to))
	})
	if err != nil || n != len(data) {
		return unix.EFAULT
	}
	return nil
}

// uname tells the box's host name instead of the container's, which only a namespace could change.
func (p *procfs) uname(r *request) (int64, error) {
	if r.compat || p.Hostname == "" {
		return 0, errKernel
	}
	name, err := utsname(p.Hostname)
	if err != nil {
		return 0, err
	}
	return 0, p.put(r, r.args[0], name)
}

// readlink serves readlink(2) of a link in /proc.
func (p *procfs) readlink(a *asked) (int64, error) {
	var text string
	switch {
	case a.whole == "/proc/self":
		text = strconv.Itoa(a.own)
	case a.whole == "/proc/thread-self":
		text = fmt.Sprintf("%d/task/%d", a.own, a.pid)
	case a.isLink():
		return 0, errKernel
	case a.who.pid == 0 || a.isDir() || a.inTree():
		return 0, unix.EINVAL
	case a.name == "root":
		text = "/"
	default:
		fd, err := p.find(a, false)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		// The init's root is the caller's.
		var isLink bool
		text, isLink, err = ReadLink(fd)
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			err = p.as(a.request, func() error {
				text, isLink, err = ReadLink(fd)
				return err
			})
		}
		if err != nil {
			return 0, err
		}
		if !isLink {
			return 0, unix.EINVAL
		}
	}
	text = text[:min(len(text), int(min(a.args[1], unix.PathMax)))]
	return int64(len(text)), p.put(a.request, a.args[0], []byte(text))
}

// ReadLink reads the symbolic link that fd (O_PATH) is open as; isLink is false if it is something else.
func ReadLink(fd int) (target string, isLink bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", false, nil
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	return string(buf[:max(n, 0)]), true, err
}

func (p *procfs) access(a *asked) (int64, error) {
	fd, err := p.find(a, true)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return 0, p.as(a.request, func() error {
		return unix.Faccessat2(fd, "", uint32(a.args[0])&7, unix.AT_EACCESS|unix.AT_EMPTY_PATH)
	})
}
