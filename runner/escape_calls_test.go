package runner

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// helpAttack is what a hostile program in a box tries: args[0] names the attack, and each thing that should not have worked is a line.
func helpAttack(args []string) error {
	attacks := map[string]func([]string) error{
		"calls": attackCalls, "devices": attackDevices, "proc": attackProc, "write": attackReadOnly, "socket": attackSocket, "terminal": attackTerminal, "own-socket": ownSocket,
		"memory": attackMemory,
	}
	f := attacks[args[0]]
	if f == nil {
		return fmt.Errorf("no attack %q", args[0])
	}
	return f(args[1:])
}

// call is a system call, with the errors that are fine.
type call struct {
	name string
	nr   uintptr
	args [6]uintptr
	fine []unix.Errno // in addition to EPERM and ENOSYS
}

// forbidden are calls that Docker's default profile or capabilities keep from a container.
func forbidden() []call {
	here := uintptr(unsafe.Pointer(unsafe.StringData("/tmp\x00")))
	none := ^uintptr(0)
	return []call{
		{"unshare(user)", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}, nil},
		{"unshare(mount)", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNS}, nil},
		{"unshare(cgroup)", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWCGROUP}, nil},
		{"setns", unix.SYS_SETNS, [6]uintptr{namespace(), 0}, nil},
		{"mount", unix.SYS_MOUNT, [6]uintptr{here, here, 0, unix.MS_BIND, 0}, nil},
		{"umount", unix.SYS_UMOUNT2, [6]uintptr{here, unix.MNT_DETACH}, nil},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uintptr{here, here}, nil},
		{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{none, here, unix.OPEN_TREE_CLONE}, nil},
		{"move_mount", unix.SYS_MOVE_MOUNT, [6]uintptr{none, here, none, here}, nil},
		{"fsopen", unix.SYS_FSOPEN, [6]uintptr{uintptr(unsafe.Pointer(unsafe.StringData("tmpfs\x00"))), 0}, nil},
		{"fspick", unix.SYS_FSPICK, [6]uintptr{none, here, 0}, nil},
		{"mount_setattr", unix.SYS_MOUNT_SETATTR, [6]uintptr{none, here, 0, here, 32}, nil},
		{"bpf", unix.SYS_BPF, [6]uintptr{0, 0, 0}, nil},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{0, 0, none, none, 0}, nil},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [6]uintptr{}, nil},
		{"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD, [6]uintptr{none, none}, nil},
		{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{}, nil},
		{"finit_module", unix.SYS_FINIT_MODULE, [6]uintptr{none}, nil},
		{"delete_module", unix.SYS_DELETE_MODULE, [6]uintptr{here}, nil},
		{"reboot", unix.SYS_REBOOT, [6]uintptr{0, 0, 0}, nil},
		{"swapon", unix.SYS_SWAPON, [6]uintptr{here}, nil},
		{"swapoff", unix.SYS_SWAPOFF, [6]uintptr{here}, nil},
		{"acct", unix.SYS_ACCT, [6]uintptr{here}, nil},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, [6]uintptr{1, 1}, nil},
		{"clock_settime", unix.SYS_CLOCK_SETTIME, [6]uintptr{0, 1}, nil},
		{"sethostname", unix.SYS_SETHOSTNAME, [6]uintptr{here, 1}, nil},
		{"setdomainname", unix.SYS_SETDOMAINNAME, [6]uintptr{here, 1}, nil},
		{"quotactl", unix.SYS_QUOTACTL, [6]uintptr{}, nil},
		{"quotactl_fd", unix.SYS_QUOTACTL_FD, [6]uintptr{}, nil},
		{"lookup_dcookie", unix.SYS_LOOKUP_DCOOKIE, [6]uintptr{}, nil},
		{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{}, nil},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{1, here}, nil},
		{"io_uring_enter", unix.SYS_IO_URING_ENTER, [6]uintptr{none}, nil},
		{"io_uring_register", unix.SYS_IO_URING_REGISTER, [6]uintptr{none}, nil},
		{"keyctl", unix.SYS_KEYCTL, [6]uintptr{unix.KEYCTL_GET_KEYRING_ID}, nil},
		{"add_key", unix.SYS_ADD_KEY, [6]uintptr{}, nil},
		{"request_key", unix.SYS_REQUEST_KEY, [6]uintptr{}, nil},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{none}, nil},
		{"fanotify_init", unix.SYS_FANOTIFY_INIT, [6]uintptr{}, nil},
		{"syslog", unix.SYS_SYSLOG, [6]uintptr{2, here, 1}, nil},
		{"vhangup", unix.SYS_VHANGUP, [6]uintptr{}, nil},
		{"mbind", unix.SYS_MBIND, [6]uintptr{}, nil},
		{"set_mempolicy", unix.SYS_SET_MEMPOLICY, [6]uintptr{9}, nil},
		{"move_pages", unix.SYS_MOVE_PAGES, [6]uintptr{}, nil},
		{"migrate_pages", unix.SYS_MIGRATE_PAGES, [6]uintptr{}, nil},
		{"personality", unix.SYS_PERSONALITY, [6]uintptr{0x0010000}, nil},
		{"socket(vsock)", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}, nil},
		{"socket(packet without its capability)", unix.SYS_SOCKET, [6]uintptr{unix.AF_KEY, unix.SOCK_RAW, 2}, []unix.Errno{unix.EAFNOSUPPORT}},
		{"ptrace(attach the parent)", unix.SYS_PTRACE, [6]uintptr{unix.PTRACE_SEIZE, uintptr(os.Getppid())}, []unix.Errno{unix.ESRCH}},
		{"clone3", unix.SYS_CLONE3, [6]uintptr{}, nil},
	}
}

