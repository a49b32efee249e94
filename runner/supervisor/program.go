package supervisor

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// execute readies the program that a caller wants to execute by the name /proc/self/exe or /proc/PID/exe. The kernel finds Reexec there,
// which asks openProgram for it.
func (p *procfs) execute(a *asked) (int64, error) {
	if a.who.pid == 0 || a.name != "exe" {
		return 0, errKernel
	}
	fd, err := p.program(a)
	if err != nil {
		return 0, err
	}
	if _, ok := p.boxed(fd); !ok {
		unix.Close(fd)
		return 0, unix.EACCES
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for old, f := range p.programs {
		if old == a.own || !p.Family.alive(old) {
			unix.Close(f)
			delete(p.programs, old)
		}
	}
	p.programs[a.own] = fd
	if err := p.processDir(a.who.pid); err != nil {
		return 0, err
	}
	err = unix.Linkat(p.Tree, "self/exe", p.Tree, strconv.Itoa(a.who.pid)+"/exe", 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, err
	}
	return 0, errKernel
}

// program opens the program of a's process, as the caller's user. Should that be Reexec just now, it is what that is about to execute.
func (p *procfs) program(a *asked) (int, error) {
	fd, err := p.reopen(a.request, strconv.Itoa(a.who.pid)+"/exe", unix.O_RDONLY)
	if err != nil || !p.isReexec(fd) {
		return fd, err
	}
	unix.Close(fd)
	p.mu.Lock()
	defer p.mu.Unlock()
	next, ok := p.programs[a.who.pid]
	if !ok {
		return -1, unix.EACCES
	}
	return p.reopen(a.request, "self/fd/"+strconv.Itoa(next), unix.O_RDONLY)
}

// openProgram gives Reexec what its process executed before: the program, or a directory of the tree's /proc with a link to it. The process is called
// exe then, as programs that execute themselves expect. It may be asked again: the process may have been stopped meanwhile.
func (p *procfs) openProgram(a *asked, flags int) (int64, error) {
	pid := strconv.Itoa(a.own)
	now, err := p.reopen(a.request, pid+"/exe", unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer unix.Close(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	fd, ok := p.programs[a.own]
	if !ok || !p.isReexec(now) {
		return 0, unix.EACCES
	}
	name, _ := p.boxed(fd)
	if name == "" {
		return a.give(fd, flags)
	}
	if err := p.processDir(a.own); err != nil {
		return 0, err
	}
	dir := pid + "/program"
	if err := unix.Mkdirat(p.Tree, dir, 0o555); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, err
	}
	_ = unix.Unlinkat(p.Tree, dir+"/exe", 0)
	if err := unix.Symlinkat(name, p.Tree, dir+"/exe"); err != nil {
		return 0, err
	}
	return p.giveTree(a, dir, unix.O_DIRECTORY|flags&unix.O_CLOEXEC)
}

// boxed says whether the program fd is a file of the tree, of which it returns the path, or has no name anywhere. A process is strake itself until it executes
// the step's program, and the kernel can have opened an interpreter outside (binfmt_misc). Nobody gets such a file, not even for reading: what is open
// can be opened again for writing as soon as nobody executes it (CVE-2019-5736).
func (p *procfs) boxed(fd int) (name string, ok bool) {
	self := "self/fd/" + strconv.Itoa(fd)
	if sameFile(p.Proc, self, p.Proc, "self/exe") {
		return "", false
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink == 0 {
		return "", err == nil
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(p.Proc, self, buf)
	if err != nil {
		return "", false
	}
	name = string(buf[:n])
	// The tree is this process's root.
	found, err := unix.Openat2(unix.AT_FDCWD, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return "", false
	}
	defer unix.Close(found)
	return name, sameFile(p.Proc, self, p.Proc, "self/fd/"+strconv.Itoa(found))
}

// isReexec says whether fd is the tree's /proc/self/exe.
func (p *procfs) isReexec(fd int) bool {
	return sameFile(p.Proc, "self/fd/"+strconv.Itoa(fd), p.Tree, "self/exe")
}

// sameFile says whether two names are of one file, links followed.
func sameFile(dir int, name string, other int, otherName string) bool {
	var a, b unix.Stat_t
	return unix.Fstatat(dir, name, &a, 0) == nil && unix.Fstatat(other, otherName, &b, 0) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}
