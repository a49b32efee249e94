package snapshot

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// known remembers what this process has seen of layers, which never change.
type known struct {
	looks sync.Map // ID → look
	roots sync.Map // [2]ID → bool: of sameRoot
}

// look is what a stack must know of a layer.
type look struct {
	opaque bool // its root hides all that is below
	empty  bool // it has no entries
}

// look says what a stack must know of a layer. One that this process has seen is not looked for again: it stays while somebody uses it.
func (s *Store) look(id ID) (look, error) {
	if l, ok := s.known.looks.Load(id); ok {
		return l.(look), nil //nolint:forcetypeassert // nothing else is stored
	}
	var l look
	err := s.check(id)
	if err != nil {
		return l, err
	}
	if l.opaque, err = isOpaque(s.fs(id), s.options().OpaqueXattr()); err != nil {
		return l, err
	}
	dir, err := os.OpenFile(s.fs(id), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return l, err
	}
	defer dir.Close() // only read
	_, err = dir.Readdirnames(1)
	l.empty = errors.Is(err, io.EOF)
	if err != nil && !l.empty {
		return l, err
	}
	s.known.looks.Store(id, l)
	return l, nil
}

// bare says whether a layer changes nothing of the one below it: it has no entries, and its root is the same. A stack does without it: overlayfs
// takes time for each layer, and every step its own time for all.
func (s *Store) bare(id ID, l look, below ID) (bool, error) {
	if !l.empty || l.opaque || s.recordOwners {
		return false, nil
	}
	pair := [2]ID{id, below}
	if same, ok := s.known.roots.Load(pair); ok {
		return same.(bool), nil //nolint:forcetypeassert // nothing else is stored
	}
	if err := s.check(below); err != nil {
		return false, err
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW
	a, err := os.OpenFile(s.fs(id), flags, 0)
	if err != nil {
		return false, err
	}
	defer a.Close() // only read
	b, err := os.OpenFile(s.fs(below), flags, 0)
	if err != nil {
		return false, err
	}
	defer b.Close() // only read
	same, err := sameRoot(a, b)
	if err == nil {
		s.known.roots.Store(pair, same)
	}
	return same, err
}

// sameRoot says whether two directories have the same mode, owner, modification time and extended attributes.
func sameRoot(a, b *os.File) (bool, error) {
	ast, err := rootfs.StatEntry(a, ".")
	if err != nil {
		return false, err
	}
	bst, err := rootfs.StatEntry(b, ".")
	if err != nil || ast.Mode != bst.Mode || ast.Uid != bst.Uid || ast.Gid != bst.Gid || ast.Mtim != bst.Mtim {
		return false, err
	}
	names, err := plainXattrs(a)
	if err != nil {
		return false, err
	}
	lower, err := plainXattrs(b)
	if err != nil || !slices.Equal(names, lower) {
		return false, err
	}
	for _, name := range names {
		av, err := rootfs.GetXattr(a, ".", name)
		if err != nil {
			return false, err
		}
		bv, err := rootfs.GetXattr(b, ".", name)
		if err != nil || !bytes.Equal(av, bv) {
			return false, err
		}
	}
	return true, nil
}

// plainXattrs returns the names of dir's attributes, sorted, without those that overlayfs leaves on every layer's root.
func plainXattrs(dir *os.File) ([]string, error) {
	names, err := rootfs.ListXattr(dir, ".")
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		for _, p := range []string{"trusted.overlay.", "user.overlay."} {
			if strings.HasPrefix(name, p) {
				return true
			}
		}
		return false
	})
	slices.Sort(names)
	return names, nil
}
