package rootfs

import (
	"errors"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// recordPrefix begins the names of the attributes in which this package records what it cannot set.
	recordPrefix = "user.strake."
	// ownersXattr, of a directory, holds the owners of those entries that cannot have attributes; see entryOwners.
	ownersXattr = recordPrefix + "owners"
	// capabilityXattr stands for security.capability where that cannot be set.
	capabilityXattr = recordPrefix + "capability"
	capability      = "security.capability"
)

// Owners says how the owners of a tree's files are kept. A nil *Owners is the ordinary way: the file system has
// them. Others are recorded, for a process that cannot give files away:
//
//   - A file or directory has the attribute OverrideStat. Without one it belongs to 0:0, whoever made it. The attribute's mode
//     counts if it is a device's, or if the file's mode is the same with more bits for the owner; else the file's mode counts.
//   - The owner of a symbolic link, fifo or socket, which cannot have attributes, is recorded in its directory (see IsRecord).
//
// The methods are the functions of the same names, but see and change what is recorded. They may be called concurrently, but
// two processes must not change owners in one directory at once.
type Owners struct {
	unprivileged bool
	layers       []string   // host paths of the directories that the tree is made of, topmost first; empty if it is one of its own
	mu           sync.Mutex // held while the record of a directory changes
}

// RecordOwners returns Owners that are recorded. unprivileged is for a process that is not even root in a user namespace: for it
// files are readable and directories accessible to their owner, which is the process, with the true mode in the attribute,
// and file capabilities are recorded, too.
//
// layers are the host paths of the directories that overlayfs makes the tree of, topmost first: it shows only the record of the topmost
// of several directories that it merges.
func RecordOwners(unprivileged bool, layers ...string) *Owners {
	return &Owners{unprivileged: unprivileged, layers: layers}
}

// IsRecord says whether an extended attribute is a record of this package's, besides OverrideStat. It is no content.
func IsRecord(xattr string) bool { return strings.HasPrefix(xattr, recordPrefix) }

// Unprivileged is the argument of RecordOwners.
func (o *Owners) Unprivileged() bool { return o != nil && o.unprivileged }

// IsEntryRecord says whether an extended attribute of a directory is about the names in it: it is no part of a copy of the directory.
func IsEntryRecord(xattr string) bool { return xattr == ownersXattr }

// Records says whether owners are recorded.
func (o *Owners) Records() bool { return o != nil }

// Hides says whether an entry of a directory is a record and no content.
func (o *Owners) Hides(name string) bool { return o != nil && name == ownersFile }

// StatEntry describes the entry.
func (o *Owners) StatEntry(dir *os.File, base string) (unix.Stat_t, error) {
	return o.In(dir).StatEntry(base)
}

// Fstat describes an open file or directory; the descriptor must not be O_PATH.
func (o *Owners) Fstat(fd int, st *unix.Stat_t) error {
	for {
		if err := unix.Fstat(fd, st); err != unix.EINTR {
			if err != nil || o == nil {
				return err
			}
			break
		}
	}
	return o.see(fileTarget(fd), st)
}

// see changes st, of a file or directory, to what is recorded.
func (o *Owners) see(t target, st *unix.Stat_t) error {
	st.Uid, st.Gid = 0, 0
	value, err := t.get(OverrideStat)
	if err != nil || value == nil {
		return err
	}
	if rec, ok := ParseOverride(string(value)); ok {
		rec.see(st)
	}
	return nil
}

// see changes st to what the attribute says where owners are recorded.
func (o Override) see(st *unix.Stat_t) {
	if o.isDevice(st) {
		o.Apply(st)
		return
	}
	if o.widened(st) {
		st.Mode = st.Mode&unix.S_IFMT | o.Mode&0o7777
	}
	st.Uid, st.Gid = o.UID, o.GID
}

// Chown sets the owner; -1 keeps an id.
func (o *Owners) Chown(dir *os.File, base string, uid, gid int) error {
	if o == nil {
		return Chown(dir, base, uid, gid)
	}
	return o.Set(dir, base, uid, gid, -1)
}

// Chmod sets the mode.
func (o *Owners) Chmod(dir *os.File, base string, mode uint32) error {
	if o == nil {
		return Chmod(dir, base, mode)
	}
	return o.Set(dir, base, -1, -1, int(mode&0o7777))
}

// Set sets owner and mode, in this order; -1 keeps one. A symbolic link has no mode. Where owners are recorded it comes after SetXattr,
// which needs the permission to write.
func (o *Owners) Set(dir *os.File, base string, uid, gid, mode int) error {
	err := o.setOwner(dir, base, ids{uid, gid}, &mode)
	if err != nil || mode < 0 {
		return err
	}
	return Chmod(dir, base, uint32(mode))
}

