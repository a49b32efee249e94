package supervisor

import "golang.org/x/sys/unix"

// What the kernel would say to a user of the step, whom it does not know. All of these allow root everything, and let pass what cannot be found out: the kernel then
// has the last word.

// permits says whether who may do with the file fd what want says (as credentials.may). Its owner is asked for only if that matters.
func (o *Ownership) permits(who *credentials, fd int, st *unix.Stat_t, want uint32) bool {
	if all := want | want<<3 | want<<6; who.user.fs == 0 || st.Mode&all == all {
		return true
	}
	of, err := o.ownerOf(fd, st)
	return err != nil || who.may(of, st.Mode, want)
}

// owns says whether who may do with the file fd what only its owner may.
func (o *Ownership) owns(who *credentials, fd int, st *unix.Stat_t) bool {
	if who.user.fs == 0 {
		return true
	}
	of, err := o.ownerOf(fd, st)
	return err != nil || of.uid == who.user.fs
}

// place is a name in a directory.
type place struct {
	dir  int
	name string
}

// open opens (O_PATH) what has the name itself.
func (p place) open(st *unix.Stat_t) (int, error) {
	fd, err := unix.Openat(p.dir, p.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Fstat(fd, st); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mayEnter returns what the kernel would say to who about a new name in the directory dir.
func (o *Ownership) mayEnter(who *credentials, dir int) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err == nil && !o.permits(who, dir, &st, 3) {
		return unix.EACCES
	}
	return nil
}

// mayRemove returns what the kernel would say to who about taking p away.
func (o *Ownership) mayRemove(who *credentials, p place) error {
	var dir, file unix.Stat_t
	fd, err := p.open(&file)
	if err != nil {
		return errKernel
	}
	defer unix.Close(fd)
	if err := o.mayEnter(who, p.dir); err != nil {
		return err
	}
	sticky := unix.Fstat(p.dir, &dir) == nil && dir.Mode&unix.S_ISVTX != 0
	if sticky && !o.owns(who, fd, &file) && !o.owns(who, p.dir, &dir) {
		return unix.EPERM
	}
	return nil
}

// mayRename returns what the kernel would say to who about n.
func (o *Ownership) mayRename(who *credentials, n renaming, from, to place) error {
	if who.user.fs == 0 {
		return nil
	}
	var st unix.Stat_t
	exists := unix.Fstatat(to.dir, to.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
	switch {
	case n.link && exists:
		return errKernel
	case n.link && !o.mayLink(who, from):
		return unix.EPERM
	case n.link:
		return o.mayEnter(who, to.dir)
	}
	if err := o.mayRemove(who, from); err != nil {
		return err
	}
	if !sameDir(from.dir, to.dir) && !o.mayMove(who, from) {
		return unix.EACCES
	}
	if exists {
		return o.mayRemove(who, to)
	}
	return o.mayEnter(who, to.dir)
}

// sameDir says whether two descriptors are of one directory.
func sameDir(a, b int) bool {
	var one, two unix.Stat_t
	return unix.Fstat(a, &one) == nil && unix.Fstat(b, &two) == nil && one.Dev == two.Dev && one.Ino == two.Ino
}

// mayMove says whether who may give p another parent: a directory has an entry for that.
func (o *Ownership) mayMove(who *credentials, p place) bool {
	var st unix.Stat_t
	fd, err := p.open(&st)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	return st.Mode&unix.S_IFMT != unix.S_IFDIR || o.permits(who, fd, &st, 2)
}

// mayLink says whether who may give p a further name. Where the kernel protects the files of others, it must be one that who may read and write, and
// that gives no rights.
func (o *Ownership) mayLink(who *credentials, p place) bool {
	if on, err := readFile(o.proc, "sys/fs/protected_hardlinks"); err != nil || string(on) == "0\n" {
		return true
	}
	var st unix.Stat_t
	fd, err := p.open(&st)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	const setgid = unix.S_ISGID | unix.S_IXGRP
	harmless := st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&unix.S_ISUID == 0 && st.Mode&setgid != setgid
	return o.owns(who, fd, &st) || harmless && o.permits(who, fd, &st, 6)
}
