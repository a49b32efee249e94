package supervisor

import (
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// renaming is a call that gives a file another name, or one more.
type renaming struct {
	from, to target
	flags    uint
	link     bool
}

func renamingCall(r *request) (n renaming, err error) {
	n.from.dir, n.to.dir, n.link = unix.AT_FDCWD, unix.AT_FDCWD, strings.HasPrefix(r.name, "link")
	from, to := 0, 1
	if r.name != "rename" && r.name != "link" {
		n.from.dir, n.to.dir, from, to = int(int32(r.args[0])), int(int32(r.args[2])), 1, 3
		if r.name != "renameat" {
			n.flags = uint(uint32(r.args[4]))
		}
	}
	if n.from.path, err = r.text(r.args[from]); err != nil {
		return n, err
	}
	n.to.path, err = r.text(r.args[to])
	return n, err
}

// rename serves the calls that change names: the owners of what cannot carry an attribute go by them. All else is the kernel's.
func (o *Ownership) rename(r *request) (int64, error) {
	n, err := renamingCall(r)
	if err != nil || n.link && n.flags != 0 {
		return 0, errKernel
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
	from, fromName, err := o.parentOf(r, who, n.from, who.user.fs != 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(from)
	var st unix.Stat_t
	if err := unix.Fstatat(from, fromName, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, errKernel
	}
	byName := !carries(st.Mode) || n.flags&unix.RENAME_EXCHANGE != 0
	if !byName && who.user.fs == 0 {
		return 0, errKernel
	}
	to, toName, err := o.parentOf(r, who, n.to, who.user.fs != 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(to)
	if err := o.mayRename(who, n, place{from, fromName}, place{to, toName}); err != nil {
		return 0, err
	}
	if !byName {
		return 0, errKernel
	}
	one, err1 := entry(fdPath(from), fromName)
	two, err2 := entry(fdPath(to), toName)
	if err1 != nil || err2 != nil || one == (owner{}) && two == (owner{}) {
		return 0, errKernel
	}
	switch {
	case n.link:
		if err = unix.Linkat(from, fromName, to, toName, 0); err == nil {
			err = o.recordName(to, toName, one)
		}
		return 0, err
	case n.flags&unix.RENAME_EXCHANGE == 0:
		two = owner{} // it is gone
	}
	if err := unix.Renameat2(from, fromName, to, toName, n.flags); err != nil {
		return 0, err
	}
	if err := o.recordName(from, fromName, two); err != nil {
		return 0, err
	}
	return 0, o.recordName(to, toName, one)
}

// exec gives the caller the credentials that the program will have: a setuid one has its owner's. The kernel then executes it.
func (o *Ownership) exec(r *request) (int64, error) {
	t, at := target{dir: unix.AT_FDCWD, follow: true}, 0
	if r.name == "execveat" {
		flags := uint32(r.args[4])
		t.dir, t.follow, t.empty, at = int(int32(r.args[0])), flags&unix.AT_SYMLINK_NOFOLLOW == 0, flags&unix.AT_EMPTY_PATH != 0, 1
	}
	var err error
	if t.path, err = r.text(r.args[at]); err != nil {
		return 0, errKernel
	}
	old, err := o.processes.of(r)
	if err != nil {
		return 0, errKernel
	}
	leave, err := o.enter(r)
	if err != nil {
		return 0, errKernel
	}
	defer leave()
	fd, err := o.find(r, old, t)
	if err != nil {
		return 0, refusal(err)
	}
	defer unix.Close(fd)
	c := *old
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
		return 0, errKernel
	}
	if !o.permits(old, fd, &st, 1) {
		return 0, unix.EACCES
	}
	if st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 && !script(fd) {
		of, err := o.owner(fd)
		if err != nil {
			return 0, errKernel
		}
		if st.Mode&unix.S_ISUID != 0 {
			c.user.effective = of.uid
		}
		if st.Mode&unix.S_ISGID != 0 && st.Mode&0o010 != 0 {
			c.group.effective = of.gid
		}
	}
	for _, i := range []*ids{&c.user, &c.group} {
		i.saved, i.fs = i.effective, i.effective
	}
	if c.user != old.user || c.group != old.group {
		if err := o.processes.set(r, &c); err != nil {
			return 0, err
		}
	}
	return 0, errKernel
}

// script says whether the file fd is for an interpreter, whose own mode counts then.
func script(fd int) bool {
	f, err := os.Open(fdPath(fd))
	if err != nil {
		return false
	}
	defer f.Close()
	var start [2]byte
	_, err = io.ReadFull(f, start[:])
	return err == nil && string(start[:]) == "#!"
}

// access serves access(2) and its like for processes that take themselves for another user than root: they may not do what
// the file's mode forbids that user.
func (o *Ownership) access(r *request) (int64, error) {
	c, err := o.processes.of(r)
	if err != nil {
		return 0, errKernel
	}
	t, at, flags := target{dir: unix.AT_FDCWD, follow: true}, 0, uint32(0)
	if r.name != "access" {
		t.dir, at = int(int32(r.args[0])), 1
	}
	if r.name == "faccessat2" {
		flags = uint32(r.args[3])
		t.follow, t.empty = flags&unix.AT_SYMLINK_NOFOLLOW == 0, flags&unix.AT_EMPTY_PATH != 0
	}
	who := *c
	who.user.fs, who.group.fs = c.user.real, c.group.real
	if flags&unix.AT_EACCESS != 0 {
		who.user.fs, who.group.fs = c.user.effective, c.group.effective
	}
	want := uint32(r.args[at+1])
	if who.user.fs == 0 || want > 7 {
		return 0, errKernel
	}
	if t.path, err = r.text(r.args[at]); err != nil {
		return 0, errKernel
	}
	leave, err := o.enter(r)
	if err != nil {
		return 0, errKernel
	}
	defer leave()
	if t.openToAll(r, want) {
		return 0, errKernel
	}
	fd, err := o.find(r, &who, t)
	if err != nil {
		return 0, refusal(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || !carries(st.Mode) {
		return 0, errKernel
	}
	if o.permits(&who, fd, &st, want) {
		return 0, errKernel
	}
	return 0, unix.EACCES
}
