package layer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// OCI image specification, layer.md, "Whiteouts".
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	// metaPrefix begins the names of aufs' own files, which old images hold and every tool ignores.
	metaPrefix = ".wh..wh."

	capability   = "security.capability"
	overrideStat = "user.containers.override_stat"
	aclPrefix    = "system.posix_acl_"
)

// opaqueXattr is the attribute by which overlayfs knows an opaque directory.
func (o Options) opaqueXattr() string {
	if o.UserXattr {
		return "user.overlay.opaque"
	}
	return "trusted.overlay.opaque"
}

// isContent says whether an extended attribute belongs to the layer.
func isContent(xattr string) bool {
	return xattr == capability ||
		strings.HasPrefix(xattr, "user.") && !strings.HasPrefix(xattr, "user.overlay.") && xattr != overrideStat
}

// isWhiteout says whether a file is overlayfs's whiteout.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// override is what user.containers.override_stat says of a file, in the format
// of containers/storage: "uid:gid:mode[:type]", mode in octal, type
// "char-MAJOR-MINOR", "block-MAJOR-MINOR" or a word for what the file is anyway.
type override struct {
	uid, gid uint32
	mode     uint32 // permissions, and the type of a device
	rdev     uint64
}

// String is the attribute's value; the mode tells the type.
func (o override) String() string {
	s := fmt.Sprintf("%d:%d:%o", o.uid, o.gid, o.mode&0o7777)
	switch o.mode & unix.S_IFMT {
	case unix.S_IFCHR:
		s += fmt.Sprintf(":char-%d-%d", unix.Major(o.rdev), unix.Minor(o.rdev))
	case unix.S_IFBLK:
		s += fmt.Sprintf(":block-%d-%d", unix.Major(o.rdev), unix.Minor(o.rdev))
	}
	return s
}

// parseOverride reads the attribute; false if it is malformed.
func parseOverride(value string) (override, bool) {
	value = strings.TrimRight(value, "\x00")
	part := strings.SplitN(value, ":", 4)
	if len(part) < 3 {
		return override{}, false
	}
	uid, err1 := strconv.ParseUint(part[0], 10, 32)
	gid, err2 := strconv.ParseUint(part[1], 10, 32)
	mode, err3 := strconv.ParseUint(part[2], 8, 32)
	if err1 != nil || err2 != nil || err3 != nil || uid > maxID || gid > maxID {
		return override{}, false
	}
	o := override{uid: uint32(uid), gid: uint32(gid), mode: uint32(mode & 0o7777)}
	if len(part) == 3 {
		return o, true
	}
	typ, numbers, _ := strings.Cut(part[3], "-")
	switch typ {
	case "char":
		o.mode |= unix.S_IFCHR
	case "block":
		o.mode |= unix.S_IFBLK
	default:
		return o, true
	}
	major, minor, _ := strings.Cut(numbers, "-")
	maj, err1 := strconv.ParseUint(major, 10, 12)
	mnr, err2 := strconv.ParseUint(minor, 10, 20)
	if err1 != nil || err2 != nil {
		return override{}, false
	}
	o.rdev = unix.Mkdev(uint32(maj), uint32(mnr))
	return o, true
}

// apply changes st to what the attribute says. Only an empty file stands for a
// device, and never for a whiteout.
func (o override) apply(st *unix.Stat_t) {
	typ := st.Mode & unix.S_IFMT
	if dev := o.mode & unix.S_IFMT; dev != 0 {
		if typ != unix.S_IFREG || st.Size != 0 || dev == unix.S_IFCHR && o.rdev == 0 {
			return
		}
		typ, st.Rdev = dev, o.rdev
	}
	st.Mode = typ | o.mode&0o7777
	st.Uid, st.Gid = o.uid, o.gid
}

// plainCapability drops the namespace from a file capability whose root is 0, so that it is
// the same in a user namespace (version 3) as outside (version 2), see capabilities(7).
func plainCapability(value []byte) []byte {
	const (
		sizeV2, sizeV3 = 20, 24
		versionMask    = 0xff000000
		version2       = 0x02000000
		version3       = 0x03000000
	)
	if len(value) != sizeV3 || binary.LittleEndian.Uint32(value)&versionMask != version3 || binary.LittleEndian.Uint32(value[sizeV2:]) != 0 {
		return value
	}
	v := bytes.Clone(value[:sizeV2])
	binary.LittleEndian.PutUint32(v, binary.LittleEndian.Uint32(v)&^versionMask|version2)
	return v
}
