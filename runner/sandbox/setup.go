package sandbox

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/supervisor"
)

// setup builds the box around this process: after it, the host's file system is out of reach.
// Preconditions: the process is alone in new mount, pid, ipc, uts and cgroup namespaces.
func (b *box) setup() error {
	if b.Chroot {
		return b.setupChroot()
	}
	unix.Umask(0)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	trees, err := b.hostTrees()
	if err != nil {
		return err
	}
	root, err := trees.root.mount(b.Attach)
	if err != nil {
		return err
	}
	trees.root.close()
	if err := b.attachRoot(root); err != nil {
		return err
	}
	hooked := b.Sync || len(b.Hooks) > 0
	if !hooked {
		if err := b.pivot(); err != nil {
			return err
		}
	}
	steps := []func(hostTrees) error{b.mountProc, b.mountDev, b.mountSys, b.mountUser, b.identity}
	for _, f := range steps {
		if err := f(trees); err != nil {
			return err
		}
	}
	if err := b.network(); err != nil {
		return err
	}
	unix.Umask(0o022)
	if hooked {
		if err := b.runHooks(); err != nil {
			return err
		}
		if err := b.pivot(); err != nil {
			return err
		}
	}
	if err := b.enterDir(); err != nil {
		return err
	}
	if err := b.restrictRoot(); err != nil {
		return err
	}
	// Nobody in the box may look into this process: it has rights that the step has not.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hiding the init: %w", err)
	}
	return nil
}

// restrictRoot gives the root's mount its attributes; what is mounted in it has its own.
func (b *box) restrictRoot() error {
	var attrs uint64
	if b.ReadOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	if b.NoDev {
		attrs |= unix.MOUNT_ATTR_NODEV
	}
	if attrs == 0 {
		return nil
	}
	if err := unix.MountSetattr(b.root, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attrs}); err != nil {
		return fmt.Errorf("making the root read-only or without devices: %w", err)
	}
	return nil
}

// bindsDevices says whether the nodes in /dev are the host's: in a user namespace none can be made, and where nodes cannot be opened these are to.
func (b *box) bindsDevices() bool { return b.UserNS || b.NoDev }

// attachRoot mounts the detached mount root over Attach.
func (b *box) attachRoot(root int) error {
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, b.Attach, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mounting the root over %s: %w", b.Attach, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return fmt.Errorf("mounting the root: %w", err)
	}
	b.root, b.rootDev = root, st.Dev
	return nil
}

// pivot makes the root the process's root and lets go of the old one.
func (b *box) pivot() error {
	if err := unix.Fchdir(b.root); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivoting into the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting the host: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	return nil
}

