package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hostTrees are what comes from the host, opened while it is still in sight; in a user namespace, proc and
// sysfs can only be mounted while others of their kind are.
type hostTrees struct {
	root          *layers
	files, mounts []int // as in Config; -1 for what is no bind
	devices       []int // as in devices(); only if bindsDevices
	all           []hostDevice
	proc, sys     int
	ownSys        bool // sys is a new one, not the host's
}

func (b *box) hostTrees() (t hostTrees, err error) {
	if t.root, err = openLayers(b.Root); err != nil {
		return t, err
	}
	switch {
	case b.SharedPID:
		// The one around, whose processes the box shares: a new one could not be mounted, and would show the same. Who has the user of others could write
		// there what the kernel keeps of them, such as how readily they are killed for want of memory.
		if t.proc, err = cloneTree(unix.AT_FDCWD, "/proc", true); err == nil {
			err = setAttr(t.proc, noExec|unix.MOUNT_ATTR_RDONLY)
		}
		if err != nil {
			err = fmt.Errorf("binding /proc: %w", err)
		}
	case b.UserNS:
		t.proc, err = newFS("proc", noExec)
	default:
		if t.proc, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			err = fmt.Errorf("opening /proc: %w", err)
		}
	}
	if err != nil {
		return t, err
	}
	// Without a network namespace of its own, a user namespace cannot mount sysfs; nor where a container masks a part of it.
	if t.ownSys = !b.UserNS || b.Loopback; t.ownSys {
		t.sys, err = newFS("sysfs", noExec|b.sysAttr())
		t.ownSys = !b.SharedPID || !errors.Is(err, unix.EPERM)
	}
	if !t.ownSys {
		t.sys, err = b.cloneSys()
	}
	if err != nil {
		return t, fmt.Errorf("mounting /sys: %w", err)
	}
	if b.bindsDevices() {
		for _, d := range devices() {
			fd, err := cloneTree(unix.AT_FDCWD, "/dev/"+d.name, false)
			if err == nil {
				err = setAttr(fd, nodeAttr)
			}
			if err != nil {
				return t, fmt.Errorf("binding /dev/%s: %w", d.name, err)
			}
			t.devices = append(t.devices, fd)
		}
	}
	if b.Insecure {
		if t.all, err = b.listDevices(); err != nil {
			return t, err
		}
	}
	if err := b.stubPoints(&t); err != nil {
		return t, err
	}
	return t, nil
}

// cloneSys returns a copy of the host's /sys.
func (b *box) cloneSys() (int, error) {
	fd, err := cloneTree(unix.AT_FDCWD, "/sys", true)
	if err != nil {
		return -1, err
	}
	return fd, setAttr(fd, uint64(b.sysAttr()|noExec))
}

// stubPoints opens the sources of all mounts, and makes mount points for them in StubDir.
func (b *box) stubPoints(t *hostTrees) error {
	stubs := -1
	if b.StubDir != "" {
		var err error
		if stubs, err = unix.Open(b.StubDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("making mount points: %w", err)
		}
		defer unix.Close(stubs)
	}
	all := append(append([]Mount{}, b.Files...), b.Mounts...)
	sources, err := b.sources(all)
	if err != nil {
		return err
	}
	t.files, t.mounts = sources[:len(b.Files)], sources[len(b.Files):]
	if stubs < 0 {
		return nil
	}
	for i, m := range b.Mounts {
		dir, err := isDir(t.mounts[i])
		if err == nil {
			err = makeStub(stubs, m.Target, dir)
		}
		if err == nil && m.Type == "tmpfs" {
			err = markFresh(stubs, m.Target)
		}
		// Mount points that lie in each other's way are left for later, when it can be seen what is really there.
		if err != nil && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("making the mount point %s: %w", m.Target, err)
		}
	}
	return nil
}

// isDir says whether a mount's root is a directory; -1 is one that is yet to be made.
func isDir(fd int) (bool, error) {
	if fd < 0 {
		return true, nil
	}
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// makeStub makes the mount point name in the directory root, and the directories above it, with modes and times that do not
// depend on this process: a step may copy a directory up into its layer.
// Preconditions: root holds mount points only.
func makeStub(root int, name string, dir bool) error {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if top, _, _ := strings.Cut(name, "/"); top == "" || top == "proc" || top == "sys" || top == "dev" {
		return nil
	}
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		var err error
		if i < len(name) || dir {
			if err = unix.Mkdirat(root, name[:i], 0o755); errors.Is(err, unix.EEXIST) {
				continue
			}
		} else if err = unix.Mknodat(root, name, unix.S_IFREG|0o644, 0); err != nil {
			return err
		}
		if err != nil {
			return err
		}
	}
	for ; name != "."; name = path.Dir(name) {
		if err := unix.UtimesNanoAt(root, name, []unix.Timespec{{}, {}}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return nil
}

// markFresh gives a mount point of makeStub the mode by which tmpfsMode knows that the layers have no such directory.
func markFresh(root int, name string) error {
	err := unix.Fchmodat(root, strings.TrimPrefix(path.Clean("/"+name), "/"), freshTmpfs, 0)
	if errors.Is(err, unix.ENOENT) { // below /proc, /sys or /dev
		return nil
	}
	return err
}

// sources returns a detached mount for each bind of mounts.
//
// Everything that has a name on the host is opened first. Only what is mounted can be cloned, so the files that come from
// data and the overlays are then mounted over Attach, which they hide; that goes away with the old root.
func (b *box) sources(mounts []Mount) ([]int, error) {
	fds := make([]int, len(mounts))
	for i, m := range mounts {
		var err error
		switch {
		case m.Type != "bind" || m.HasData:
			fds[i] = -1
		case m.Overlay != nil:
			fds[i], err = mountLayers(*m.Overlay, b.Attach)
		default:
			fds[i], err = hostTree(m)
		}
		if err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.Target, err)
		}
	}
	data, err := b.dataFS(mounts)
	if err != nil {
		return nil, err
	}
	for i, m := range mounts {
		var err error
		switch {
		case m.HasData:
			fds[i], err = cloneTree(data, strconv.Itoa(i), false)
		case m.Overlay != nil:
			fds[i], err = b.part(fds[i], m)
		}
		if attrs := m.attrs() | b.deviceAttr(fds[i]); err == nil && attrs != 0 && fds[i] >= 0 {
			err = setAttr(fds[i], attrs)
		}
		if err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.Target, err)
		}
	}
	if data >= 0 { // the clones hold it
		unix.Close(data)
	}
	return fds, nil
}

