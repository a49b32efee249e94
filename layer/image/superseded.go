package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// DIR/superseded/HEX marks an image that another one took a name from. It is a hint for the collector, and not synced.
func (s *Store) superseded() string { return filepath.Join(s.dir, "superseded") }

func (s *Store) supersededMark(id v1.Hash) string { return filepath.Join(s.superseded(), id.Hex) }

// supersede marks the image that a name meant until now.
func (s *Store) supersede(id v1.Hash) {
	if _, err := s.path(id); err != nil {
		return // the name was damaged
	}
	if os.MkdirAll(s.superseded(), 0o700) == nil {
		_ = os.WriteFile(s.supersededMark(id), nil, 0o600) // without it the image only stays longer
	}
}

// Superseded returns the images that lost their last name to another image, as by building again under the same name. Images that never had a
// name, or were stored again since, are not among them.
func (s *Store) Superseded() ([]v1.Hash, error) {
	entries, err := os.ReadDir(s.superseded())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	refs, err := s.allRefs()
	if err != nil {
		return nil, err
	}
	named := make(map[v1.Hash]bool)
	for _, r := range refs {
		named[r.ID] = true
	}
	var ids []v1.Hash
	for _, e := range entries {
		id, err := v1.NewHash("sha256:" + e.Name())
		if err != nil || named[id] {
			continue
		}
		if path, err := s.path(id); err == nil {
			if _, err := os.Stat(path); err == nil {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}
