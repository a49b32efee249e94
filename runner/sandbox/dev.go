package sandbox

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// device is a device node.
type device struct {
	name         string
	major, minor uint32
}

// devices are the device nodes of a Docker container.
func devices() []device {
	return []device{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}
}

// devLinks are the symlinks of a Docker container's /dev.
func devLinks() [][2]string {
	links := [][2]string{
		{"fd", "/proc/self/fd"},
		{"stdin", "/proc/self/fd/0"},
		{"stdout", "/proc/self/fd/1"},
		{"stderr", "/proc/self/fd/2"},
		{"ptmx", "pts/ptmx"},
	}
	const core = "/proc/kcore" // not every kernel has it
	if unix.Access(core, unix.F_OK) == nil {
		links = append(links, [2]string{"core", core})
	}
	return links
}

// mountDev makes the /dev of the box: a file system of its own with what a Docker container has there. An insecure box gets the host's devices, too.
func (b *box) mountDev(t hostTrees) error {
	attrs := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_STRICTATIME
	if b.NoDev {
		attrs |= unix.MOUNT_ATTR_NODEV
	}
	dev, err := newFS("tmpfs", attrs, option{"mode", "0755"}, option{"size", "64m"})
	if err != nil {
		return err
	}
	target, err := b.plain("/dev")
	if err != nil {
		return err
	}
	if err := attach(dev, target); err != nil {
		return fmt.Errorf("mounting /dev: %w", err)
	}
	unix.Close(target)
	defer unix.Close(dev)
	b.mounted = append(b.mounted, "/dev")
	for i, d := range devices() {
		if b.bindsDevices() {
			err = bindDevice(dev, d.name, t.devices[i])
		} else {
			err = unix.Mknodat(dev, d.name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor)))
		}
		if err != nil {
			return fmt.Errorf("making /dev/%s: %w", d.name, err)
		}
	}
	if err := b.openNull(dev, "null"); err != nil {
		return err
	}
	for _, l := range devLinks() {
		if err := unix.Symlinkat(l[1], dev, l[0]); err != nil {
			return fmt.Errorf("making /dev/%s: %w", l[0], err)
		}
	}
	pts := []option{{"newinstance", ""}, {"ptmxmode", "0666"}, {"mode", "0620"}}
	if !b.OneID {
		pts = append(pts, option{"gid", "5"})
	}
	inner := []struct {
		dir, kind string
		attrs     int
		opts      []option
	}{
		{"pts", "devpts", unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, pts},
		{"mqueue", "mqueue", noExec, nil},
		{"shm", "tmpfs", b.shmAttrs(), []option{{"mode", "1777"}, {"size", b.shmSize()}}},
	}
	for _, m := range inner {
		if err := b.mountInDev(dev, m.dir, m.kind, m.attrs, m.opts); err != nil {
			return fmt.Errorf("mounting /dev/%s: %w", m.dir, err)
		}
	}
	if b.Insecure {
		if err := b.hostDevices(dev, t.all); err != nil {
			return err
		}
	}
	if b.Terminal {
		return b.openTerminal(dev)
	}
	return nil
}

// openNull opens the device null, name in dir, as long as nobody else can have put anything there.
func (b *box) openNull(dir int, name string) error {
	for i, flag := range []int{unix.O_RDONLY, unix.O_RDWR} {
		fd, err := unix.Openat(dir, name, flag|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening /dev/null: %w", err)
		}
		b.null[i] = fd
	}
	return nil
}

// shmAttrs are those of /dev/shm. With a size of its own it is a tmpfs like any other, as in BuildKit.
func (b *box) shmAttrs() int {
	if b.ShmSize != 0 {
		return unix.MOUNT_ATTR_NOSUID
	}
	return noExec
}

func (b *box) shmSize() string {
	if b.ShmSize == 0 {
		return "64m"
	}
	return strconv.FormatInt(b.ShmSize, 10)
}

func (b *box) mountInDev(dev int, dir, kind string, attrs int, opts []option) error {
	if err := unix.Mkdirat(dev, dir, 0o755); err != nil {
		return err
	}
	target, err := unix.Openat(dev, dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	fd, err := newFS(kind, attrs, opts...)
	if err != nil {
		unix.Close(target)
		return err
	}
	return mountAt(fd, target)
}

// bindDevice binds the host's device node from onto dev/name: nodes cannot be made in a user namespace.
func bindDevice(dev int, name string, from int) error {
	fd, err := unix.Openat(dev, name, unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return err
	}
	return mountAt(from, fd)
}

// takeTerminal makes the pseudo terminal of master the step's.
func (b *box) takeTerminal(master int) error {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlocking the terminal: %w", err)
	}
	slave, err := peer(master)
	if err != nil {
		return fmt.Errorf("opening the terminal: %w", err)
	}
	b.master, b.console = master, os.NewFile(uintptr(slave), "/dev/console")
	if err := unix.IoctlSetWinsize(slave, unix.TIOCSWINSZ, &unix.Winsize{Row: b.Rows, Col: b.Cols}); err != nil {
		return fmt.Errorf("sizing the terminal: %w", err)
	}
	return nil
}

// openTerminal makes the pseudo terminal of the step, and /dev/console from it.
func (b *box) openTerminal(dev int) error {
	master, err := unix.Openat(dev, "pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a terminal: %w", err)
	}
	if err := b.takeTerminal(master); err != nil {
		return err
	}
	tree, err := cloneTree(dev, "pts/0", false)
	if err != nil {
		return fmt.Errorf("making /dev/console: %w", err)
	}
	if err := bindDevice(dev, "console", tree); err != nil {
		return fmt.Errorf("making /dev/console: %w", err)
	}
	return nil
}

// peer opens the other end of a terminal, without any path.
func peer(master int) (int, error) {
	fd, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}