// namespace opens the namespace that this process is in already.
func namespace() uintptr {
	fd, err := unix.Open("/proc/self/ns/uts", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil { // there is no /proc everywhere
		fd, _ = unix.PidfdOpen(os.Getpid(), 0)
	}
	return uintptr(fd)
}

// attackCalls makes the calls that must not work, as the machine's own and as those of its other ABIs.
func attackCalls([]string) error {
	for _, c := range append(forbidden(), forbiddenHere()...) {
		_, _, e := unix.Syscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		ok := e == unix.EPERM || e == unix.ENOSYS
		for _, f := range c.fine {
			ok = ok || e == f
		}
		if !ok {
			fmt.Printf("%s: %v\n", c.name, e)
		}
	}
	return nil
}

// attackDevices makes, in the working directory, nodes of the devices "major:minor" and opens them, and those that are in the file system at args.
func attackDevices(args []string) error {
	for _, a := range args {
		kind, numbers, _ := strings.Cut(a, ":")
		name := "attack-" + strings.ReplaceAll(a, ":", "-")
		if kind == "there" {
			name = numbers
		} else {
			var major, minor uint32
			if _, err := fmt.Sscanf(numbers, "%d:%d", &major, &minor); err != nil {
				return err
			}
			mode := map[string]uint32{"b": unix.S_IFBLK, "c": unix.S_IFCHR}[kind]
			if err := unix.Mknod(name, mode|0o666, int(unix.Mkdev(major, minor))); err != nil {
				continue
			}
		}
		for _, flag := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
			fd, err := unix.Open(name, flag|unix.O_NONBLOCK, 0)
			if err != nil {
				continue
			}
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
				fmt.Printf("%s can be opened (%d)\n", a, flag)
			}
			unix.Close(fd)
		}
	}
	return nil
}

// attackProc looks for the marker args[1] in the files args[0] and the descriptors of other processes, and for the files in the rest of args in
// what they see; the last is one of the host.
func attackProc(args []string) error {
	files, marker, args := strings.Split(args[0], ","), args[1], args[1:]
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	own := map[string]bool{"/proc/" + strconv.Itoa(os.Getpid()): true}
	for _, p := range procs {
		if own[p] {
			continue
		}
		for _, name := range files {
			if data, err := os.ReadFile(filepath.Join(p, name)); err == nil && strings.Contains(string(data), marker) {
				fmt.Printf("the marker is in %s of %s\n", name, strings.Join(cmdline(p), " "))
			}
		}
		for _, dir := range []string{"root", "cwd"} {
			for _, name := range args[1:] {
				if _, err := os.Stat(filepath.Join(p, dir, name)); err == nil {
					fmt.Printf("%s is in %s of %s\n", name, dir, strings.Join(cmdline(p), " "))
				}
			}
		}
		fds, _ := os.ReadDir(filepath.Join(p, "fd"))
		for _, fd := range fds {
			at := filepath.Join(p, "fd", fd.Name())
			to, _ := os.Readlink(at)
			if data := head(at); strings.Contains(data+to, marker) {
				fmt.Printf("the marker is in descriptor %s (%s) of %s\n", fd.Name(), to, strings.Join(cmdline(p), " "))
			}
		}
	}
	for fd := range 1024 {
		if fd < 3 {
			continue
		}
		at := fmt.Sprintf("/proc/self/fd/%d", fd)
		if _, err := os.Stat(at + "/../../../../../../../../" + args[len(args)-1]); err == nil {
			fmt.Printf("descriptor %d leads out\n", fd)
		}
	}
	return nil
}

