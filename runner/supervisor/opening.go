package supervisor

import (
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// opening makes a handler for calls that open or make the file which argument i names, with the flags that flagsOf returns.
func (p *procfs) opening(i int, flagsOf func(*request, int) (int, error)) handler {
	return func(r *request) (int64, error) {
		flags, err := flagsOf(r, i)
		if err != nil {
			return 0, err
		}
		a, err := p.ask(r, i, writes(flags))
		if err != nil {
			return 0, err
		}
		err = p.parse(a)
		if errors.Is(err, errKernel) && writes(flags) {
			return 0, p.refuse(a)
		}
		if err != nil {
			return 0, err
		}
		return p.openWith(a, flags)
	}
}

// openFlags are those of open and openat, whose path is argument i.
func openFlags(r *request, i int) (int, error) { return int(int32(r.args[i+1])), nil }

// creatFlags are those that creat stands for.
func creatFlags(*request, int) (int, error) {
	return unix.O_CREAT | unix.O_WRONLY | unix.O_TRUNC, nil
}

// openHow are the flags of openat2: struct open_how begins with them. Its restrictions forbid nothing that is here.
func (p *procfs) openHow(r *request, i int) (int, error) {
	var how [8]byte
	n, err := p.memory(r, func(mem int) (int, error) { return unix.Pread(mem, how[:], int64(r.args[i+1])) })
	if err != nil || n != len(how) {
		return 0, unix.EFAULT
	}
	return int(binary.NativeEndian.Uint64(how[:])), nil
}

// writes says whether who opens a file with the flags may change or make it.
func writes(flags int) bool {
	return flags&unix.O_PATH == 0 && flags&(unix.O_ACCMODE|unix.O_TRUNC|unix.O_CREAT) != unix.O_RDONLY
}

// truncate refuses truncate(2) of a file of /proc with the error that opening it to write has.
func (p *procfs) truncate(r *request) (int64, error) {
	a, err := p.ask(r, 0, true)
	if err != nil {
		return 0, err
	}
	return 0, p.refuse(a)
}

// refuse says why a file of /proc or /sys cannot be written or made: as in a box that has these file systems, read-only.
func (p *procfs) refuse(a *asked) error {
	dir, name := p.Sys, strings.TrimPrefix(a.whole, "/sys/")
	if name == a.whole {
		dir, name = p.Proc, strings.TrimPrefix(a.whole, "/proc/")
	}
	if name == a.whole {
		return errKernel
	}
	var st unix.Stat_t
	switch {
	case unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil:
		return unix.ENOENT
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	}
	return unix.EROFS
}
