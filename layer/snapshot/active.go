package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// Active is a file system being written.
type Active struct {
	s      *Store
	temp   *temporary
	lower  []string
	opened bool
	epoch  *int64 // of Clamp
}

// errFinished is what an Active says after Commit or Discard.
var errFinished = errors.New("the file system was committed or discarded already")

// Prepare makes an empty upper directory over layers (bottom first, possibly none).
// Commit or Discard must follow. The root directory has the mode, owner and times of the
// topmost layer's; with no layers it is 0755, 0:0.
func (s *Store) Prepare(ctx context.Context, layers []ID) (*Active, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	lower, err := s.stack(layers)
	if err != nil {
		return nil, err
	}
	if len(lower) == 0 {
		lower = []string{s.empty(0)}
	}
	t, err := s.newTemporary()
	if err != nil {
		return nil, fmt.Errorf("preparing a layer: %w", err)
	}
	a := &Active{s: s, temp: t, lower: lower}
	if err := a.prepare(len(layers) > 0); err != nil {
		a.Discard()
		return nil, fmt.Errorf("preparing a layer: %w", err)
	}
	return a, nil
}

func (a *Active) upper() string { return filepath.Join(a.temp.path, "fs") }
func (a *Active) work() string  { return filepath.Join(a.temp.path, "work") }

func (a *Active) prepare(inherit bool) error {
	if err := os.Mkdir(a.work(), 0o700); err != nil {
		return err
	}
	if err := rootfs.Mkdir(a.temp.dir, "fs", 0o755); err != nil {
		return err
	}
	if !inherit {
		return nil
	}
	return copyRoot(a.lower[0], a.upper())
}

// copyRoot gives the directory to what overlayfs shows of its topmost root: mode, owner, times, attributes.
func copyRoot(from, to string) error {
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
	if err := rootfs.Chmod(dst, ".", st.Mode&0o7777); err != nil {
		return err
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

// Mount describes the file system for a sandbox. It can be mounted once.
func (a *Active) Mount() Mount {
	return Mount{Lower: a.lower, Upper: a.upper(), Work: a.work(), UserXattr: a.s.userXattr}
}

// Open mounts the file system detached (fsmount, no mount point, gone with the
// last descriptor) and returns its root. It can be called once, and not beside a mount of Mount.
func (a *Active) Open() (*rootfs.Root, error) {
	if a.temp.dir == nil {
		return nil, errFinished
	}
	if a.opened {
		return nil, errors.New("the file system was opened already")
	}
	a.opened = true
	return a.s.open(a.Mount(), nil)
}

// open opens a file system whose owners are kept as those of layers. layers are those that it consists of, if it is not written to.
func (s *Store) open(m Mount, layers []string) (*rootfs.Root, error) {
	root, err := m.Open()
	if err != nil || !s.recordOwners {
		return root, err
	}
	return root.With(s.Owners(layers...)), nil
}

// Owners is how the owners of files are kept, in the store and in other trees of a build. layers is as for rootfs.RecordOwners.
func (s *Store) Owners(layers ...string) *rootfs.Owners {
	if !s.recordOwners {
		return nil
	}
	return rootfs.RecordOwners(!s.userXattr, layers...)
}

// Clamp asks Commit to set back every modification time in the layer that is later than epoch, in seconds since
// 1970: of files, directories and links, and of the root directory. What lies below the layer stays.
func (a *Active) Clamp(epoch int64) { a.epoch = &epoch }

// Commit turns what was written into a layer. The file system must not be mounted any more.
// Whiteouts and opaque marks for what no lower layer has are dropped. After an error
// the layer can still be discarded only.
func (a *Active) Commit(ctx context.Context) (ID, error) {
	if a.temp.dir == nil {
		return "", errFinished
	}
	if err := a.prune(ctx); err != nil {
		return "", fmt.Errorf("committing a layer: %w", err)
	}
	if err := removeAll(a.work()); err != nil {
		return "", fmt.Errorf("committing a layer: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return "", context.Cause(ctx)
	}
	id := newID()
	if err := a.temp.keep(a.s.path(id)); err != nil {
		return "", fmt.Errorf("committing a layer: %w", err)
	}
	return id, nil
}

// Discard removes what was written; after Commit it does nothing. What cannot be removed, because something
// writes there still, is removed by a later Open of the store.
func (a *Active) Discard() { _ = a.temp.remove() }

// View describes the layers (bottom first) as a read-only file system.
func (s *Store) View(layers []ID) (Mount, error) {
	lower, err := s.stack(layers)
	if err != nil {
		return Mount{}, err
	}
	// Without an upper directory overlayfs wants two lower ones, and a layer by itself
	// would show its whiteouts.
	for i := 0; len(lower) < 2; i++ {
		lower = append(lower, s.empty(i))
	}
	return Mount{Lower: lower, UserXattr: s.userXattr}, nil
}

// OpenView mounts the layers (bottom first) detached and read-only, and returns the root.
func (s *Store) OpenView(layers []ID) (*rootfs.Root, error) {
	m, err := s.View(layers)
	if err != nil {
		return nil, err
	}
	return s.open(m, m.Lower)
}

// stack returns the directories of the layers, topmost first.
//
// Of a layer that comes twice, only the upper one counts: it sets again everything that the
// lower one did, and overlayfs refuses the same directory twice. Below a layer whose root
// is opaque nothing counts, which overlayfs itself does not see.
func (s *Store) stack(layers []ID) ([]string, error) {
	lower := make([]string, 0, max(len(layers), 2))
	seen := make(map[ID]bool, len(layers))
	for i := len(layers) - 1; i >= 0; i-- {
		id := layers[i]
		if seen[id] {
			continue
		}
		seen[id] = true
		if err := s.check(id); err != nil {
			return nil, err
		}
		lower = append(lower, s.fs(id))
		opaque, err := isOpaque(s.fs(id), s.opaque())
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", id, err)
		}
		if opaque {
			break
		}
	}
	if len(lower) > MaxLayers {
		return nil, fmt.Errorf("%d layers are too many: overlayfs stacks %d", len(lower), MaxLayers)
	}
	return lower, nil
}
