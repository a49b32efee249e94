package device

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Edits are what devices need in the box of a step.
type Edits struct {
	Env    []string // VARIABLE=VALUE, over the step's own
	Mounts []Mount  // in the order in which they are mounted; device nodes are the last
	Groups []uint32 // supplementary groups of the step, each once
	Hooks  []Hook   // in the order in which those of a kind are run
}

// Mount shows a file, a folder or a device node of the host, or is a new tmpfs.
type Mount struct {
	Source, Target                  string // absolute paths: on the host, in the box; a tmpfs has no source
	ReadOnly, NoSuid, NoDev, NoExec bool
	Tmpfs                           bool
	Mode                            uint32 // permissions of the tmpfs; 0 is the kernel's default
	Size                            int64  // of the tmpfs, in bytes; 0 is the kernel's default
	UID, GID                        int    // of the tmpfs
}

// Hook is a program of the host that prepares the box of a step (CDI, SPEC.md, "hooks"; OCI runtime specification, "POSIX-platform Hooks").
type Hook struct {
	Name      string // prestart, createRuntime, createContainer, poststart or poststop
	Path      string // absolute
	Args, Env []string
	Timeout   time.Duration // 0 is none
}

// Edits returns what the devices need, whose full names are given. A specification's own edits come once, before those of its first device; what comes later
// replaces what is at the same place. Edits that strake cannot make (intelRdt, netDevices) are an error.
func (r *Registry) Edits(names []string) (Edits, error) {
	var all Edits
	var nodes []Mount
	done := map[*spec]bool{}
	for _, name := range names {
		d := r.devices[name]
		if d == nil {
			return all, r.notRegistered(name)
		}
		parts := []*edits{&d.device.Edits}
		if !done[d.spec] {
			done[d.spec] = true
			parts = []*edits{&d.spec.Edits, &d.device.Edits}
		}
		for _, e := range parts {
			if err := e.possible(); err != nil {
				return all, fmt.Errorf("device %s: its specification asks for %w", name, err)
			}
			all.Env = append(all.Env, e.Env...)
			for _, g := range e.Groups {
				if g > 0 && !slices.Contains(all.Groups, g) { // CDI: 0 is as if it were not there
					all.Groups = append(all.Groups, g)
				}
			}
			for _, h := range e.Hooks {
				all.Hooks = append(all.Hooks, h.hook())
			}
			for _, m := range e.Mounts {
				mount, err := m.mount()
				if err != nil {
					return all, fmt.Errorf("device %s: mount of %s: %w", name, m.HostPath, err)
				}
				all.Mounts = replace(all.Mounts, mount)
			}
			for _, n := range e.Nodes {
				if err := n.check(); err != nil {
					return all, fmt.Errorf("device %s: device node %s: %w", name, n.source(), err)
				}
				nodes = replace(nodes, Mount{Source: n.source(), Target: path.Clean(n.Path)})
			}
		}
	}
	// As in CDI: what lies in another mount comes after it.
	slices.SortStableFunc(all.Mounts, func(a, b Mount) int { return strings.Count(a.Target, "/") - strings.Count(b.Target, "/") })
	all.Mounts = append(all.Mounts, nodes...)
	return all, nil
}

// replace adds m, and removes what was at its place.
func replace(list []Mount, m Mount) []Mount {
	list = slices.DeleteFunc(list, func(o Mount) bool { return o.Target == m.Target })
	return append(list, m)
}

// mount reads the options (OCI runtime specification, config.md, "Linux mount options").
func (m mountSpec) mount() (Mount, error) {
	mount := Mount{Source: m.HostPath, Target: path.Clean(m.ContainerPath)}
	switch m.Type {
	case "", "none", "bind":
	case "tmpfs":
		mount.Source, mount.Tmpfs = "", true
	default:
		return mount, fmt.Errorf("the type %q is not supported", m.Type)
	}
	for _, o := range m.Options {
		if known, err := mount.tmpfsOption(o); err != nil {
			return mount, fmt.Errorf("the option %q: %w", o, err)
		} else if known {
			continue
		}
		switch o {
		case "ro":
			mount.ReadOnly = true
		case "rw":
			mount.ReadOnly = false
		case "nosuid":
			mount.NoSuid = true
		case "nodev":
			mount.NoDev = true
		case "noexec":
			mount.NoExec = true
		case "bind", "rbind", "private", "rprivate", "suid", "dev", "exec":
		default:
			return mount, fmt.Errorf("the option %q is not supported", o)
		}
	}
	return mount, nil
}

// tmpfsOption reads an option that only a tmpfs has (tmpfs(5)).
func (m *Mount) tmpfsOption(o string) (known bool, err error) {
	key, value, ok := strings.Cut(o, "=")
	if !m.Tmpfs || !ok {
		return false, nil
	}
	number := func(base, bits int) (n uint64) {
		if n, err = strconv.ParseUint(value, base, bits); err != nil {
			err = fmt.Errorf("%q is not a number", value)
		}
		return n
	}
	switch key {
	case "mode":
		m.Mode = uint32(number(8, 12))
	case "uid":
		m.UID = int(number(10, 31))
	case "gid":
		m.GID = int(number(10, 31))
	case "size":
		shift := 0
		for i, unit := range []string{"k", "m", "g"} {
			if v, ok := strings.CutSuffix(strings.ToLower(value), unit); ok {
				value, shift = v, 10*(i+1)
			}
		}
		m.Size = int64(number(10, 32)) << shift
	default:
		return false, nil
	}
	return true, err
}

// check says whether the host's node, which is shown as it is, is what the specification asks for.
func (n nodeSpec) check() error {
	if p := n.Permissions; p != "" && (!strings.Contains(p, "r") || !strings.Contains(p, "w")) {
		return fmt.Errorf("the permissions %q are not supported: a step may read and write", p)
	}
	st, err := os.Stat(n.source())
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("internal error: %T", st.Sys())
	}
	kind := ""
	switch sys.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		kind = "b"
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFIFO:
		kind = "p"
	default:
		return fmt.Errorf("not a device")
	}
	major, minor := int64(unix.Major(sys.Rdev)), int64(unix.Minor(sys.Rdev))
	want := n.Type
	if want == "u" { // an unbuffered character device
		want = "c"
	}
	if want != "" && (want != kind || kind != "p" && n.Major != 0 && (n.Major != major || n.Minor != minor)) {
		return fmt.Errorf("it is %s %d:%d on the host, the specification asks for %s %d:%d", kind, major, minor, want, n.Major, n.Minor)
	}
	mode := sys.Mode & 0o7777
	if n.FileMode != nil && *n.FileMode&0o7777 != mode || n.UID != nil && *n.UID != sys.Uid || n.GID != nil && *n.GID != sys.Gid {
		return fmt.Errorf("it has mode %#o and owner %d:%d on the host: another mode or owner is not supported", mode, sys.Uid, sys.Gid)
	}
	return nil
}
