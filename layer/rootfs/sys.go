package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// retry repeats a system call that a signal interrupted.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}

// openat2 calls openat2(2), again when the kernel asks for it.
func openat2(dir int, name string, flag int, perm uint32, resolve uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flag) | unix.O_CLOEXEC,
		Resolve: resolve,
	}
	if flag&unix.O_CREAT != 0 || flag&unix.O_TMPFILE == unix.O_TMPFILE {
		how.Mode = uint64(perm & 0o7777) // otherwise it must be 0
	}
	for range lookupRetries {
		fd, err := unix.Openat2(dir, name, &how)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR, unix.EAGAIN:
			continue
		case unix.ENOSYS:
			return -1, errNoOpenat2
		default:
			return -1, err
		}
	}
	return -1, unix.EAGAIN
}

// openat opens one component; O_NOFOLLOW must be in flag.
func openat(dir int, base string, flag int, perm uint32) (int, error) {
	return retry(func() (int, error) { return unix.Openat(dir, base, flag|unix.O_CLOEXEC, perm) })
}

// readlinkat reads a link of any length.
func readlinkat(dir int, base string) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dir, base, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// errnoOf takes the *fs.PathError off err, before another is put around it.
func errnoOf(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// on runs a system call on the entry base of dir; "." is dir itself.
func on(op string, dir *os.File, base string, call func(fd int) error) error {
	if base == "." {
		return call0(op, dir, base, call)
	}
	return onChild(op, dir, base, call)
}

// onChild is on for calls that make or remove an entry, which dir itself is not.
func onChild(op string, dir *os.File, base string, call func(fd int) error) error {
	if err := checkBase(base); err != nil {
		return &fs.PathError{Op: op, Path: base, Err: err}
	}
	return call0(op, dir, base, call)
}

func call0(op string, dir *os.File, base string, call func(fd int) error) error {
	for {
		err := call(int(dir.Fd()))
		runtime.KeepAlive(dir)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return &fs.PathError{Op: op, Path: base, Err: err}
		}
	}
}

// checkBase refuses what does not name an entry of a directory.
func checkBase(base string) error {
	if base == "" || base == "." || base == ".." || strings.IndexByte(base, '/') >= 0 {
		return errors.New("not the name of a directory entry")
	}
	return nil
}