// setOwner sets the owner. If it sets the mode as well, that is -1 then.
func (o *Owners) setOwner(dir *os.File, base string, id ids, mode *int) error {
	if o == nil {
		return Chown(dir, base, id.uid, id.gid)
	}
	st, err := StatEntry(dir, base)
	if err != nil {
		return err
	}
	if !hasXattrs(&st) {
		// The call changes no owner, but makes overlayfs copy the entry up to where the record will be, and tells who watches.
		if err := Chown(dir, base, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		return o.setEntryOwner(dir, base, id)
	}
	if *mode < 0 && st.Mode&unix.S_IFMT == unix.S_IFREG {
		if *mode, err = o.killPrivileges(dir, base, &st); err != nil {
			return err
		}
	}
	err = o.set(entryTarget{dir, base}, &st, id, *mode)
	*mode = -1
	return err
}

// killPrivileges does to a file, described by st, what the kernel does on a change of the owner, and returns the mode that is left.
func (o *Owners) killPrivileges(dir *os.File, base string, st *unix.Stat_t) (int, error) {
	now := *st
	t := entryTarget{dir, base}
	if err := o.see(t, &now); err != nil {
		return -1, err
	}
	// This changes no owner, but clears the same.
	if err := Chown(dir, base, -1, -1); err != nil {
		return -1, err
	}
	var err error
	if *st, err = StatEntry(dir, base); err != nil {
		return -1, err
	}
	writable, err := o.writable(t, st.Mode&0o7777, func() error { return t.remove(capabilityXattr) })
	if err != nil {
		return -1, err
	}
	st.Mode = st.Mode&unix.S_IFMT | writable
	mode := now.Mode & 0o7777 &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return int(mode), nil
}

// SetFile is Set for an open regular file.
func (o *Owners) SetFile(fd int, uid, gid, mode int) error {
	if o == nil {
		if uid >= 0 || gid >= 0 {
			if err := unix.Fchown(fd, uid, gid); err != nil {
				return explainOwner(err, uid, gid)
			}
		}
		if mode < 0 {
			return nil
		}
		return unix.Fchmod(fd, uint32(mode))
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return o.set(fileTarget(fd), &st, ids{uid, gid}, mode)
}

// hasXattrs says whether a file is of a kind that can have user.* attributes (xattr(7)).
func hasXattrs(st *unix.Stat_t) bool {
	typ := st.Mode & unix.S_IFMT
	return typ == unix.S_IFREG || typ == unix.S_IFDIR
}

// ids is an owner; -1 keeps an id.
type ids struct{ uid, gid int }

// merge returns the ids to which id changes uid and gid.
func (id ids) merge(uid, gid uint32) (uint32, uint32) {
	if id.uid >= 0 {
		uid = uint32(id.uid)
	}
	if id.gid >= 0 {
		gid = uint32(id.gid)
	}
	return uid, gid
}

// set records the owner and mode of a file or directory, and gives it the mode that it must have for that.
func (o *Owners) set(t target, st *unix.Stat_t, id ids, mode int) error {
	old, err := t.get(OverrideStat)
	if err != nil {
		return err
	}
	rec, ok := ParseOverride(string(old))
	device := ok && rec.isDevice(st)
	now := *st
	now.Uid, now.Gid = 0, 0
	if ok {
		rec.see(&now)
	}
	real := st.Mode & 0o7777
	if mode >= 0 {
		now.Mode = now.Mode&unix.S_IFMT | uint32(mode)&0o7777
		real = o.widen(st.Mode&unix.S_IFMT | uint32(mode)&0o7777)
	}
	now.Uid, now.Gid = id.merge(now.Uid, now.Gid)
	want := ""
	if device || now.Uid != 0 || now.Gid != 0 || now.Mode&0o7777 != real {
		v := Override{UID: now.Uid, GID: now.Gid, Mode: now.Mode & 0o7777}
		if device {
			v.Mode, v.Rdev = now.Mode, now.Rdev
		}
		want = v.String()
	}
	current := st.Mode & 0o7777
	if want != string(old) {
		if current, err = o.writable(t, current, func() error { return change(t, OverrideStat, want) }); err != nil {
			return err
		}
	}
	if current != real {
		return t.chmod(real)
	}
	return nil
}

// change sets an attribute, or removes it if value is empty.
func change(t target, name, value string) error {
	if value == "" {
		return t.remove(name)
	}
	return t.set(name, []byte(value))
}

// widen returns the mode (with the type) that a file must have so that its process can use it.
func (o *Owners) widen(mode uint32) uint32 {
	switch {
	case !o.unprivileged:
	case mode&unix.S_IFMT == unix.S_IFDIR:
		mode |= 0o700
	default:
		mode |= 0o400
	}
	return mode & 0o7777
}

// writable calls f, and again with the permission to write if it is missing. It returns the mode that the file has now.
func (o *Owners) writable(t target, mode uint32, f func() error) (uint32, error) {
	err := f()
	if o == nil || !o.unprivileged || !errors.Is(err, unix.EACCES) || mode&0o600 == 0o600 {
		return mode, err
	}
	if err := t.chmod(mode | 0o600); err != nil {
		return mode, err
	}
	return mode | 0o600, f()
}

// Link makes a hard link.
func (o *Owners) Link(oldDir *os.File, oldBase string, dir *os.File, base string) error {
	err := Link(oldDir, oldBase, dir, base)
	if err != nil {
		return err
	}
	return o.CopyEntryOwner(oldDir, oldBase, dir, base)
}

// isNode says whether a file is a device, real or recorded.
func isNode(st *unix.Stat_t) bool {
	typ := st.Mode & unix.S_IFMT
	return typ == unix.S_IFCHR || typ == unix.S_IFBLK
}
