package dockerfile

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

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

// rank orders mounts of one target: the last is the one that is there.
func (t MountType) rank() int {
	switch t {
	case MountSecret:
		return 1
	case MountSSH:
		return 2
	default:
		return 0
	}
}

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

// Device is a RUN --device, a CDI name: "vendor.com/class=name", "vendor.com/class" for the first of a kind or "vendor.com/class=*" for all of it.
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
	// BUILDKIT_CACHE_MOUNT_NS, which may be empty; an ID that the text does not give is the target as written, cleaned.
	ID      string
	Sharing Sharing // of a cache
	Size    int64   // of a tmpfs in bytes; 0 is no limit
	// Mode, UID and GID are nil when not given. A cache is made 0755, a secret 0400, an agent's socket 0600, all of root. A cache that
	// starts as a folder of From (Source is not "/") has none of them: it keeps those of the folder.
	Mode     *uint32 // permission bits
	UID, GID *int
	Required bool   // the build fails when there is no such secret or agent
	Env      string // the variable that a secret is given in; empty is none
}

// mounts are those of a RUN, whose variables are expanded, in the order in which they are to be mounted: outer ones before inner
// ones, and of two with one target the later one of the text last. socket is that of the text's first ssh agent.
func (e *expander) mounts(c *instructions.RunCommand) (mounts []Mount, socket string, err error) {
	list := instructions.GetMounts(c)
	if len(list) == 0 {
		return nil, "", nil
	}
	// A stage is looked for by the name that was written: no variables are allowed in it.
	written, ok := e.at.cmd.(*instructions.RunCommand)
	if !ok {
		return nil, "", fmt.Errorf("%T is not a RUN", e.at.cmd)
	}
	agents := 0
	for i, m := range list {
		mount, err := e.mount(m, instructions.GetMounts(written)[i].From, agents)
		if err != nil {
			return nil, "", err
		}
		e.captureMount(mount)
		if mount.Type == MountSSH {
			socket = cmp.Or(socket, mount.Target)
			agents++
		}
		mounts = append(mounts, mount)
	}
	slices.SortStableFunc(mounts, func(a, b Mount) int {
		return cmp.Or(cmp.Compare(path.Clean(a.Target), path.Clean(b.Target)), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Type.rank(), b.Type.rank()))
	})
	return mounts, socket, nil
}

// mount fills in one. from is as written, and agents is how many ssh agents there are before it.
func (e *expander) mount(m *instructions.Mount, from string, agents int) (Mount, error) {
	mount := Mount{
		Type: MountType(m.Type), Source: path.Join("/", m.Source), Target: m.Target, ReadOnly: m.ReadOnly,
		Required: m.Required, Size: m.SizeLimit, UID: toInt(m.UID), GID: toInt(m.GID),
	}
	if m.Mode != nil {
		mode := uint32(*m.Mode) & 0o777 // all that BuildKit makes of it
		mount.Mode = &mode
	}
	var src *Source
	var err error
	if from != "" { // it has to be right for all types, though only two look at it
		if src, err = e.g.sourceNamed(from); err != nil {
			return Mount{}, err
		}
		if src.Stage != nil && src.Stage.Index >= e.stage.Index {
			return Mount{}, fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", from, m.Target)
		}
	}
	switch mount.Type {
	case MountBind, MountCache:
		mount.From = src
		mount.cache(m, e.g.settings.BuildArgs[cacheNamespaceArg])
	case MountTmpfs:
		if mount.Source != "/" {
			return Mount{}, fmt.Errorf("a tmpfs is empty: there is no %s in it", mount.Source)
		}
		mount.Source = ""
	case MountSecret:
		err = mount.secret(m)
	case MountSSH:
		err = mount.agent(m, agents)
	}
	if err == nil {
		err = mount.place(e.dir())
	}
	return mount, err
}

func toInt(n *uint64) *int {
	if n == nil {
		return nil
	}
	i := int(*n)
	return &i
}

// cache fills in what a cache has and a bind mount has not.
func (m *Mount) cache(c *instructions.Mount, namespace string) {
	if m.Type != MountCache {
		return
	}
	m.Sharing = cmp.Or(Sharing(c.CacheSharing), SharingShared)
	m.ID = c.CacheID
	if m.ID == "" {
		m.ID = path.Clean(c.Target)
	}
	m.ID = namespace + "/" + m.ID
	switch {
	case m.Source != "/":
		m.Mode, m.UID, m.GID = nil, nil, nil
	case m.Mode != nil || m.UID != nil || m.GID != nil:
		m.From = nil // the cache is a new folder of that owner and mode
	}
}

func (m *Mount) secret(c *instructions.Mount) error {
	m.Source = ""
	m.ID = cmp.Or(c.Source, c.CacheID)
	if m.ID == "" {
		if m.Target == "" {
			return errors.New("one of source, target required")
		}
		m.ID = path.Base(m.Target)
	}
	if c.Env != nil {
		m.Env = *c.Env
	}
	if m.Target == "" && m.Env == "" {
		m.Target = "/run/secrets/" + path.Base(m.ID)
	}
	return nil
}

// agent fills in what an ssh agent has. n is how many there are before it.
func (m *Mount) agent(c *instructions.Mount, n int) error {
	if c.Source != "" {
		return errors.New("ssh does not support source")
	}
	m.Source = ""
	m.ID = cmp.Or(c.CacheID, "default")
	m.Target = cmp.Or(m.Target, "/run/buildkit/ssh_agent."+strconv.Itoa(n))
	return nil
}

// place makes the target absolute.
func (m *Mount) place(dir string) error {
	if m.Type == MountSecret && m.Target == "" {
		return nil
	}
	if !path.IsAbs(m.Target) {
		m.Target = path.Join("/", dir, m.Target)
	}
	if path.Clean(m.Target) == "/" {
		return fmt.Errorf("invalid mount target %q", m.Target)
	}
	return nil
}
