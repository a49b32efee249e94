// Package image is the local database of images: which configuration and which
// layers they have, and what they are called.
//
//	DIR/images/HEX.json  an image, by its ID; its configuration is in the blob store
//	DIR/refs/NAME        a name: the full reference and the image's ID (JSON)
//	DIR/removed/HEX.json an image that was removed, whose layers and blobs are still to go
//	DIR/superseded/HEX   marks an image that lost a name to another
//	DIR/lock             held (flock) while records change
//
// Records appear by rename. Images and names are synced to the disk; a name that the
// user was told of is there after a power failure.
package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/blob"
)

// ErrNotFound is returned for an image or name that the store does not hold.
var ErrNotFound = errors.New("image not found")

// Layer is one layer of an image.
type Layer struct {
	DiffID v1.Hash `json:"diffID"`
	// Blob is the compressed form with digest, size and media type; nil while the
	// layer was never compressed.
	Blob *v1.Descriptor `json:"blob,omitempty"`
	// Origin is a repository ("host/name") that holds Blob; empty for a layer made here. One that begins with a colon is
	// a place that only this process knows, which is no repository.
	Origin string `json:"origin,omitempty"`
}

// Repository is the Origin if that is a repository.
func (l Layer) Repository() string {
	if strings.HasPrefix(l.Origin, ":") {
		return ""
	}
	return l.Origin
}

// Image is an image of one platform.
type Image struct {
	ID     v1.Hash // the digest of the configuration, which docker calls the image ID
	Layers []Layer // bottom first
	// Manifest is the digest of the manifest as a registry served it, whose bytes
	// are in the blob store; the zero Hash for an image made here.
	Manifest  v1.Hash
	RawConfig []byte
	Config    v1.ConfigFile
}

// record is an image's file.
type record struct {
	Layers   []Layer  `json:"layers"`
	Manifest *v1.Hash `json:"manifest,omitempty"`
}

// Store holds images and references to them. It is safe for concurrent use, also by several processes.
type Store struct {
	dir   string
	blobs *blob.Store
}

// Open opens or makes the store in dir; configurations and manifests are kept in blobs.
func Open(dir string, blobs *blob.Store) (*Store, error) {
	s := &Store{dir: dir, blobs: blobs}
	for _, d := range []string{s.images(), s.refs(), s.removed()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("opening the images: %w", err)
		}
	}
	return s, nil
}

func (s *Store) images() string  { return filepath.Join(s.dir, "images") }
func (s *Store) refs() string    { return filepath.Join(s.dir, "refs") }
func (s *Store) removed() string { return filepath.Join(s.dir, "removed") }

// path is the file of the image id. An ID that is none names no image.
func (s *Store) path(id v1.Hash) (string, error) {
	if blob.CheckDigest(id) != nil {
		return "", fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	return filepath.Join(s.images(), id.Hex+".json"), nil
}

// Put stores img (its RawConfig too) under no name. Its ID is computed from RawConfig and set.
// If the store has the image, what it knows of blobs, origins and the manifest is kept unless img knows better.
func (s *Store) Put(img *Image) error {
	config, err := v1.ParseConfigFile(bytes.NewReader(img.RawConfig))
	if err != nil {
		return fmt.Errorf("storing an image: parsing its configuration: %w", err)
	}
	if n := len(config.RootFS.DiffIDs); n != len(img.Layers) {
		return fmt.Errorf("storing an image: it has %d layers and its configuration %d", len(img.Layers), n)
	}
	for i, l := range img.Layers {
		if l.DiffID != config.RootFS.DiffIDs[i] {
			return fmt.Errorf("storing an image: layer %d is %s, and %s in its configuration", i, l.DiffID, config.RootFS.DiffIDs[i])
		}
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	id, err := s.blobs.PutBytes(img.RawConfig)
	if err != nil {
		return fmt.Errorf("storing an image: %w", err)
	}
	path, err := s.path(id)
	if err != nil {
		return err
	}
	r := record{Layers: slices.Clone(img.Layers)}
	if img.Manifest != (v1.Hash{}) {
		r.Manifest = &img.Manifest
	}
	old, err := readRecord(path)
	if err == nil {
		r.merge(old)
	} // a damaged record is replaced
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("storing image %s: %w", id, err)
	}
	if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, data) {
		if err := writeFile(path, data); err != nil {
			return fmt.Errorf("storing image %s: %w", id, err)
		}
	}
	img.ID = id
	_ = os.Remove(s.supersededMark(id)) // somebody wants it again
	return nil
}

