package runner

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strake-build/strake/runner/sandbox"
)

// config makes the init's configuration; the function it returns removes what was made on disk for it.
func (l *Linux) config(s Sandbox, p Process) (*sandbox.Config, func(), error) {
	if s.Network != HostNetwork && s.Network != NoNetwork {
		return nil, nil, fmt.Errorf("unknown network %q", s.Network)
	}
	c := &sandbox.Config{
		Lower: slices.Clone(s.Root.Lower), Upper: s.Root.Upper, Work: s.Root.Work, UserXattr: s.Root.UserXattr,
		ReadOnly: s.ReadOnly, Loopback: s.Network == NoNetwork, Hostname: s.Hostname, UserNS: l.Isolation.UserNS,
		Args: p.Args, Env: slices.Clone(p.Env), Dir: p.Dir, User: p.User,
		NullStdin: p.Stdin == nil && p.Terminal == nil, Terminal: p.Terminal != nil, Filter: l.filter,
	}
	c.Rows, c.Cols = terminalSize(p.Terminal)
	for _, m := range s.Mounts {
		if !path.IsAbs(m.Target) {
			return nil, nil, fmt.Errorf("mounting %s: the mount point is not an absolute path", m.Target)
		}
		if m.Type != Bind && m.Type != Tmpfs {
			return nil, nil, fmt.Errorf("mounting %s: unknown type %q", m.Target, m.Type)
		}
		c.Mounts = append(c.Mounts, sandbox.Mount{
			Type: string(m.Type), Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly,
			HasData: m.Type == Bind && m.Data != nil, Data: m.Data, Mode: m.Mode, Size: m.Size,
		})
	}
	var err error
	if c.Files, err = etcFiles(s); err != nil {
		return nil, nil, err
	}
	stubs, done, err := l.stubs(s)
	if err != nil {
		return nil, nil, fmt.Errorf("making mount points: %w", err)
	}
	c.Lower = append(c.Lower, stubs...)
	c.Attach = c.Upper
	if len(c.Lower) > 0 {
		c.Attach = c.Lower[len(c.Lower)-1]
	}
	if c.Attach == "" {
		done()
		return nil, nil, errors.New("the root has no layers")
	}
	if c.Attach, err = filepath.Abs(c.Attach); err != nil {
		done()
		return nil, nil, fmt.Errorf("finding the root's layers: %w", err)
	}
	return c, done, nil
}

// etcFiles are the files of /etc that come from strake. The resolver is the host's: a box either shares
// the host's network, where even a stub resolver on 127.0.0.53 answers, or has none.
func etcFiles(s Sandbox) ([]sandbox.Mount, error) {
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading the host's resolver: %w", err)
	}
	hosts := strings.TrimRight("127.0.0.1\tlocalhost "+s.Hostname, " ") + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for _, h := range s.ExtraHosts {
		hosts += h + "\n"
	}
	file := func(target, data string) sandbox.Mount {
		return sandbox.Mount{Type: string(Bind), Target: target, HasData: true, Data: []byte(data), Mode: 0o644, ReadOnly: !s.Container}
	}
	files := []sandbox.Mount{file("/etc/resolv.conf", string(resolv)), file("/etc/hosts", hosts)}
	if s.Container && s.Hostname != "" {
		files = append(files, file("/etc/hostname", s.Hostname+"\n"))
	}
	return files, nil
}
