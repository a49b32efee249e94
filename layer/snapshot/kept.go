package snapshot

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/strake-build/strake/layer/snapshot/tree"
)

// Copies that wait when a store is closed are kept for later processes, each in a directory of DIR/copies, named by a hash of its layers:
//
//	tree  the files
//	meta  what keptCopy says (JSON)
//
// Whoever wants one makes it a temporary directory first. So none that a step may have written to is ever found here, however its process ended; and that nobody else
// wrote to it is seen when it is opened. A power failure may have torn it, so those of another boot of the machine are removed.

// keptCopy is a copy of layers that nobody uses.
type keptCopy struct {
	Layers []ID
	Seal   string // of package tree
	Boot   string // of the machine
	Files  int
	Disk   int64 // bytes
	dir    string
	kept   time.Time
}

func (k *keptCopy) tree(dir string) string { return filepath.Join(dir, treeDir) }

// maxKept is how many copies a store keeps.
const maxKept = 4

func (s *Store) copiesDir() string { return filepath.Join(s.dir, "copies") }

// keep keeps w, or removes it if that cannot be.
func (s *Store) keep(w *workTree) {
	k := keptCopy{Layers: w.layers, Seal: w.tree.Seal(), Boot: s.boot, Files: w.tree.Len(), Disk: w.tree.Disk()}
	meta, err := json.Marshal(k)
	if err == nil && (s.boot == "" || len(k.Layers) == 0) {
		err = fs.ErrInvalid
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(w.temp.path, "meta"), meta, 0o600)
	}
	w.tree.Close()
	if err == nil {
		err = w.temp.keep(filepath.Join(s.copiesDir(), keptKey(k.Layers)))
	}
	if err != nil {
		_ = w.temp.remove() // a later sweep does
		return
	}
	all := s.keptCopies()
	slices.SortFunc(all, func(a, b keptCopy) int { return cmp.Compare(b.kept.UnixNano(), a.kept.UnixNano()) })
	for _, k := range all[min(len(all), maxKept):] {
		_ = s.removeTree(k.dir) // the next one to keep tries again
	}
}

// keptKey names a copy of the layers.
func keptKey(layers []ID) string {
	h := sha256.New()
	for _, id := range layers {
		h.Write([]byte(id + "\n"))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// keptCopies lists the copies that are there. One that cannot be read is none.
func (s *Store) keptCopies() (all []keptCopy) {
	_ = s.eachCopy(func(_ string, k *keptCopy) error {
		if k != nil {
			all = append(all, *k)
		}
		return nil
	})
	return all
}

// eachCopy calls f for each directory of copies, with nil for one that no copy of this boot is in.
func (s *Store) eachCopy(f func(dir string, k *keptCopy) error) error {
	entries, err := os.ReadDir(s.copiesDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(s.copiesDir(), e.Name())
		if err := f(dir, s.readCopy(dir)); err != nil {
			return err
		}
	}
	return nil
}

// readCopy reads what dir says of itself.
func (s *Store) readCopy(dir string) *keptCopy {
	k := keptCopy{dir: dir}
	data, err := os.ReadFile(filepath.Join(dir, "meta"))
	if err != nil || json.Unmarshal(data, &k) != nil || s.boot == "" || k.Boot != s.boot {
		return nil
	}
	fi, err := os.Lstat(filepath.Join(dir, "meta"))
	if err != nil {
		return nil
	}
	k.kept = fi.ModTime()
	return &k
}

// sweepCopies removes the copies that are of no use: of another boot, or of a layer whose remover died before the copy was gone.
func (s *Store) sweepCopies() error {
	return s.eachCopy(func(dir string, k *keptCopy) error {
		if k != nil && !slices.ContainsFunc(k.Layers, func(id ID) bool { return !id.valid() || !exists(s.fs(id)) }) {
			return nil
		}
		return s.removeTree(dir)
	})
}

// removeCopies removes the copies that the layer is part of.
func (s *Store) removeCopies(id ID) error {
	return s.eachCopy(func(dir string, k *keptCopy) error {
		if k == nil || !slices.Contains(k.Layers, id) {
			return nil
		}
		return s.removeTree(dir)
	})
}

// CopyInfo is what the store knows of a copy of layers that it keeps for the next step that writes over them.
type CopyInfo struct {
	ID   string
	Dir  string
	Disk int64 // bytes
	Kept time.Time
}

// Copies lists the copies that the store keeps.
func (s *Store) Copies() []CopyInfo {
	var all []CopyInfo
	for _, k := range s.keptCopies() {
		all = append(all, CopyInfo{ID: filepath.Base(k.dir), Dir: k.dir, Disk: k.Disk, Kept: k.kept})
	}
	return all
}

// RemoveCopy removes a copy. It returns false if that is not there any more: somebody may use it.
func (s *Store) RemoveCopy(id string) (bool, error) {
	dir := filepath.Join(s.copiesDir(), filepath.Base(id))
	if !exists(dir) {
		return false, nil
	}
	if err := s.removeTree(dir); err != nil {
		return false, fmt.Errorf("removing the copy %s: %w", id, err)
	}
	return true, nil
}

// VerifyCopy looks at every file of a copy, and returns ErrDamaged if one was changed since it was kept.
func (s *Store) VerifyCopy(ctx context.Context, id string) error {
	dir := filepath.Join(s.copiesDir(), filepath.Base(id))
	t, err := lockDir(dir)
	if taken(err) {
		return nil // somebody takes it, and looks himself
	}
	if err != nil {
		return fmt.Errorf("checking the copy %s: %w", id, err)
	}
	defer t.dir.Close() // only a lock
	k := s.readCopy(dir)
	if k == nil {
		return ErrDamaged
	}
	tr, err := tree.Reopen(ctx, k.tree(dir), nil, s.Owners(), k.Seal)
	if errors.Is(err, tree.ErrChanged) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return fmt.Errorf("checking the copy %s: %w", id, err)
	}
	tr.Close()
	return nil
}
