package supervisor

import (
	"encoding/binary"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// changeRules ask for calls that change the mode, owner or times of a file that has a name: C libraries give /proc/self/fd/N to them for files
// that they hold by O_PATH (as fchmodat(3) does, and so mkfifo -m), scripts /dev/stdout. utimensat without a path means a descriptor.
const changeRules = `{"syscalls": [
	{"names": ["chmod", "fchmodat", "chown", "fchownat"], "action": "SCMP_ACT_NOTIFY"},
	{"names": ["utimensat"], "action": "SCMP_ACT_NOTIFY", "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_NE"}]}
]}`

func (p *procfs) changeCalls() map[string]handler {
	return map[string]handler{
		"chmod": p.handle(0, p.chmod), "fchmodat": p.handle(1, p.chmod),
		"chown": p.handle(0, p.chown), "fchownat": p.handle(1, p.fchownat), "utimensat": p.handle(1, p.utimensat),
	}
}

// change lets f, with the caller's rights to files, change the file which the descriptor that a names is of; file is its path below p.Proc.
func (p *procfs) change(a *asked, f func(file string) error) (int64, error) {
	if !strings.HasPrefix(a.name, "fd/") {
		return 0, errKernel
	}
	target, err := p.target(a)
	if err != nil {
		return 0, err
	}
	return 0, p.as(a.request, func() error {
		fd, err := unix.Openat(p.Proc, target, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if serves(fd) { // it may have been handed out here, for reading
			return unix.EPERM
		}
		return f("self/fd/" + strconv.Itoa(fd))
	})
}

func (p *procfs) chmod(a *asked) (int64, error) {
	return p.change(a, func(file string) error { return unix.Fchmodat(p.Proc, file, uint32(a.args[0]), 0) })
}

func (p *procfs) chown(a *asked) (int64, error) {
	return p.change(a, func(file string) error {
		return unix.Fchownat(p.Proc, file, int(int32(a.args[0])), int(int32(a.args[1])), 0)
	})
}

func (p *procfs) fchownat(a *asked) (int64, error) {
	if a.args[2]&unix.AT_SYMLINK_NOFOLLOW != 0 {
		return 0, errKernel
	}
	return p.chown(a)
}

// utimensat reads the caller's two struct timespec; none means now.
func (p *procfs) utimensat(a *asked) (int64, error) {
	if a.args[1]&unix.AT_SYMLINK_NOFOLLOW != 0 {
		return 0, errKernel
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if a.args[0] != 0 {
		var buf [32]byte
		n, err := p.memory(a.request, func(mem int) (int, error) { return unix.Pread(mem, buf[:], int64(a.args[0])) })
		if err != nil || n != len(buf) {
			return 0, unix.EFAULT
		}
		for i := range times {
			times[i].Sec = int64(binary.NativeEndian.Uint64(buf[16*i:]))
			times[i].Nsec = int64(binary.NativeEndian.Uint64(buf[16*i+8:]))
		}
	}
	return p.change(a, func(file string) error { return unix.UtimesNanoAt(p.Proc, file, times, 0) })
}
