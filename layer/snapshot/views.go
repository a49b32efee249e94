package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strake-build/strake/layer/rootfs"
	"github.com/strake-build/strake/layer/snapshot/tree"
)

// A view without overlayfs is a directory of DIR/trees, named by a hash of the IDs of its layers:
//
//	fs      the files: hard links to those of the layers
//	layers  the IDs, one to a line, bottom first
//
// It stays as long as all of these layers do.

func (s *Store) trees() string { return filepath.Join(s.dir, "trees") }

// viewDir returns the directory that shows the layers, and makes it if this is the first time.
func (s *Store) viewDir(ctx context.Context, layers []ID) (string, error) {
	dirs, err := s.dirs(layers)
	if err != nil {
		return "", err
	}
	var list strings.Builder
	for _, id := range layers {
		list.WriteString(string(id) + "\n")
	}
	sum := sha256.Sum256([]byte(list.String()))
	key := hex.EncodeToString(sum[:16])
	dir := filepath.Join(s.trees(), key)
	if exists(dir) {
		return filepath.Join(dir, "fs"), nil
	}
	unlock, err := s.locks.lock(ctx, "tree-"+key)
	if err != nil {
		return "", err
	}
	defer unlock()
	if !exists(dir) {
		if err := s.makeView(ctx, dir, dirs, list.String()); err != nil {
			return "", fmt.Errorf("stacking %d layers: %w", len(layers), err)
		}
	}
	return filepath.Join(dir, "fs"), nil
}

func (s *Store) makeView(ctx context.Context, dir string, layers []string, list string) error {
	t, err := s.newTemporary()
	if err != nil {
		return err
	}
	defer t.remove() //nolint:errcheck // a later sweep does
	if err := rootfs.Mkdir(t.dir, "fs", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(t.path, "layers"), []byte(list), 0o600); err != nil {
		return err
	}
	if err := tree.Link(ctx, filepath.Join(t.path, "fs"), layers, s.Owners()); err != nil {
		return err
	}
	return t.keep(dir)
}

// removeViews removes the views that the layer is part of.
func (s *Store) removeViews(id ID) error {
	return s.eachView(func(dir string, layers []ID) error {
		if !slices.Contains(layers, id) {
			return nil
		}
		return s.removeTree(dir)
	})
}

// sweepViews removes views that a layer is missing of: whoever removed that died before the view was gone.
func (s *Store) sweepViews() error {
	return s.eachView(func(dir string, layers []ID) error {
		for _, id := range layers {
			if !s.Has(id) {
				return s.removeTree(dir)
			}
		}
		return nil
	})
}

func (s *Store) removeTree(dir string) error {
	t, err := s.adopt(dir)
	if taken(err) {
		return nil // somebody else removes it
	}
	if err != nil {
		return err
	}
	return t.remove()
}

// eachView calls f for each view, with its directory and layers.
func (s *Store) eachView(f func(dir string, layers []ID) error) error {
	entries, err := os.ReadDir(s.trees())
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(s.trees(), e.Name())
		data, err := os.ReadFile(filepath.Join(dir, "layers"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is being removed
		}
		if err != nil {
			return err
		}
		var layers []ID
		for line := range strings.FieldsSeq(string(data)) {
			layers = append(layers, ID(line))
		}
		if err := f(dir, layers); err != nil {
			return err
		}
	}
	return nil
}
