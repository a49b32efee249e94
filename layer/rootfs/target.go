package rootfs

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// target is a file whose attributes and mode are set: an entry, or an open file.
type target interface {
	get(xattr string) ([]byte, error) // nil if it is not set
	set(xattr string, value []byte) error
	remove(xattr string) error
	chmod(mode uint32) error
}

type entryTarget struct {
	dir  *os.File
	base string
}

func (t entryTarget) get(name string) ([]byte, error) { return GetXattr(t.dir, t.base, name) }
func (t entryTarget) set(name string, value []byte) error {
	return SetXattr(t.dir, t.base, name, value)
}
func (t entryTarget) remove(name string) error { return RemoveXattr(t.dir, t.base, name) }
func (t entryTarget) chmod(mode uint32) error  { return Chmod(t.dir, t.base, mode) }

// fileTarget is a descriptor that is not O_PATH.
type fileTarget int

func (t fileTarget) get(name string) ([]byte, error) { return FileXattr(int(t), name) }

func (t fileTarget) set(name string, value []byte) error {
	return os.NewSyscallError("fsetxattr "+name, unix.Fsetxattr(int(t), name, value, 0))
}

func (t fileTarget) remove(name string) error {
	err := unix.Fremovexattr(int(t), name)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return os.NewSyscallError("fremovexattr "+name, err)
}

func (t fileTarget) chmod(mode uint32) error {
	return os.NewSyscallError("fchmod", unix.Fchmod(int(t), mode))
}

// SetXattr sets an extended attribute of the entry.
func (o *Owners) SetXattr(dir *os.File, base, name string, value []byte) error {
	if o == nil {
		return SetXattr(dir, base, name, value)
	}
	st, err := StatEntry(dir, base)
	if err != nil {
		return err
	}
	return o.setXattr(entryTarget{dir, base}, &st, name, value)
}

// SetFileXattr is SetXattr for an open file.
func (o *Owners) SetFileXattr(fd int, name string, value []byte) error {
	if o == nil {
		return fileTarget(fd).set(name, value)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return o.setXattr(fileTarget(fd), &st, name, value)
}

func (o *Owners) setXattr(t target, st *unix.Stat_t, name string, value []byte) error {
	if name == capability && o.unprivileged {
		if !isCapability(value) {
			return &os.PathError{Op: "setxattr", Path: name, Err: unix.EINVAL}
		}
		name = capabilityXattr
	}
	mode := st.Mode & 0o7777
	now, err := o.writable(t, mode, func() error { return t.set(name, value) })
	if now != mode {
		err = errors.Join(err, t.chmod(mode))
	}
	return err
}

// isCapability says whether the kernel would take the value of security.capability (version 2 or 3, linux/capability.h).
func isCapability(value []byte) bool {
	return len(value) == 20 && value[3] == 2 || len(value) == 24 && value[3] == 3
}

// ListXattr returns the names of the entry's extended attributes without those that this package records in.
func (o *Owners) ListXattr(dir *os.File, base string) ([]string, error) {
	names, err := ListXattr(dir, base)
	return o.shown(names), err
}

// FileXattrs is ListXattr for an open file.
func (o *Owners) FileXattrs(fd int) ([]string, error) {
	names, err := FileXattrs(fd)
	return o.shown(names), err
}

// shown is what names of attributes are shown.
func (o *Owners) shown(names []string) []string {
	if o == nil {
		return names
	}
	if slices.Contains(names, capabilityXattr) {
		names = append(slices.DeleteFunc(names, func(n string) bool { return n == capability }), capability)
	}
	return slices.DeleteFunc(names, func(n string) bool { return n == OverrideStat || IsRecord(n) })
}

// GetXattr returns an extended attribute of the entry; one that is not set is (nil, nil).
func (o *Owners) GetXattr(dir *os.File, base, name string) ([]byte, error) {
	return o.getXattr(entryTarget{dir, base}, name)
}

// FileXattr is GetXattr for an open file.
func (o *Owners) FileXattr(fd int, name string) ([]byte, error) {
	if o == nil {
		return FileXattr(fd, name)
	}
	return o.getXattr(fileTarget(fd), name)
}

func (o *Owners) getXattr(t target, name string) ([]byte, error) {
	if o != nil && name == capability {
		if value, err := t.get(capabilityXattr); value != nil || err != nil {
			return value, err
		}
	}
	return t.get(name)
}
