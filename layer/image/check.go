package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Problem is what Check finds.
type Problem struct {
	What   string // the name or the image
	Err    error
	Repair func() error // removes it
}

// Check reads all names and images. have says whether a layer can be had, from here or from where it came. The problems
// are to be repaired in their order.
func (s *Store) Check(have func(Layer) error) ([]Problem, error) {
	refs, problems, err := s.checkRefs()
	if err != nil {
		return nil, err
	}
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	good := make(map[v1.Hash]bool)
	for _, id := range ids {
		err := s.checkImage(id, have)
		if err == nil {
			good[id] = true
			continue
		}
		what := "image " + id.String()
		for _, r := range refs {
			if r.ID == id {
				what += " (" + familiar(r.Name) + ")"
			}
		}
		problems = append(problems, Problem{what, err, s.repairImage(id, have)})
		good[id] = true // its names go with it
	}
	for _, r := range refs {
		if !good[r.ID] {
			problems = append(problems, Problem{"name " + familiar(r.Name), fmt.Errorf("image %s: %w", r.ID, ErrNotFound), s.repairRef(s.refPath(r.Name))})
		}
	}
	return problems, nil
}

func (s *Store) checkRefs() (refs []refRecord, problems []Problem, err error) {
	entries, err := os.ReadDir(s.refs())
	if err != nil {
		return nil, nil, fmt.Errorf("listing image names: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".new-") {
			continue // the next who takes the lock removes it
		}
		path := filepath.Join(s.refs(), e.Name())
		r, err := readRef(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && s.refPath(r.Name) != path {
			err = fmt.Errorf("the file %s is of another name", path)
		}
		if err != nil {
			problems = append(problems, Problem{"name " + e.Name(), err, s.repairRef(path)})
			continue
		}
		refs = append(refs, r)
	}
	return refs, problems, nil
}

// checkImage reads an image and asks for its layers.
func (s *Store) checkImage(id v1.Hash, have func(Layer) error) error {
	img, err := s.Get(id)
	if errors.Is(err, ErrNotFound) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	if got := len(img.Config.RootFS.DiffIDs); got != len(img.Layers) {
		return fmt.Errorf("it has %d layers and its configuration %d", len(img.Layers), got)
	}
	for i, l := range img.Layers {
		if l.DiffID != img.Config.RootFS.DiffIDs[i] {
			return fmt.Errorf("layer %d is %s, and %s in its configuration", i, l.DiffID, img.Config.RootFS.DiffIDs[i])
		}
		if err := have(l); err != nil {
			return err
		}
	}
	return nil
}

// repairImage removes an image, unless somebody made it whole meanwhile.
func (s *Store) repairImage(id v1.Hash, have func(Layer) error) func() error {
	return func() error {
		unlock, err := s.lock()
		if err != nil {
			return err
		}
		defer unlock()
		if s.checkImage(id, have) == nil {
			return nil
		}
		return s.forget(id)
	}
}

// repairRef removes the file of a name, unless somebody gave it to an image meanwhile.
func (s *Store) repairRef(path string) func() error {
	return func() error {
		unlock, err := s.lock()
		if err != nil {
			return err
		}
		defer unlock()
		if r, err := readRef(path); err == nil && s.refPath(r.Name) == path {
			if _, err := s.record(r.ID); !errors.Is(err, ErrNotFound) {
				return nil
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return syncDir(filepath.Dir(path))
	}
}
