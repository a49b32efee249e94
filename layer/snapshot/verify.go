package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// What Verify finds.
var (
	// ErrDamaged: the files of a layer are not those that it was made with.
	ErrDamaged = errors.New("the files of the layer are damaged")
	// ErrUnverifiable: a layer was unpacked from a tar that strake would write differently, and that is not here any more.
	ErrUnverifiable = errors.New("the tar that the layer was unpacked from is not here to compare it with")
)

// Verify reads a layer and compares it with its diffID. open returns the tar that it was unpacked from; it is
// called if the layer's own tar is another, and may be nil. A layer whose diffID was never asked for is only read; of one whose meta
// is damaged the index still says it.
func (s *Store) Verify(ctx context.Context, id ID, open func() (io.ReadCloser, error)) error {
	if err := s.check(id); err != nil {
		return err
	}
	m, err := s.loadMeta(id)
	if errors.Is(err, errMeta) {
		m.DiffID, err = s.indexed(id)
	}
	if err != nil {
		return fmt.Errorf("verifying layer %s: %w", id, err)
	}
	have := newSummer()
	if err := s.write(ctx, id, have); err != nil {
		return fmt.Errorf("verifying layer %s: %w", id, err)
	}
	switch {
	case m.DiffID == (v1.Hash{}) || have.digest() == m.DiffID:
		return nil
	case open == nil && m.Unpacked:
		return ErrUnverifiable
	case open == nil:
		return fmt.Errorf("%w: its tar has the digest %s and not %s", ErrDamaged, have.digest(), m.DiffID)
	}
	want, err := s.rewritten(ctx, m.DiffID, open)
	if err != nil {
		return fmt.Errorf("verifying layer %s: %w", id, err)
	}
	if have.digest() != want {
		return fmt.Errorf("%w: they differ from those in the tar %s", ErrDamaged, m.DiffID)
	}
	return nil
}

// indexed is the diffID that the index has for a layer; the zero Hash if it has none.
func (s *Store) indexed(id ID) (v1.Hash, error) {
	entries, err := os.ReadDir(s.index())
	if err != nil {
		return v1.Hash{}, fmt.Errorf("reading the index of layers: %w", err)
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(s.index(), e.Name())); err == nil && target == string(id) {
			return v1.Hash{Algorithm: "sha256", Hex: e.Name()}, nil
		}
	}
	return v1.Hash{}, nil
}

// rewritten unpacks a tar and returns the digest of the tar that strake writes of that.
func (s *Store) rewritten(ctx context.Context, diffID v1.Hash, open func() (io.ReadCloser, error)) (v1.Hash, error) {
	t, err := s.newTemporary()
	if err != nil {
		return v1.Hash{}, err
	}
	defer t.remove() //nolint:errcheck // a later sweep does
	if err := rootfs.Mkdir(t.dir, "fs", 0o755); err != nil {
		return v1.Hash{}, err
	}
	dir := filepath.Join(t.path, "fs")
	if _, err := s.apply(ctx, dir, diffID, open); err != nil {
		return v1.Hash{}, err
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		return v1.Hash{}, err
	}
	defer root.Close() // only read
	sum := newSummer()
	if err := layer.Write(ctx, sum, root, s.options()); err != nil {
		return v1.Hash{}, err
	}
	return sum.digest(), nil
}

// Stale calls f for each entry of the store that leads nowhere, with what it is and how to remove it: entries of the index and
// marks whose layer is gone. They do no harm.
func (s *Store) Stale(f func(what string, remove func() error)) error {
	entries, err := os.ReadDir(s.index())
	if err != nil {
		return fmt.Errorf("reading the index of layers: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.index(), e.Name())
		target, err := os.Readlink(path)
		if err == nil && s.Has(ID(target)) {
			if m, err := s.readMeta(ID(target)); err != nil || m.DiffID == (v1.Hash{}) || m.DiffID.Hex == e.Name() {
				continue
			}
		}
		f("index entry "+e.Name(), remover(path))
	}
	marks, err := os.ReadDir(s.unsynced())
	if err != nil {
		return fmt.Errorf("reading the marks of layers: %w", err)
	}
	for _, m := range marks {
		if !s.Has(ID(m.Name())) {
			f("mark "+m.Name(), remover(filepath.Join(s.unsynced(), m.Name())))
		}
	}
	return nil
}

func remover(path string) func() error {
	return func() error {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
}