// nodeAttr is what the bind of a device node gets: the device can be written all the same, but not the node's mode, owner and times, which are the host's.
const nodeAttr = unix.MOUNT_ATTR_RDONLY

// deviceAttr is the attribute that the bind fd gets for devices: if it is none itself, nodes in it cannot be opened where that is forbidden.
func (b *box) deviceAttr(fd int) uint64 {
	var st unix.Stat_t
	switch {
	case fd < 0 || unix.Fstat(fd, &st) != nil:
		return 0
	case st.Mode&unix.S_IFMT == unix.S_IFCHR || st.Mode&unix.S_IFMT == unix.S_IFBLK:
		return nodeAttr
	case b.NoDev:
		return unix.MOUNT_ATTR_NODEV
	}
	return 0
}

// attrs are the attributes that a bind gets. A file made from data that is no program is none on a file system either, as in BuildKit.
func (m Mount) attrs() (attrs uint64) {
	for attr, on := range map[uint64]bool{
		unix.MOUNT_ATTR_RDONLY: m.ReadOnly, unix.MOUNT_ATTR_NOSUID: m.NoSuid, unix.MOUNT_ATTR_NODEV: m.NoDev, unix.MOUNT_ATTR_NOEXEC: m.NoExec || m.HasData && m.Mode&0o111 == 0,
	} {
		if on {
			attrs |= attr
		}
	}
	return attrs
}

func mountLayers(o Overlay, attach string) (int, error) {
	l, err := openLayers(o)
	if err != nil {
		return -1, err
	}
	defer l.close()
	return l.mount(attach)
}

// hostTree returns a copy of the host's mount at the source of m, or of a part of it.
func hostTree(m Mount) (int, error) {
	if m.Inside == "" {
		fd, err := cloneTree(unix.AT_FDCWD, m.Source, true)
		if err != nil {
			return -1, &fs.PathError{Op: "bind", Path: m.Source, Err: err}
		}
		return fd, nil
	}
	dir, err := unix.Open(m.Source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "bind", Path: m.Source, Err: err}
	}
	defer unix.Close(dir)
	return treeIn(dir, m.Inside)
}

// part returns the part of the file system fd that m mounts.
func (b *box) part(fd int, m Mount) (int, error) {
	if path.Clean("/"+m.Source) == "/" && path.Clean("/"+m.Inside) == "/" {
		return fd, nil
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, b.Attach, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return -1, fmt.Errorf("mounting over %s: %w", b.Attach, err)
	}
	if path.Clean("/"+m.Inside) == "/" {
		return treeIn(fd, m.Source)
	}
	dir, err := within(fd, m.Source)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return treeIn(dir, m.Inside)
}

// within opens name as a process would see it whose root is dir.
func within(dir int, name string) (int, error) {
	fd, err := openIn(dir, path.Clean("/"+name), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, &fs.PathError{Op: "bind", Path: name, Err: err}
	}
	return fd, nil
}

// treeIn returns a copy of the mount that name, as seen with the root dir, is on.
func treeIn(dir int, name string) (int, error) {
	fd, err := within(dir, name)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	if fd, err = cloneTree(fd, "", false); err != nil {
		return -1, &fs.PathError{Op: "bind", Path: name, Err: err}
	}
	return fd, nil
}

// dataFS makes a tmpfs with a file for each mount that has data, named by its number, and mounts it over Attach. It returns -1
// if there is none.
func (b *box) dataFS(mounts []Mount) (int, error) {
	fd := -1
	for i, m := range mounts {
		if !m.HasData {
			continue
		}
		if fd < 0 {
			var err error
			if fd, err = newFS("tmpfs", noDev, option{"mode", "0700"}); err != nil {
				return -1, err
			}
			if err := unix.MoveMount(fd, "", unix.AT_FDCWD, b.Attach, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return -1, fmt.Errorf("mounting over %s: %w", b.Attach, err)
			}
		}
		if err := b.writeFile(fd, strconv.Itoa(i), m); err != nil {
			return -1, fmt.Errorf("writing the file for %s: %w", m.Target, err)
		}
	}
	return fd, nil
}

// writeFile makes the file name with the data, mode and owner of m.
func (b *box) writeFile(dir int, name string, m Mount) error {
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.Write(m.Data); err != nil {
		return err
	}
	if m.UID != 0 || m.GID != 0 {
		if err := b.give(fd, m); err != nil {
			return err
		}
	}
	return unix.Fchmod(fd, m.Mode&0o7777)
}
