package runner

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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
	done := func() {}
	if s.Stubs != "" {
		if err := fillStubs(s.Stubs); err != nil {
			return nil, nil, fmt.Errorf("making mount points in %s: %w", s.Stubs, err)
		}
		if dir, err := l.mountStubs(s.Mounts); err != nil {
			os.RemoveAll(dir) // nothing if it is empty
			return nil, nil, fmt.Errorf("making mount points: %w", err)
		} else if dir != "" {
			c.Lower = append(c.Lower, dir)
			done = func() { os.RemoveAll(dir) }
		}
		c.Lower = append(c.Lower, s.Stubs)
	}
	c.Attach = c.Upper
	if len(c.Lower) > 0 {
		c.Attach = c.Lower[len(c.Lower)-1]
	}
	if c.Attach == "" {
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

// fillStubs makes the mount points that every box needs in dir. The last one that is made says that all are there.
func fillStubs(dir string) error {
	last := filepath.Join(dir, "etc/hosts")
	if _, err := os.Lstat(last); err == nil {
		return nil
	}
	for _, d := range []string{"proc", "sys", "dev", "etc"} {
		if err := makeStub(dir, d, true); err != nil {
			return err
		}
	}
	for _, f := range []string{"etc/resolv.conf", "etc/hosts"} {
		if err := makeStub(dir, f, false); err != nil {
			return err
		}
	}
	return nil
}

// makeStub makes name in dir, and the directories above it, with modes and times that do not depend on this
// process: a step may copy a directory up into its layer.
func makeStub(dir, name string, isDir bool) error {
	if parent := path.Dir(name); parent != "." {
		if err := makeStub(dir, parent, true); err != nil {
			return err
		}
	}
	file, mode := filepath.Join(dir, name), os.FileMode(0o755)
	var err error
	if isDir {
		err = os.MkdirAll(file, mode)
	} else {
		mode = 0o644
		var f *os.File
		if f, err = os.OpenFile(file, os.O_CREATE|os.O_WRONLY, mode); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(file, mode); err != nil {
		return err
	}
	return os.Chtimes(file, time.Unix(0, 0), time.Unix(0, 0))
}

// mountStubs makes a layer with the mount points of mounts, so that the upper directory need not get them. It returns
// an empty name if none is needed, or if there is no place for it.
func (l *Linux) mountStubs(mounts []Mount) (dir string, err error) {
	for _, m := range mounts {
		target := strings.TrimPrefix(path.Clean(m.Target), "/")
		top, _, _ := strings.Cut(target, "/")
		if l.Dir == "" || top == "" || top == "proc" || top == "sys" || top == "dev" {
			continue
		}
		isDir := m.Type == Tmpfs
		if m.Type == Bind && m.Data == nil {
			st, err := os.Stat(m.Source)
			if err != nil {
				return dir, fmt.Errorf("mounting %s: %w", m.Target, err)
			}
			isDir = st.IsDir()
		}
		if dir == "" {
			if dir, err = os.MkdirTemp(l.Dir, fmt.Sprintf(boxName, os.Getpid())); err != nil {
				return "", err
			}
			if err := os.Chmod(dir, 0o755); err != nil {
				return dir, err
			}
		}
		// Mount points that lie in each other's way are left to the init, which sees what is really there.
		if err := makeStub(dir, target, isDir); err != nil && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EEXIST) {
			return dir, err
		}
	}
	return dir, nil
}
