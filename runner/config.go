package runner

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strake-build/strake/runner/network"
	"github.com/strake-build/strake/runner/sandbox"
)

// config makes the init's configuration; the function it returns removes what was made on disk for it.
//
// n is the box's private network, or nil.
func (l *Linux) config(s Sandbox, p Process, n *network.Network) (*sandbox.Config, func(), error) {
	c := &sandbox.Config{
		Root:     sandbox.Overlay(s.Root),
		ReadOnly: s.ReadOnly, Loopback: s.Network != HostNetwork, JoinNet: n != nil, Hostname: s.Hostname, UserNS: l.Isolation.UserNS, OneID: l.Isolation.OneID, SharedPID: l.Isolation.shared(),
		Args: p.Args, Env: slices.Clone(p.Env), Dir: p.Dir, User: p.User,
		NullStdin: p.Stdin == nil && p.Terminal == nil, Terminal: p.Terminal != nil,
		Insecure: s.Insecure, ShmSize: s.ShmSize, Groups: p.Groups,
	}
	if s.ShmSize < 0 {
		return nil, nil, errors.New("the size of /dev/shm is negative")
	}
	c.NoDev = l.guarded(s)
	// It has been in the guard's group, or is, which the step need not see.
	c.Cgroup = l.guard.group != nil && l.Isolation.Rung != Chroot
	c.Filter, c.UserFilter, c.Supervise = l.filter, l.userFilter, l.supervised()
	if s.Insecure {
		c.Filter, c.UserFilter, c.Supervise = l.open, l.userOpen, l.supervisedOpen()
	}
	err := l.checkGroups(p.Groups)
	if err != nil {
		return nil, nil, err
	}
	if c.Limits, err = rlimits(s.Ulimits); err != nil {
		return nil, nil, err
	}
	c.Rows, c.Cols = terminalSize(p.Terminal)
	for _, m := range s.Mounts {
		mount, err := mountConfig(m)
		if err != nil {
			return nil, nil, fmt.Errorf("mounting %s: %w", m.Target, err)
		}
		c.Mounts = append(c.Mounts, mount)
	}
	if c.Files, err = etcFiles(s, n); err != nil {
		return nil, nil, err
	}
	if l.Isolation.Rung == Chroot {
		return l.chrootConfig(c)
	}
	stubs, own, err := l.stubs(s)
	if err != nil {
		return nil, nil, fmt.Errorf("making mount points: %w", err)
	}
	if own != nil {
		c.StubDir = own.path
	}
	c.Root.Lower = slices.Concat(c.Root.Lower, stubs)
	c.Attach = c.Root.Upper
	if n := len(c.Root.Lower); n > 0 {
		c.Attach = c.Root.Lower[n-1]
	}
	if c.Attach == "" {
		own.remove()
		return nil, nil, errors.New("the root has no layers")
	}
	if c.Attach, err = filepath.Abs(c.Attach); err != nil {
		own.remove()
		return nil, nil, fmt.Errorf("finding the root's layers: %w", err)
	}
	return c, own.remove, nil
}

// checkGroups says whether a process may have groups.
func (l *Linux) checkGroups(groups []uint32) error {
	if len(groups) == 0 || !l.Isolation.UserNS {
		return nil
	}
	const remedy = "give the user subordinate group ids (see docs/isolation.md) that reach to it, or build as root"
	setgroups, err := os.ReadFile("/proc/self/setgroups")
	if err == nil && strings.TrimSpace(string(setgroups)) == "deny" {
		return fmt.Errorf("supplementary group %d: this user namespace has no such groups: %s", groups[0], remedy)
	}
	data, err := os.ReadFile("/proc/self/gid_map")
	if err != nil {
		return fmt.Errorf("reading the own ids: %w", err)
	}
	for _, g := range groups {
		mapped := false
		for line := range strings.Lines(string(data)) {
			var inside, outside, size uint64
			if n, _ := fmt.Sscan(line, &inside, &outside, &size); n == 3 {
				mapped = mapped || uint64(g) >= inside && uint64(g) < inside+size
			}
		}
		if !mapped {
			return fmt.Errorf("supplementary group %d: it is not in this user namespace: %s", g, remedy)
		}
	}
	return nil
}

// mountConfig makes the init's form of m.
func mountConfig(m Mount) (sandbox.Mount, error) {
	c := sandbox.Mount{
		Type: string(m.Type), Source: m.Source, Inside: m.Inside, Target: m.Target, ReadOnly: m.ReadOnly,
		HasData: m.Type == Bind && m.Data != nil, Data: m.Data, Mode: m.Mode, Size: m.Size, UID: m.UID, GID: m.GID,
		NoSuid: m.NoSuid, NoDev: m.NoDev, NoExec: m.NoExec,
	}
	if m.Overlay != nil {
		o := sandbox.Overlay(*m.Overlay)
		c.Overlay = &o
	}
	switch {
	case !path.IsAbs(m.Target):
		return c, errors.New("the mount point is not an absolute path")
	case m.Type != Bind && m.Type != Tmpfs && m.Type != Volume:
		return c, fmt.Errorf("unknown type %q", m.Type)
	case m.Type != Bind && (m.Overlay != nil || m.Source != "" || m.Inside != "" || m.Data != nil):
		return c, fmt.Errorf("a %s has no source", m.Type)
	case m.Data != nil && (m.Overlay != nil || m.Source != "" || m.Inside != ""):
		return c, errors.New("a file with data has no source")
	}
	return c, nil
}

// etcFiles are the files of /etc that come from strake. Without a private network the resolver is the host's: the box shares
// the host's network, where even a stub resolver on 127.0.0.53 answers, or has none.
func etcFiles(s Sandbox, n *network.Network) ([]sandbox.Mount, error) {
	var resolv []byte
	if n != nil {
		resolv = n.Resolver
	} else {
		var err error
		if resolv, err = os.ReadFile("/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("reading the host's resolver: %w", err)
		}
	}
	const ip6 = "\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	hosts := strings.TrimRight("127.0.0.1\tlocalhost "+s.Hostname, " ") + ip6
	if n != nil {
		hosts = "127.0.0.1\tlocalhost" + ip6
		if s.Hostname != "" {
			hosts += n.Address.String() + "\t" + s.Hostname + "\n"
		}
	}
	for _, h := range s.ExtraHosts {
		hosts += h + "\n"
	}
	file := func(target, data string) sandbox.Mount {
		return sandbox.Mount{Type: string(Bind), Target: target, HasData: true, Data: []byte(data), Mode: 0o644, ReadOnly: !s.Container || s.ReadOnly}
	}
	files := []sandbox.Mount{file("/etc/resolv.conf", string(resolv)), file("/etc/hosts", hosts)}
	if s.Container && s.Hostname != "" {
		files = append(files, file("/etc/hostname", s.Hostname+"\n"))
	}
	return files, nil
}
