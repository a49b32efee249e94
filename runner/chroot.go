package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/sandbox"
)

// shared says that boxes have no pid namespace.
func (i Isolation) shared() bool { return i.SharedPID || i.Rung == Chroot }

// ChrootError says what a box would need namespaces or mounts for, on the rung that has none.
type ChrootError struct{ What string }

func (e *ChrootError) Error() string {
	return "isolation chroot: " + e.What + ", which this container does not allow: run it with --security-opt seccomp=unconfined (Kubernetes: seccompProfile: Unconfined) or --privileged, or leave that out"
}

// check refuses what the rung cannot do.
func (l *Linux) check(s Sandbox) error {
	if l.Isolation.Rung != Chroot {
		return nil
	}
	need := func(what string) error { return &ChrootError{what} }
	switch {
	case s.Network != HostNetwork:
		return need("a step with --network=" + string(s.Network) + " needs a network namespace")
	case s.Insecure:
		return need("a step with --security=insecure needs the machine's devices and privileges")
	case s.ReadOnly:
		return need("a read-only root needs a mount")
	case s.ShmSize != 0:
		return need("a size of /dev/shm needs a mount")
	case len(s.Hooks) > 0:
		return need("a device with hooks needs a mount namespace")
	case s.Limits.Any():
		return need("a limit needs a control group of its own")
	case len(s.Root.Lower) > 0 || s.Root.Upper == "":
		return errors.New("isolation chroot: the root must be one directory: the store needs the copying form (an empty --root gets it)")
	}
	for _, m := range s.Mounts {
		if err := checkChrootMount(s, m); err != nil {
			return fmt.Errorf("mounting %s: %w", m.Target, err)
		}
	}
	return nil
}

// checkChrootMount refuses a mount that can be neither copied nor moved.
func checkChrootMount(s Sandbox, m Mount) error {
	need := func(what string) error { return &ChrootError{what} }
	switch {
	case m.Type == Tmpfs && m.Size != 0:
		return need("a tmpfs with a size needs a mount")
	case m.Type == Tmpfs && m.ReadOnly:
		return need("a read-only tmpfs needs a mount")
	case m.NoSuid || m.NoDev || m.NoExec:
		return need("a mount with options needs a mount")
	case m.Overlay != nil && len(m.Overlay.Lower) > 0 && (m.Overlay.Upper != "" || len(m.Overlay.Lower) > 1):
		return need("a stack of layers needs an overlay file system")
	case m.Type != Bind || m.Overlay != nil || m.Data != nil:
		return nil
	}
	st, err := os.Stat(m.Source)
	switch {
	case err != nil:
		return fmt.Errorf("looking at the source: %w", err)
	case st.Mode()&fs.ModeDevice != 0:
		return need("a device of the machine needs a mount")
	case st.Mode()&fs.ModeSocket != 0:
		return nil
	case !m.ReadOnly && (s.Container || !st.IsDir()):
		return need("a volume that can be written needs a mount")
	}
	return nil
}

// chrootConfig completes the init's configuration for the rung chroot.
func (l *Linux) chrootConfig(c *sandbox.Config) (*sandbox.Config, func(), error) {
	var err error
	c.Chroot = true
	if c.Root.Upper, err = filepath.Abs(c.Root.Upper); err != nil {
		return nil, nil, fmt.Errorf("finding the root: %w", err)
	}
	if c.Root.Upper, err = filepath.EvalSymlinks(c.Root.Upper); err != nil {
		return nil, nil, fmt.Errorf("finding the root: %w", err)
	}
	dir := l.Dir
	if dir == "" {
		dir = filepath.Dir(c.Root.Upper)
	}
	aside, err := newOwnDir(dir, "")
	if err != nil {
		return nil, nil, fmt.Errorf("making a directory for the box: %w", err)
	}
	c.Aside = aside.path
	return c, func() {
		// Unless a cache is in the tree still, since its init has died: then a later Sweep brings that back.
		if bringBack(aside.path) != nil {
			aside.release()
			return
		}
		aside.remove()
	}, nil
}

// patience is how often an init that is about to end is asked for its lock, every 10 ms.
const patience = 3000

// bringBack undoes what an init that was killed has moved, as the journal in dir says. Only what is still where it was put is found again.
func bringBack(dir string) error {
	all, err := sandbox.ReadJournal(dir)
	if err != nil {
		return err
	}
	for _, m := range all {
		for range patience {
			if _, err = m.Return(); !errors.Is(err, unix.EWOULDBLOCK) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			return fmt.Errorf("bringing %s back: %w", m.Home, err)
		}
	}
	return nil
}
