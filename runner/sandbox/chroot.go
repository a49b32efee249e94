package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// chrootDropped are the capabilities that a step has on the other rungs and not under chroot: with the first it could leave the root
// (chroot(2)), with the second make a node of the machine's disk, where no control group of devices forbids it.
const chrootDropped uint64 = 1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_MKNOD

// setupChroot builds the box without any namespace: the root is a directory, entered by chroot(2), and what is mounted on other rungs
// takes the place of what is in it.
// Preconditions: the process adopts orphans.
func (b *box) setupChroot() error {
	unix.Umask(0)
	var err error
	b.proc = b.family.Proc()
	if b.aside, err = unix.Open(b.Aside, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("opening the directory for the sandbox: %w", err)
	}
	if b.sys, err = unix.Open("/sys", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		b.sys = -1
	}
	sources, err := b.openSources()
	if err != nil {
		return err
	}
	if b.Terminal {
		if err := b.hostTerminal(); err != nil {
			return err
		}
	}
	if err := b.enterRoot(); err != nil {
		return err
	}
	if err := b.placeSystem(); err != nil {
		return err
	}
	for i, m := range slices.Concat(b.Files, b.Mounts) {
		if err := b.placeMount(i, m, sources.all[i]); err != nil {
			return fmt.Errorf("mounting %s: %w", m.Target, err)
		}
	}
	sources.release()
	if err := b.identity(hostTrees{}); err != nil {
		return err
	}
	unix.Umask(0o022)
	if err := b.enterDir(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hiding the init: %w", err)
	}
	return nil
}

// enterRoot makes the tree this process's root.
func (b *box) enterRoot() error {
	var err error
	if b.root, err = unix.Open(b.Root.Upper, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("opening the root: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(b.root, &st); err != nil {
		return fmt.Errorf("opening the root: %w", err)
	}
	b.rootDev = st.Dev
	if err := unix.Fchdir(b.root); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	return nil
}

// placeSystem gives the tree a /proc, a /sys and a /dev for the time of the step. Those that it has not got it keeps, empty, as on other rungs.
func (b *box) placeSystem() error {
	for i, name := range []string{"/proc", "/sys", "/dev"} {
		as := "system-" + strconv.Itoa(i)
		mode := uint32(0o755)
		if name != "/dev" {
			mode = 0o555
		}
		if err := makeDir(b.aside, as, mode, 0, 0); err != nil {
			return fmt.Errorf("making %s: %w", name, err)
		}
		if fill := map[string]func(string) error{"/proc": b.fillProc, "/dev": b.fillDev}[name]; fill != nil {
			if err := fill(as); err != nil {
				return err
			}
		}
		fd, err := b.plain(name)
		if err != nil {
			return err
		}
		unix.Close(fd)
		if err := b.place(name, b.aside, as, ""); err != nil {
			return fmt.Errorf("placing %s: %w", name, err)
		}
	}
	// A file system mounted with nodev has nodes that cannot be opened.
	if err := b.openNull(b.root, "dev/null"); err != nil {
		return fmt.Errorf("%w: device nodes must work on the store's file system: mount it without nodev, or use another --root", err)
	}
	return nil
}

// fillDev makes the devices.
func (b *box) fillDev(as string) error {
	dev, err := unix.Openat(b.aside, as, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making /dev: %w", err)
	}
	defer unix.Close(dev)
	for _, d := range devices() {
		if err := unix.Mknodat(dev, d.name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("making /dev/%s: %w", d.name, err)
		}
	}
	for _, l := range devLinks() {
		if err := unix.Symlinkat(l[1], dev, l[0]); err != nil {
			return fmt.Errorf("making /dev/%s: %w", l[0], err)
		}
	}
	for name, mode := range map[string]uint32{"pts": 0o755, "mqueue": 0o1777, "shm": 0o1777} {
		if err := makeDir(dev, name, mode, 0, 0); err != nil {
			return fmt.Errorf("making /dev/%s: %w", name, err)
		}
	}
	return nil
}

// placeMount puts m, the mount with that number, into the tree.
func (b *box) placeMount(number int, m Mount, s source) error {
	if b.ended.Load() {
		return errEnded
	}
	as := "mount-" + strconv.Itoa(number)
	if s.parent >= 0 {
		return b.place(m.Target, s.parent, s.name, s.home)
	}
	var err error
	switch {
	case m.Type == "volume": // the root is never read-only here
		fd, err := b.point(m.Target, true)
		if err == nil {
			unix.Close(fd)
		}
		return err
	case m.Type == "tmpfs":
		if m.Mode, err = b.tmpfsMode(m); err == nil {
			err = makeDir(b.aside, as, m.Mode, m.UID, m.GID)
		}
	case m.HasData:
		err = b.writeFile(b.aside, as, m)
	default:
		err = b.bring(s.fd, as)
	}
	if err != nil {
		return err
	}
	return b.place(m.Target, b.aside, as, "")
}

// bring copies fd, or links it if it is a socket.
func (b *box) bring(fd int, as string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		err := unix.Linkat(b.proc, "self/fd/"+strconv.Itoa(fd), b.aside, as, unix.AT_SYMLINK_FOLLOW)
		if errors.Is(err, unix.EXDEV) {
			return fmt.Errorf("isolation chroot: the socket must be on the file system of the store: %w", err)
		}
		return err
	}
	c := copying{ended: b.ended.Load}
	return c.copy(b.reopen(fd), b.aside, as, &st)
}

// reopen names an O_PATH descriptor by the proc file system outside.
func (b *box) reopen(fd int) opener {
	return func(flags int) (int, error) {
		return unix.Openat(b.proc, "self/fd/"+strconv.Itoa(fd), flags|unix.O_CLOEXEC, 0)
	}
}

// hostTerminal makes the step's terminal with the devices around. It has no name in the box.
func (b *box) hostTerminal() error {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a terminal: %w", err)
	}
	return b.takeTerminal(master)
}