func cmdline(proc string) []string {
	data, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
	return strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
}

// head is the beginning of a regular file that may be anything else.
func head(name string) string {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return ""
	}
	data, _ := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	return string(data)
}

// attackReadOnly writes to the files args in all ways that there may be.
func attackReadOnly(args []string) error {
	for _, name := range args {
		try := func(how string, err error) {
			if err == nil {
				fmt.Printf("%s can be written by %s\n", name, how)
			}
		}
		open := func(name string, flags int) error {
			fd, err := unix.Open(name, flags, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
		try("opening it", open(name, unix.O_WRONLY))
		try("truncating it", unix.Truncate(name, 0))
		try("chmod", unix.Chmod(name, 0o666))
		try("chown", unix.Chown(name, 1, 1))
		try("utimes", unix.Utimes(name, []unix.Timeval{{}, {}}))
		try("removing it", unix.Unlink(name))
		try("renaming it", unix.Rename(name, name+".x"))
		try("xattr", unix.Setxattr(name, "user.x", []byte("x"), 0))
		if fd, err := unix.Open(name, unix.O_RDONLY, 0); err == nil {
			try("/proc/self/fd", open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY))
			try("/proc/thread-self/fd", open(fmt.Sprintf("/proc/thread-self/fd/%d", fd), unix.O_RDWR))
			try("fchmod", unix.Fchmod(fd, 0o666))
			try("/proc/self/root", open("/proc/self/root"+name, unix.O_WRONLY))
			_, err := unix.Mmap(fd, 0, 1, unix.PROT_WRITE, unix.MAP_SHARED)
			try("mmap", err)
			unix.Close(fd)
		}
		try("remounting it", unix.Mount("", name, "", unix.MS_REMOUNT|unix.MS_BIND, ""))
		try("a bind of it", unix.Mount(name, "/tmp", "", unix.MS_BIND, ""))
		try("unmounting it", unix.Unmount(name, unix.MNT_DETACH))
		try("a hard link", unix.Link(name, "/attack-link"))
	}
	return nil
}

// attackSocket connects to the abstract sockets args.
func attackSocket(args []string) error {
	for _, name := range args {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: "@" + name}); err == nil {
			fmt.Printf("the host's socket @%s can be reached\n", name)
		}
		unix.Close(fd)
	}
	return nil
}

// ownSocket connects to an abstract socket of its own, which works.
func ownSocket(args []string) error {
	l, err := net.Listen("unix", "@"+args[0])
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("unix", "@"+args[0])
	if err != nil {
		return err
	}
	return c.Close()
}

// attackTerminal types into the terminal that is standard input.
func attackTerminal([]string) error {
	c := byte('x')
	for name, request := range map[string]uintptr{"TIOCSTI": unix.TIOCSTI, "TIOCLINUX": 0x541c} {
		for _, high := range []uintptr{0, 1 << 32} { // the kernel looks at the lower half only (CVE-2019-10063)
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, 0, request|high, uintptr(unsafe.Pointer(&c))); e == 0 {
				fmt.Printf("%s (%d) works\n", name, high>>32)
			}
		}
	}
	return nil
}

// attackMemory asks the init for what takes it memory: long lists of groups, each another one.
func attackMemory([]string) error {
	groups := make([]uint32, 65536)
	for i := range 500 {
		groups[0] = uint32(i)
		// Where the init serves this, it may refuse it; where the kernel does, it keeps the last one.
		_, _, _ = unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	}
	return nil
}
