package sandbox

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

func (b *box) mountSys(t hostTrees) error {
	if err := b.mountPlain("/sys", t.sys); err != nil || !t.ownSys {
		return err
	}
	return b.mountCgroup()
}

// mountCgroup shows the step its own cgroup, read-only: version 2 as one tree, version 1 as a directory for each hierarchy. Where the
// kernel does not allow that (version 1 in a user namespace), /sys/fs/cgroup stays empty.
func (b *box) mountCgroup() error {
	const dir = "/sys/fs/cgroup"
	target, err := b.inRoot(dir, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return nil //nolint:nilerr // a kernel without cgroups
	}
	data, err := b.readProc("self/cgroup")
	if err != nil {
		unix.Close(target)
		return fmt.Errorf("reading the cgroups: %w", err)
	}
	hierarchies := cgroupsV1(string(data))
	if len(hierarchies) == 0 {
		fd, err := newFS("cgroup2", noExec|b.sysAttr())
		if err != nil {
			unix.Close(target)
			return nil //nolint:nilerr // the kernel does not allow it: the directory stays empty
		}
		return mountAt(fd, target)
	}
	if b.UserNS {
		unix.Close(target)
		return nil
	}
	return b.mountCgroupV1(target, hierarchies)
}

// cgroupsV1 returns the controllers of each version 1 hierarchy of /proc/self/cgroup.
func cgroupsV1(text string) (found []string) {
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && parts[1] != "" {
			found = append(found, parts[1])
		}
	}
	return found
}

func (b *box) mountCgroupV1(target int, hierarchies []string) error {
	fd, err := newFS("tmpfs", noExec, option{"mode", "0755"})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := attach(fd, target); err != nil {
		return fmt.Errorf("mounting /sys/fs/cgroup: %w", err)
	}
	unix.Close(target)
	for _, h := range hierarchies {
		if err := mountHierarchy(fd, h, b.sysAttr()); err != nil {
			return fmt.Errorf("mounting the cgroup %s: %w", h, err)
		}
	}
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

// mountHierarchy mounts one hierarchy of control groups, version 1, in the directory dir.
func mountHierarchy(dir int, controllers string, attr int) error {
	name, named := strings.CutPrefix(controllers, "name=")
	opts := []option{}
	if named {
		opts = append(opts, option{"none", ""}, option{"name", name})
	} else {
		for c := range strings.SplitSeq(controllers, ",") {
			opts = append(opts, option{c, ""})
		}
	}
	if err := unix.Mkdirat(dir, name, 0o755); err != nil {
		return err
	}
	target, err := unix.Openat(dir, name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	fd, err := newFS("cgroup", noExec|attr, opts...)
	if err != nil {
		unix.Close(target)
		return err
	}
	if err := mountAt(fd, target); err != nil {
		return err
	}
	for c := range strings.SplitSeq(name, ",") {
		if c != name {
			if err := unix.Symlinkat(name, dir, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// sysAttr is what mounts of /sys have: a step must not write there.
func (b *box) sysAttr() int {
	if b.Insecure {
		return 0
	}
	return unix.MOUNT_ATTR_RDONLY
}
