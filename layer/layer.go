// Package layer reads and writes OCI layers: tar changesets as the OCI image
// specification defines them (layer.md).
//
// On disk a layer is a directory in the form that overlayfs takes as a lower
// directory: a whiteout is a character device 0:0, an opaque directory carries
// the overlay.opaque xattr ("user." in a user namespace, "trusted." otherwise).
// Where there is no overlayfs, these marks stay the files that a tar has (Form Marked).
// Apply makes such a directory from a tar, Write makes the tar again; the same
// directory always gives the same bytes.
//
// Of extended attributes a layer holds user.* and security.capability, but not
// overlay's own (user.overlay.*) nor user.containers.override_stat and user.strake.*, which record
// what could not be set (package rootfs). Others are
// labels of a host (security.selinux), depend on the privileges of who looks
// (trusted.*), or name ids that no tool translates (system.posix_acl_*): Write
// leaves them out. Apply leaves them out too, but sets POSIX ACLs where it can,
// as docker does. Write keeps user.* where it is asked to.
package layer

// Form says what a directory holds and which names are special in it.
type Form int

const (
	// Overlay is a lower directory of overlayfs: ".wh." entries of a tar become
	// whiteout devices and opaque marks, and back.
	Overlay Form = iota
	// Plain is an ordinary tree: ".wh." has no meaning.
	Plain
	// Marked is a layer where there is no overlayfs: whiteouts and opaque marks are the empty files
	// ".wh.NAME" and ".wh..wh..opq" that a tar has. A name of more than 251 bytes cannot be hidden in it.
	Marked
)

// Options says how Apply and Write treat a directory.
type Options struct {
	Form Form
	// UserXattr: the directory is used in a user namespace: overlay's marks are
	// user.overlay.*, and device nodes, which cannot be made there, are empty
	// files whose user.containers.override_stat xattr says what they are.
	UserXattr bool
	// RecordOwners: the process cannot give files away, so owners are recorded (rootfs.Owners), and device nodes
	// made as with UserXattr. Without UserXattr there is no user namespace either, whose root may
	// read every file and set file capabilities, and in Form Marked none is counted on. A root that records owners implies it.
	RecordOwners bool
	// Dir is where in the root Apply puts the entries; "" is the root itself. It is made if
	// missing. It is the "/" of the archive: links in it lead to nothing outside Dir.
	Dir string
	// Owner, if not nil, replaces the owner of every entry that Apply makes, and Implied that of directories that no entry names, which is root.
	Owner, Implied *Owner
	// Attributes: Write keeps all extended attributes of an image's files. The tar of a layer has file capabilities only, as BuildKit's has.
	Attributes bool
	// Epoch, if not nil, is the modification time that Write gives to every file, in seconds since 1970.
	Epoch *int64
}

// Owner is a pair of ids as they are in the image.
type Owner struct{ UID, GID int }
