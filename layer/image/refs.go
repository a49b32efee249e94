package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// refRecord is the file of a name.
type refRecord struct {
	Name string  `json:"name"` // the full reference
	ID   v1.Hash `json:"id"`
}

// refPath is the file of a full reference. References have at most a few hundred characters, which escaped
// can be more than a file's name takes: then it is a digest of them.
func (s *Store) refPath(full string) string {
	file := url.QueryEscape(full)
	if len(file) > 200 {
		sum := sha256.Sum256([]byte(full))
		file = "~" + hex.EncodeToString(sum[:])
	}
	return filepath.Join(s.refs(), file)
}

// Tag makes ref name the image id; what it named before loses that name.
// ref may be a digest reference (repo@sha256:…) for a pulled manifest.
func (s *Store) Tag(ref name.Reference, id v1.Hash) error {
	path, err := s.path(id)
	if err != nil {
		return fmt.Errorf("tagging %s: %w", ref.Name(), err)
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("tagging %s: %w", ref.Name(), notFound(id.String(), err))
	}
	old, err := readRef(s.refPath(ref.Name()))
	had := err == nil
	if had && old == (refRecord{ref.Name(), id}) {
		return nil
	}
	data, err := json.Marshal(refRecord{ref.Name(), id})
	if err == nil {
		err = writeFile(s.refPath(ref.Name()), data)
	}
	if err != nil {
		return fmt.Errorf("tagging %s: %w", ref.Name(), err)
	}
	if had {
		s.supersede(old.ID)
	}
	return nil
}

// Resolve returns the image that ref names exactly, or ErrNotFound.
func (s *Store) Resolve(ref name.Reference) (*Image, error) {
	r, err := readRef(s.refPath(ref.Name()))
	if err != nil {
		return nil, notFound(ref.Name(), err)
	}
	return s.Get(r.ID)
}

// Untag removes a name and returns the image it named; ErrNotFound if it names none.
func (s *Store) Untag(ref name.Reference) (*Image, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	img, err := s.Resolve(ref)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(s.refPath(ref.Name())); err != nil {
		return nil, fmt.Errorf("untagging %s: %w", ref.Name(), notFound(ref.Name(), err))
	}
	return img, syncDir(s.refs())
}

// Find returns the image that s means: a reference, an ID or the unique beginning
// of an ID, with or without "sha256:", as docker's users write it. A name comes before an ID that
// begins so. ErrNotFound if there is none; the beginning of several IDs is an error that lists them.
func (s *Store) Find(ref string) (*Image, error) {
	digits, prefixed := strings.CutPrefix(ref, "sha256:")
	if prefixed || len(digits) == 2*sha256.Size && isHex(digits) {
		return s.byPrefix(ref, digits)
	}
	parsed, err := name.ParseReference(ref, name.WeakValidation)
	if err != nil {
		return nil, fmt.Errorf("%q is not an image name or ID: %w", ref, ErrNotFound)
	}
	img, err := s.Resolve(parsed)
	if errors.Is(err, ErrNotFound) && isHex(ref) {
		return s.byPrefix(ref, ref)
	}
	return img, err
}

// byPrefix finds the image whose ID begins with the hexadecimal digits; ref is what the user wrote.
func (s *Store) byPrefix(ref, digits string) (*Image, error) {
	if !isHex(digits) {
		return nil, fmt.Errorf("%q is not an image name or ID: %w", ref, ErrNotFound)
	}
	if len(digits) == 2*sha256.Size {
		return s.Get(v1.Hash{Algorithm: "sha256", Hex: digits})
	}
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	var match []string
	for _, id := range ids {
		if strings.HasPrefix(id.Hex, digits) {
			match = append(match, id.String())
		}
	}
	switch len(match) {
	case 0:
		return nil, fmt.Errorf("%s: %w", ref, ErrNotFound)
	case 1:
		id, err := v1.NewHash(match[0])
		if err != nil {
			return nil, err
		}
		return s.Get(id)
	}
	return nil, fmt.Errorf("%s is the beginning of several image IDs: %s", ref, strings.Join(match, ", "))
}

// isHex says whether s is made of hexadecimal digits, at least one, in lower case as docker wants them.
func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// allRefs reads all names.
func (s *Store) allRefs() ([]refRecord, error) {
	entries, err := os.ReadDir(s.refs())
	if err != nil {
		return nil, fmt.Errorf("listing image names: %w", err)
	}
	var refs []refRecord
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".new-") {
			continue // a name that is being written, or was when its writer died
		}
		r, err := readRef(filepath.Join(s.refs(), e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("listing image names: %w", err)
		}
		refs = append(refs, r)
	}
	return refs, nil
}

// removeRefs removes all names of the image id.
//
// Preconditions: the lock is held.
func (s *Store) removeRefs(id v1.Hash) error {
	refs, err := s.allRefs()
	if err != nil {
		return err
	}
	refs = slices.DeleteFunc(refs, func(r refRecord) bool { return r.ID != id })
	for _, r := range refs {
		if err := os.Remove(s.refPath(r.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("untagging %s: %w", r.Name, err)
		}
	}
	if len(refs) == 0 {
		return nil
	}
	return syncDir(s.refs())
}

func readRef(path string) (refRecord, error) {
	var r refRecord
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("the file %s is damaged: %w", path, err)
	}
	return r, nil
}

// notFound turns the error of a file that is not there into ErrNotFound.
func notFound(what string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return err
}

// familiar is a full reference as docker shows it: Docker Hub's host and its library are left out.
func familiar(full string) string {
	rest, ok := strings.CutPrefix(full, name.DefaultRegistry+"/")
	if !ok {
		return full
	}
	return strings.TrimPrefix(rest, "library/")
}