// merge takes from old what r does not know.
func (r *record) merge(old record) {
	if r.Manifest == nil {
		r.Manifest = old.Manifest
	}
	for i := range r.Layers {
		l := &r.Layers[i]
		if l.Blob == nil && i < len(old.Layers) && old.Layers[i].DiffID == l.DiffID {
			l.Blob, l.Origin = old.Layers[i].Blob, old.Layers[i].Origin
		}
	}
}

// Get returns the image with the given ID, or ErrNotFound. The lease of the blobs holds all that it consists of.
func (s *Store) Get(id v1.Hash) (*Image, error) {
	r, err := s.record(id)
	if err != nil {
		return nil, err
	}
	var names []string
	for h := range r.needs(id) {
		names = append(names, h.String())
	}
	err = s.blobs.Lease.Hold(func() error { // unless it was removed meanwhile
		_, err := s.record(id)
		return err
	}, names...)
	if err != nil {
		return nil, err
	}
	return load(id, r, s.blobs)
}

// record reads the record of an image, or returns ErrNotFound.
func (s *Store) record(id v1.Hash) (record, error) {
	path, err := s.path(id)
	if err != nil {
		return record{}, err
	}
	r, err := readRecord(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	if err != nil {
		return r, fmt.Errorf("reading image %s: %w", id, err)
	}
	return r, nil
}

// load makes an image of its record and its configuration.
func load(id v1.Hash, r record, blobs *blob.Store) (_ *Image, err error) {
	img := &Image{ID: id, Layers: r.Layers}
	if r.Manifest != nil {
		img.Manifest = *r.Manifest
	}
	if img.RawConfig, err = blobs.ReadAll(id); err != nil {
		return nil, fmt.Errorf("reading the configuration of image %s: %w", id, err)
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(img.RawConfig))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of image %s: %w", id, err)
	}
	img.Config = *config
	return img, nil
}

// Named is a row of List.
type Named struct {
	Image *Image
	Names []string // familiar names, sorted; empty for an image without
}

// List returns every image, newest first, and holds none. If some cannot be read, it returns the others and an error that says which.
func (s *Store) List() ([]Named, error) {
	refs, err := s.allRefs()
	if err != nil {
		return nil, err
	}
	names := make(map[v1.Hash][]string)
	for _, r := range refs {
		names[r.ID] = append(names[r.ID], familiar(r.Name))
	}
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	unheld := *s.blobs
	unheld.Lease = nil
	var list []Named
	var failed []error
	for _, id := range ids {
		img, err := s.open(id, &unheld)
		if errors.Is(err, ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		n := Named{Image: img, Names: names[id]}
		slices.Sort(n.Names)
		list = append(list, n)
	}
	slices.SortStableFunc(list, func(a, b Named) int {
		if c := b.Image.Config.Created.Compare(a.Image.Config.Created.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Image.ID.Hex, b.Image.ID.Hex)
	})
	return list, errors.Join(failed...)
}

// open reads the image id.
func (s *Store) open(id v1.Hash, blobs *blob.Store) (*Image, error) {
	r, err := s.record(id)
	if err != nil {
		return nil, err
	}
	img, err := load(id, r, blobs)
	if err != nil {
		if _, gone := s.record(id); errors.Is(gone, ErrNotFound) {
			return nil, gone // removed meanwhile
		}
	}
	return img, err
}

// ids lists the IDs of all images, sorted.
func (s *Store) ids() ([]v1.Hash, error) {
	return listRecords(s.images())
}

// listRecords lists the IDs that the records of a folder are named by, sorted.
func listRecords(dir string) ([]v1.Hash, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	var ids []v1.Hash
	for _, e := range entries {
		hex, ok := strings.CutSuffix(e.Name(), ".json")
		if h, err := v1.NewHash("sha256:" + hex); ok && err == nil {
			ids = append(ids, h)
		}
	}
	return ids, nil
}

// needs are the digests of the blobs and the diffIDs of the layers that the image id of this record consists of.
func (r record) needs(id v1.Hash) map[v1.Hash]bool {
	needs := map[v1.Hash]bool{id: true}
	if r.Manifest != nil {
		needs[*r.Manifest] = true
	}
	for _, l := range r.Layers {
		needs[l.DiffID] = true
		if l.Blob != nil {
			needs[l.Blob.Digest] = true
		}
	}
	return needs
}

func readRecord(path string) (record, error) {
	var r record
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("the file %s is damaged: %w", path, err)
	}
	return r, nil
}
