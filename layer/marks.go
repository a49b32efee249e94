package layer

import (
	"bytes"
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

const (
	// OCI image specification, layer.md, "Whiteouts".
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	// metaPrefix begins the names of aufs' own files, which old images hold and every tool ignores.
	metaPrefix = ".wh..wh."

	capability = "security.capability"
	aclPrefix  = "system.posix_acl_"
)

// OpaqueXattr is the attribute by which overlayfs knows an opaque directory.
func (o Options) OpaqueXattr() string {
	if o.UserXattr {
		return "user.overlay.opaque"
	}
	return "trusted.overlay.opaque"
}

// owners is how the owners of the tree at root are kept.
func (o Options) owners(root *rootfs.Root) *rootfs.Owners {
	if root.Owners() == nil && o.RecordOwners {
		return rootfs.RecordOwners(!o.UserXattr || o.Form == Marked)
	}
	return root.Owners()
}

// fileDevices says whether device nodes are empty files with an attribute.
func (o Options) fileDevices() bool { return o.UserXattr || o.RecordOwners }

// inTar says whether Write keeps an extended attribute.
func (o Options) inTar(xattr string) bool {
	return xattr == capability || o.Attributes && isContent(xattr)
}

// isContent says whether an extended attribute belongs to the layer.
func isContent(xattr string) bool {
	return xattr == capability ||
		strings.HasPrefix(xattr, "user.") && !strings.HasPrefix(xattr, "user.overlay.") && xattr != rootfs.OverrideStat && !rootfs.IsRecord(xattr)
}

// IsWhiteout says whether a file is overlayfs's whiteout.
func IsWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
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
