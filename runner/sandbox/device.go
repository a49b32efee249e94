package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hostDevice is a device node below the host's /dev.
type hostDevice struct {
	name string // relative to /dev
	stat unix.Stat_t
	tree int // a copy of its mount, only in a user namespace
}

// listDevices finds the host's devices. Those that a box has of its own (terminals, the usual ones) are not among them.
func (b *box) listDevices() ([]hostDevice, error) {
	own := map[string]bool{"console": true, "ptmx": true}
	for _, d := range devices() {
		own[d.name] = true
	}
	var found []hostDevice
	err := filepath.WalkDir("/dev", func(name string, e fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(name, "/dev/")
		switch {
		case errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case rel == "pts" || rel == "shm" || rel == "mqueue" || rel == "fd":
			return fs.SkipDir
		case e.Type()&fs.ModeDevice == 0 || own[rel]:
			return nil
		}
		d := hostDevice{name: rel, tree: -1}
		if err := unix.Lstat(name, &d.stat); err != nil {
			return nil //nolint:nilerr // unplugged meanwhile
		}
		if b.UserNS {
			if d.tree, err = cloneTree(unix.AT_FDCWD, name, false); err != nil {
				return err
			}
		}
		found = append(found, d)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("finding the host's devices: %w", err)
	}
	return found, nil
}

// hostDevices makes the host's devices in the box's /dev, an own file system that nobody else has seen yet.
func (b *box) hostDevices(dev int, all []hostDevice) error {
	for _, d := range all {
		if err := makeParents(dev, d.name); err != nil {
			return fmt.Errorf("making /dev/%s: %w", d.name, err)
		}
		var err error
		if d.tree >= 0 {
			err = bindDevice(dev, d.name, d.tree)
		} else if err = unix.Mknodat(dev, d.name, d.stat.Mode, int(d.stat.Rdev)); err == nil {
			err = unix.Fchownat(dev, d.name, int(d.stat.Uid), int(d.stat.Gid), unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil {
			return fmt.Errorf("making /dev/%s: %w", d.name, err)
		}
	}
	return nil
}

func makeParents(dir int, name string) error {
	parent := path.Dir(name)
	if parent == "." {
		return nil
	}
	if err := makeParents(dir, parent); err != nil {
		return err
	}
	if err := unix.Mkdirat(dir, parent, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
