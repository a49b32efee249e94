// Package image is the local database of images: which configuration and which
// layers they have, and what they are called.
package image

import (
	"context"
	"errors"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/snapshot"
)

var errTodo = errors.New("not written yet")

// ErrNotFound is returned for an image or name that the store does not hold.
var ErrNotFound = errors.New("image not found")

// Layer is one layer of an image.
type Layer struct {
	DiffID v1.Hash `json:"diffID"`
	// Blob is the compressed form with digest, size and media type; nil while the
	// layer was never compressed.
	Blob *v1.Descriptor `json:"blob,omitempty"`
	// Origin is a repository ("host/name") that holds Blob; empty for a layer made here.
	Origin string `json:"origin,omitempty"`
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

// Store holds images and references to them.
type Store struct{}

// Open opens or makes the store in dir; configurations and manifests are kept in blobs.
func Open(dir string, blobs *blob.Store) (*Store, error) { return nil, errTodo }

// Put stores img (its RawConfig too) under no name. Its ID is computed from RawConfig.
func (s *Store) Put(img *Image) error { return errTodo }

// Get returns the image with the given ID, or ErrNotFound.
func (s *Store) Get(id v1.Hash) (*Image, error) { return nil, errTodo }

// Tag makes ref name the image id; what it named before loses that name.
// ref may be a digest reference (repo@sha256:…) for a pulled manifest.
func (s *Store) Tag(ref name.Reference, id v1.Hash) error { return errTodo }

// Find returns the image that s means: a reference, an ID or the unique beginning
// of an ID, as docker's users write it. ErrNotFound if there is none.
func (s *Store) Find(ref string) (*Image, error) { return nil, errTodo }

// Resolve returns the image that ref names exactly.
func (s *Store) Resolve(ref name.Reference) (*Image, error) { return nil, errTodo }

// Named is a row of List.
type Named struct {
	Image *Image
	Names []string // familiar names, sorted; empty for an image without
}

// List returns every image, newest first.
func (s *Store) List() ([]Named, error) { return nil, errTodo }

// Untag removes a name and returns the image it named.
func (s *Store) Untag(ref name.Reference) (*Image, error) { return nil, errTodo }

// Remove deletes an image and all of its names. Layers and blobs that no other image uses go too,
// except what keep reports as used (the build cache).
func (s *Store) Remove(id v1.Hash, layers *Layers, keep func(snapshot.ID) bool) error { return errTodo }

// Fetcher fetches blobs of a registry; the bytes it returns were not checked yet.
type Fetcher interface {
	FetchBlob(ctx context.Context, repository string, d v1.Descriptor) (io.ReadCloser, error)
}

// Layers finds the bytes of layers wherever they are: unpacked, as a blob, or at their origin.
type Layers struct {
	Blobs     *blob.Store
	Snapshots *snapshot.Store
	Remote    Fetcher
	Dir       string // remembers (diffID, codec) → descriptor
}

// Unpacked returns the layer's directory in the snapshot store, unpacking the blob or
// fetching it first where needed. done is called with bytes fetched so far; it may be nil.
func (l *Layers) Unpacked(ctx context.Context, layer Layer, done func(current, total int64)) (snapshot.ID, error) {
	return "", errTodo
}

// Descriptor returns the compressed form of the layer if it is known: the layer's own Blob, or what
// an earlier Compressed made with this algorithm.
func (l *Layers) Descriptor(layer Layer, a compress.Algorithm) (v1.Descriptor, bool) {
	return v1.Descriptor{}, false
}

// Remember records what compressing the layer with a gave.
func (l *Layers) Remember(layer Layer, a compress.Algorithm, d v1.Descriptor) error { return errTodo }

// Compressed streams the layer's compressed bytes: its own Blob if it has one (local, else fetched,
// and checked: a wrong digest is an error from Read), else the tar of its directory compressed with a.
func (l *Layers) Compressed(ctx context.Context, layer Layer, a compress.Algorithm) (io.ReadCloser, error) {
	return nil, errTodo
}

// Uncompressed streams the layer's tar.
func (l *Layers) Uncompressed(ctx context.Context, layer Layer) (io.ReadCloser, error) {
	return nil, errTodo
}
