// Package blob is a content store: bytes named by their sha256, in the blobs/
// layout of the OCI image layout specification.
//
// A blob appears under its name only when it is complete and its digest was
// checked, by rename; a crash leaves at most a temporary file, which Open removes
// when nobody writes it.
package blob

import (
	"context"
	"errors"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

var errTodo = errors.New("not written yet")

// ErrNotFound is returned for a blob that the store does not hold.
var ErrNotFound = errors.New("blob not found")

// Store is a directory of blobs. It is safe for concurrent use, also by several processes.
type Store struct{ dir string }

// Open opens or makes the store in dir (blobs are at dir/sha256/HEX).
func Open(dir string) (*Store, error) { return nil, errTodo }

// Open opens a blob for reading, or returns ErrNotFound.
func (s *Store) Open(h v1.Hash) (*os.File, error) { return nil, errTodo }

// Size returns the size of a blob in bytes, or ErrNotFound.
func (s *Store) Size(h v1.Hash) (int64, error) { return 0, errTodo }

// ReadAll returns a small blob (at most 16 MiB: manifests and configs), its digest checked.
func (s *Store) ReadAll(h v1.Hash) ([]byte, error) { return nil, errTodo }

// Put stores r under the digest h; other bytes than h names are an error and leave nothing.
func (s *Store) Put(ctx context.Context, h v1.Hash, r io.Reader) error { return errTodo }

// PutBytes stores b and returns its digest.
func (s *Store) PutBytes(b []byte) (v1.Hash, error) { return v1.Hash{}, errTodo }

// Writer receives a blob whose digest is not known yet.
type Writer struct{}

// Create starts a blob. Commit or Discard must follow.
func (s *Store) Create() (*Writer, error) { return nil, errTodo }

// Write appends to the blob.
func (w *Writer) Write(p []byte) (int, error) { return 0, errTodo }

// Commit gives the blob its name and returns it with the size. If want is not the
// zero Hash, other content is an error and the blob is dropped.
func (w *Writer) Commit(want v1.Hash) (v1.Hash, int64, error) { return v1.Hash{}, 0, errTodo }

// Discard drops the blob; after Commit it does nothing.
func (w *Writer) Discard() {}

// Remove deletes a blob; one that is not there is no error.
func (s *Store) Remove(h v1.Hash) error { return errTodo }

// Walk calls f for every blob.
func (s *Store) Walk(f func(h v1.Hash, size int64) error) error { return errTodo }
