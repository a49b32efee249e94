package dockerfile

// MountType is the type of a RUN --mount.
type MountType string

// The types of mounts.
const (
	MountBind   MountType = "bind"
	MountCache  MountType = "cache"
	MountTmpfs  MountType = "tmpfs"
	MountSecret MountType = "secret"
	MountSSH    MountType = "ssh"
)

// Sharing is how a cache mount is used by several steps at once.
type Sharing string

// Sharing of cache mounts.
const (
	SharingShared  Sharing = "shared"  // at once
	SharingPrivate Sharing = "private" // each its own
	SharingLocked  Sharing = "locked"  // one after the other
)

// Network is the network of a RUN.
type Network string

// Networks of a RUN.
const (
	NetworkDefault Network = "default" // what the build says
	NetworkNone    Network = "none"
	NetworkHost    Network = "host" // needs the entitlement network.host
)

// Security is what a RUN may do.
type Security string

// Securities of a RUN.
const (
	SecuritySandbox  Security = "sandbox"
	SecurityInsecure Security = "insecure" // needs the entitlement security.insecure
)

// Device is a RUN --device, a CDI name: "vendor.com/class=name" or "vendor.com/class".
type Device struct {
	Name     string
	Required bool // if not, a device that is not there is left out
}

// Mount is a RUN --mount with all defaults filled in.
type Mount struct {
	Type MountType
	// From is what is mounted (bind), or what a new cache starts with. Nil is the build context for bind, and nothing for the others.
	From   *Source
	Source string // path in From, absolute and clean; "/" is the whole
	// Target is absolute, not cleaned, never "/". It is empty for a secret that is only an environment variable.
	Target   string
	ReadOnly bool // of a bind mount that may be written to, what is written is thrown away
	// ID names the cache, the secret or the ssh agent ("default" if the text names none). That of a cache is "NAMESPACE/ID", namespace
	// BUILDKIT_CACHE_MOUNT_NS, which may be empty; an ID that the text does not give is the target.
	ID      string
	Sharing Sharing // of a cache
	Size    int64   // of a tmpfs in bytes; 0 is no limit
	// Mode, UID and GID are nil when not given. A cache is made 0755, a secret 0400, an agent's socket 0600, all of root.
	Mode     *uint32 // permission bits
	UID, GID *int
	Required bool   // the build fails when there is no such secret or agent
	Env      string // the variable that a secret is given in; empty is none
}
