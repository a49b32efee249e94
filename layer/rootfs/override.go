package rootfs

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OverrideStat is the extended attribute that says what a file is whose owner or type could not be given to it, in the format of
// containers/storage: "uid:gid:mode[:type]", mode in octal, type "char-MAJOR-MINOR", "block-MAJOR-MINOR" or a word
// for what the file is anyway.
const OverrideStat = "user.containers.override_stat"

// maxID is the largest user or group id; the next means "none".
const maxID = 1<<32 - 2

// Override is the value of OverrideStat.
type Override struct {
	UID, GID uint32
	Mode     uint32 // permissions, and the type of a device
	Rdev     uint64 // of a device
}

// String is the attribute's value; the mode tells the type.
func (o Override) String() string {
	s := fmt.Sprintf("%d:%d:%o", o.UID, o.GID, o.Mode&0o7777)
	switch o.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		s += fmt.Sprintf(":char-%d-%d", unix.Major(o.Rdev), unix.Minor(o.Rdev))
	case unix.S_IFBLK:
		s += fmt.Sprintf(":block-%d-%d", unix.Major(o.Rdev), unix.Minor(o.Rdev))
	}
	return s
}

// ParseOverride reads the attribute; false if it is malformed.
func ParseOverride(value string) (Override, bool) {
	value = strings.TrimRight(value, "\x00")
	part := strings.SplitN(value, ":", 4)
	if len(part) < 3 {
		return Override{}, false
	}
	uid, err1 := strconv.ParseUint(part[0], 10, 32)
	gid, err2 := strconv.ParseUint(part[1], 10, 32)
	mode, err3 := strconv.ParseUint(part[2], 8, 32)
	if err1 != nil || err2 != nil || err3 != nil || uid > maxID || gid > maxID {
		return Override{}, false
	}
	o := Override{UID: uint32(uid), GID: uint32(gid), Mode: uint32(mode & 0o7777)}
	if len(part) == 3 {
		return o, true
	}
	typ, numbers, _ := strings.Cut(part[3], "-")
	switch typ {
	case "char":
		o.Mode |= unix.S_IFCHR
	case "block":
		o.Mode |= unix.S_IFBLK
	default:
		return o, true
	}
	major, minor, _ := strings.Cut(numbers, "-")
	maj, err1 := strconv.ParseUint(major, 10, 12)
	mnr, err2 := strconv.ParseUint(minor, 10, 20)
	if err1 != nil || err2 != nil {
		return Override{}, false
	}
	o.Rdev = unix.Mkdev(uint32(maj), uint32(mnr))
	return o, true
}

// Apply changes st to what the attribute says. Only an empty file stands for a
// device, and never for a whiteout.
func (o Override) Apply(st *unix.Stat_t) {
	typ := st.Mode & unix.S_IFMT
	if dev := o.Mode & unix.S_IFMT; dev != 0 {
		if !o.isDevice(st) {
			return
		}
		typ, st.Rdev = dev, o.Rdev
	}
	st.Mode = typ | o.Mode&0o7777
	st.Uid, st.Gid = o.UID, o.GID
}

// isDevice says whether the attribute makes a device of the file.
func (o Override) isDevice(st *unix.Stat_t) bool {
	dev := o.Mode & unix.S_IFMT
	return dev != 0 && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0 && (dev != unix.S_IFCHR || o.Rdev != 0)
}

// widened says whether the file's mode is the attribute's with more bits for the owner. Any other mode was set after the attribute.
func (o Override) widened(st *unix.Stat_t) bool {
	real, mode := st.Mode&0o7777, o.Mode&0o7777
	return mode&^real == 0 && real&^mode&^0o700 == 0
}