// plain opens the mount point name (/proc, /sys, /dev), which must be a real directory: an image that has a
// symlink there wants to see its mounts land elsewhere.
func (b *box) plain(name string) (int, error) {
	fd, err := b.inRoot(name, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if errors.Is(err, unix.ENOENT) {
		made := len(b.made)
		if err = b.makePoint(name, true); err == nil {
			if !b.ReadOnly { // a directory that a step finds is part of what it makes
				b.keep(made)
			}
			fd, err = b.inRoot(name, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
		}
	}
	if err != nil {
		return -1, fmt.Errorf("%s must be a directory in the root: %w", name, err)
	}
	return fd, nil
}

// mountProc makes the mount point of /proc; the step brings the file system. In a user namespace that must see another one, the init's, which
// it replaces; otherwise that is never mounted.
func (b *box) mountProc(t hostTrees) error {
	b.proc = t.proc
	target, err := b.plain("/proc")
	if err != nil {
		return err
	}
	defer unix.Close(target)
	b.mounted = append(b.mounted, "/proc")
	if !b.UserNS && !b.SharedPID {
		return nil
	}
	if err := attach(t.proc, target); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	return nil
}

func (b *box) mountPlain(name string, fd int) error {
	target, err := b.plain(name)
	if err != nil {
		return err
	}
	if err := mountAt(fd, target); err != nil {
		return fmt.Errorf("mounting %s: %w", name, err)
	}
	b.mounted = append(b.mounted, name)
	return nil
}

// mountUser makes the binds of /etc and the caller's mounts.
func (b *box) mountUser(t hostTrees) error {
	if err := b.mountAll(b.Files, t.files); err != nil {
		return err
	}
	return b.mountAll(b.Mounts, t.mounts)
}

// masked are the files and directories of /proc and /sys that a Docker container cannot see.
func masked() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

// readOnly are those that it cannot write.
func readOnly() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// mask hides parts of /proc and /sys.
func (b *box) mask() error {
	if b.Insecure || b.Chroot {
		return nil
	}
	for _, p := range readOnly() {
		target, err := b.inRoot(p, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("making %s read-only: %w", p, err)
		}
		fd, err := cloneTree(target, "", true)
		if err == nil {
			err = setAttr(fd, unix.MOUNT_ATTR_RDONLY)
		}
		if err == nil {
			err = mountAt(fd, target)
		}
		if err != nil {
			return fmt.Errorf("making %s read-only: %w", p, err)
		}
	}
	empty := "" // the first masked directory: the others are copies of its mount
	for _, p := range masked() {
		isDir, err := b.maskOne(p, empty)
		if err != nil {
			return fmt.Errorf("masking %s: %w", p, err)
		}
		if isDir && empty == "" {
			empty = p
		}
	}
	return nil
}

// maskOne hides p behind /dev/null or an empty directory, if it is there.
func (b *box) maskOne(p, empty string) (isDir bool, err error) {
	target, err := b.inRoot(p, unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		unix.Close(target)
		return false, err
	}
	isDir = st.Mode&unix.S_IFMT == unix.S_IFDIR
	var fd int
	switch {
	case !isDir:
		fd, err = cloneTree(b.null[1], "", false) // whatever /dev/null is now (CVE-2025-31133)
	case empty != "":
		fd, err = cloneTree(unix.AT_FDCWD, empty, false)
	default:
		fd, err = newFS("tmpfs", noExec|unix.MOUNT_ATTR_RDONLY, option{"size", "4k"}, option{"nr_inodes", "2"}, option{"mode", "0755"})
	}
	if err != nil {
		unix.Close(target)
		return isDir, err
	}
	return isDir, mountAt(fd, target)
}

// network names the host and brings the loopback of an own network namespace up.
func (b *box) network() error {
	if b.Hostname != "" && !slices.Contains(b.Supervise, supervisor.Names) {
		if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
			return fmt.Errorf("setting the host name to %q: %w", b.Hostname, err)
		}
	}
	if !b.Loopback {
		return nil
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bringing the loopback up: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bringing the loopback up: %w", err)
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bringing the loopback up: %w", err)
	}
	return nil
}

// enterDir makes the working directory, the user's, and enters it with all rights, as runc does: a step of an
// ordinary user may be started in a directory that this user cannot search.
func (b *box) enterDir() error {
	dir := "/" + strings.TrimPrefix(b.Dir, "/") // not cleaned: /link/../x is beside what the link names
	made := len(b.made)
	fd, err := b.point(dir, true)
	if err != nil {
		return fmt.Errorf("entering the working directory: %w", err)
	}
	defer unix.Close(fd)
	if err := b.giveUser(made); err != nil {
		return fmt.Errorf("making the working directory %s: %w", dir, err)
	}
	b.keep(made)
	// No other name than this descriptor: what is made and entered must not be outside, as by /proc/PID/root (CVE-2024-21626).
	if err := unix.Fchdir(fd); err != nil {
		return fmt.Errorf("entering the working directory %s: %w", dir, err)
	}
	// A directory outside of the root, reached through a descriptor in /proc, has no name in it.
	if wd, err := unix.Getwd(); err != nil || !path.IsAbs(wd) {
		return fmt.Errorf("entering the working directory %s: it is outside of the root", dir)
	}
	return nil
}
