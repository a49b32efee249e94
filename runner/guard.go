package runner

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/strake-build/strake/runner/cgroup"
)

// guard keeps the boxes of real root from the machine's devices, which a step could make nodes of, or find in its root: a control group
// that they share. Without one, boxes are mounted so that nodes cannot be opened at all (sandbox.Config.NoDev).
type guard struct {
	group  *cgroup.Group
	dir    *os.File // of group, for inits to be started in; nil if they have to be moved there
	record *ownDir  // the directory that remembers group
}

// guardName is in the names of records of guards.
const guardName = "guard-"

// newGuard makes a guard, if the isolation needs one; an empty one if none can be made.
func (l *Linux) newGuard() guard {
	if l.Isolation.UserNS || l.Dir == "" {
		return guard{}
	}
	record, note, err := l.record(guardName)
	if err != nil {
		return guard{}
	}
	g := guard{record: record}
	if g.group, err = cgroup.NewDevices("strake-"+filepath.Base(record.path), note); err != nil {
		g.close()
		return guard{}
	}
	g.dir = g.group.Open()
	return g
}

// attr has the init be started in the guard's group.
func (g *guard) attr(a *syscall.SysProcAttr) {
	if g.dir != nil {
		a.UseCgroupFD, a.CgroupFD = true, int(g.dir.Fd())
	}
}

// take moves an init that has just been started into the guard's group, if it is not there yet.
func (g *guard) take(pid int) error {
	if g.group == nil || g.dir != nil {
		return nil
	}
	return g.group.Add(pid)
}

// record makes a directory that remembers, for Sweep, the control groups that are noted.
func (l *Linux) record(name string) (dir *ownDir, note func(group string) error, err error) {
	if dir, err = newOwnDir(l.Dir, name); err != nil {
		return nil, nil, err
	}
	return dir, func(group string) error {
		f, err := os.OpenFile(filepath.Join(dir.path, groupsFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString(group + "\x00")
		return err
	}, nil
}

// close removes the guard. No box may be running.
func (g *guard) close() {
	if g.group != nil {
		g.group.Remove()
	}
	g.record.remove()
	if g.dir != nil {
		g.dir.Close()
	}
	*g = guard{}
}

// guarded says whether s is to be kept from devices by nodes that cannot be opened: where there is no guard, and where the box
// is given devices, which a guard does not know.
func (l *Linux) guarded(s Sandbox) (noDev bool) {
	switch {
	case s.Insecure || l.Isolation.UserNS || l.Isolation.Rung == Chroot:
		return false
	case l.guard.group == nil || len(s.Hooks) > 0:
		return true
	}
	for _, m := range s.Mounts {
		if m.Type != Bind || m.Data != nil || m.Overlay != nil || m.Inside != "" {
			continue
		}
		if st, err := os.Stat(m.Source); err == nil && st.Mode()&fs.ModeDevice != 0 {
			return true
		}
	}
	return false
}

// restrict keeps the box from devices, or lets go of it, before it is given its configuration. Inits are in the guard's group from their start.
func (b *box) restrict(free bool) error {
	switch {
	case b.linux.guard.group == nil:
		return nil
	case free:
		return b.linux.guard.group.Leave(b.init.Pid)
	case b.group != nil: // which may have taken the place of the guard's
		_, err := b.group.RestrictDevices()
		return err
	}
	return nil
}
