package snapshot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
	"github.com/strake-build/strake/layer/snapshot/tree"
)

// overlays is the driver that stacks layers with overlayfs.
type overlays struct{ s *Store }

// upperLayer is an empty upper directory over layers.
type upperLayer struct {
	s     *Store
	temp  *temporary
	lower []string
}

func (o *overlays) prepare(_ context.Context, layers []ID) (writable, error) {
	lower, err := o.s.stack(layers)
	if err != nil {
		return nil, err
	}
	if len(lower) == 0 {
		lower = []string{o.s.empty(0)}
	}
	t, err := o.s.newTemporary()
	if err != nil {
		return nil, err
	}
	u := &upperLayer{s: o.s, temp: t, lower: lower}
	if err := u.prepare(len(layers) > 0); err != nil {
		u.discard()
		return nil, err
	}
	return u, nil
}

func (o *overlays) view(_ context.Context, layers []ID) (Mount, error) {
	lower, err := o.s.stack(layers)
	if err != nil {
		return Mount{}, err
	}
	// Without an upper directory overlayfs wants two lower ones, and a layer by itself
	// would show its whiteouts.
	for i := 0; len(lower) < 2; i++ {
		lower = append(lower, o.s.empty(i))
	}
	return Mount{Lower: lower, UserXattr: o.s.userXattr}, nil
}

func (o *overlays) forget(ID) error { return nil }
func (o *overlays) close()          {}

func (u *upperLayer) upper() string { return filepath.Join(u.temp.path, "fs") }
func (u *upperLayer) work() string  { return filepath.Join(u.temp.path, "work") }

func (u *upperLayer) prepare(inherit bool) error {
	if err := os.Mkdir(u.work(), 0o700); err != nil {
		return err
	}
	if err := rootfs.Mkdir(u.temp.dir, "fs", tree.RootMode); err != nil {
		return err
	}
	if !inherit {
		return nil
	}
	return u.s.copyRoot(u.lower[0], u.upper())
}

func (u *upperLayer) mount() Mount {
	return Mount{Lower: u.lower, Upper: u.upper(), Work: u.work(), UserXattr: u.s.userXattr}
}

func (u *upperLayer) open() (*rootfs.Root, error) { return u.s.open(u.mount(), nil) }

func (u *upperLayer) commit(ctx context.Context, epoch *int64) (ID, error) {
	if err := u.prune(ctx, epoch); err != nil {
		return "", err
	}
	if err := u.s.dispose(u.work()); err != nil {
		return "", err
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	id := newID()
	return id, u.s.publish(u.temp, id)
}

func (u *upperLayer) undo(context.Context) {}

func (u *upperLayer) discard() { _ = u.temp.remove() }

// copyRoot gives the new directory to what overlayfs shows of its topmost root: owner, times, attributes; but the mode of every new root (Store.Prepare).
func (s *Store) copyRoot(from, to string) error {
	src, err := os.OpenFile(from, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close() // only read
	dst, err := os.OpenFile(to, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer dst.Close() // what is set is no data
	st, err := rootfs.StatEntry(src, ".")
	if err != nil {
		return err
	}
	if st.Uid != 0 || st.Gid != 0 {
		if err := rootfs.Chown(dst, ".", int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	names, err := rootfs.ListXattr(src, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if !inherited(name) {
			continue
		}
		value, err := rootfs.GetXattr(src, ".", name)
		if err == nil {
			err = rootfs.SetXattr(dst, ".", name, value)
		}
		if err != nil {
			return err
		}
	}
	if s.recordOwners { // the mode may be in an attribute
		if err := s.Owners().Chmod(dst, ".", tree.RootMode); err != nil {
			return err
		}
	}
	return rootfs.Utimes(dst, ".", st.Atim, st.Mtim)
}

// inherited says whether an attribute of a root goes to the root of the layer above: overlay's own do not,
// and labels of the host's security modules are set by the host.
func inherited(xattr string) bool {
	for _, p := range []string{"trusted.", "user.overlay.", "security."} {
		if strings.HasPrefix(xattr, p) {
			return false
		}
	}
	return true
}

// stack returns the directories of the layers, topmost first.
//
// Of a layer that comes twice, only the upper one counts: it sets again everything that the
// lower one did, and overlayfs refuses the same directory twice. Below a layer whose root
// is opaque nothing counts, which overlayfs itself does not see. Bare layers are left out.
func (s *Store) stack(layers []ID) ([]string, error) {
	lower := make([]string, 0, max(len(layers), 2))
	seen := make(map[ID]bool, len(layers))
	for i := len(layers) - 1; i >= 0; i-- {
		id := layers[i]
		if seen[id] {
			continue
		}
		seen[id] = true
		l, err := s.look(id)
		bare := false
		if err == nil && i > 0 {
			bare, err = s.bare(id, l, layers[i-1])
		}
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", id, err)
		}
		if bare {
			continue
		}
		lower = append(lower, s.fs(id))
		if l.opaque {
			break
		}
	}
	if len(lower) > MaxLayers {
		return nil, fmt.Errorf("%d layers are too many: overlayfs stacks %d", len(lower), MaxLayers)
	}
	return lower, nil
}
