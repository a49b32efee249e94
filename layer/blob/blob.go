// Package blob is a content store: bytes named by their sha256, in the blobs/
// layout of the OCI image layout specification.
//
// A blob appears under its name only when it is complete and its digest was
// checked, by rename; a crash leaves at most a temporary file, which Open removes
// when nobody writes it. Layers are not synced to the disk one by one: a blob that a
// power failure tore has another digest than its name, and all readers check.
package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/lease"
)

// ErrNotFound is returned for a blob that the store does not hold.
var ErrNotFound = errors.New("blob not found")

// maxSmall is what ReadAll reads at most, in bytes.
const maxSmall = 16 << 20

// Store is a directory of blobs. It is safe for concurrent use, also by several processes.
type Store struct {
	dir string
	// Lease holds every blob that is found or stored, by its digest; nil for a store that nobody else uses.
	Lease *lease.Lease
}

// Open opens or makes the store in dir (blobs are at dir/sha256/HEX). It removes the temporary
// files that crashed processes left.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	for _, d := range []string{filepath.Join(dir, "sha256"), s.temp()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("opening the blob store: %w", err)
		}
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("opening the blob store: %w", err)
	}
	return s, nil
}

// temp is where blobs are while they are written.
func (s *Store) temp() string { return filepath.Join(s.dir, "tmp") }

// CheckDigest returns an error unless h is a sha256, in lower case. Who makes a path of a digest asks first: it may come from hostile JSON.
func CheckDigest(h v1.Hash) error {
	isHex := func(c rune) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }
	if h.Algorithm != "sha256" || len(h.Hex) != 2*sha256.Size || strings.ContainsFunc(h.Hex, func(c rune) bool { return !isHex(c) }) {
		return fmt.Errorf("%q is not a sha256 digest", h.String())
	}
	return nil
}

// path is where h is, or would be.
func (s *Store) path(h v1.Hash) (string, error) {
	return filepath.Join(s.dir, "sha256", h.Hex), CheckDigest(h)
}

// Open opens a blob for reading, or returns ErrNotFound. The content is not checked: who needs
// to trust it hashes what it reads.
func (s *Store) Open(h v1.Hash) (*os.File, error) {
	var f *os.File
	err := s.find(h, func(path string) (err error) {
		f, err = os.Open(path)
		return err
	})
	return f, err
}

// find calls look with the path of a blob. If that finds it, it is held.
func (s *Store) find(h v1.Hash, look func(path string) error) error {
	path, err := s.path(h)
	if err != nil {
		return err
	}
	return notFound(h, s.Lease.Hold(func() error { return look(path) }, h.String()))
}

// Size returns the size of a blob in bytes, or ErrNotFound.
func (s *Store) Size(h v1.Hash) (int64, error) {
	var size int64
	err := s.find(h, func(path string) error {
		fi, err := os.Lstat(path)
		if err == nil {
			size = fi.Size()
		}
		return err
	})
	return size, err
}

// ReadAll returns a small blob (at most 16 MiB: manifests and configs), its digest checked.
func (s *Store) ReadAll(h v1.Hash) ([]byte, error) {
	f, err := s.Open(h)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	var b bytes.Buffer
	if fi, err := f.Stat(); err == nil && fi.Size() < maxSmall {
		b.Grow(int(fi.Size()) + bytes.MinRead)
	}
	n, err := b.ReadFrom(io.LimitReader(f, maxSmall+1))
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", h, err)
	}
	if n > maxSmall {
		return nil, fmt.Errorf("reading blob %s: it is larger than %d bytes", h, maxSmall)
	}
	if got := sum(b.Bytes()); got != h {
		return nil, fmt.Errorf("reading blob %s: the file is damaged, it has the digest %s", h, got)
	}
	return b.Bytes(), nil
}

// Put stores r under the digest h; other bytes than h names are an error and leave nothing.
// A blob that is there already is replaced, which mends a damaged one.
func (s *Store) Put(ctx context.Context, h v1.Hash, r io.Reader) error {
	if _, err := s.path(h); err != nil {
		return err
	}
	w, err := s.Create()
	if err != nil {
		return err
	}
	defer w.Discard()
	if _, err := io.Copy(w, &contextReader{done: ctx.Done(), cause: func() error { return context.Cause(ctx) }, r: r}); err != nil {
		return fmt.Errorf("storing blob %s: %w", h, err)
	}
	_, _, err = w.Commit(h)
	return err
}

// PutBytes stores b and returns its digest. It is synced before it appears, for it is an image's configuration or manifest: the image
// would be lost with it. Nothing is written if the store has it, undamaged.
func (s *Store) PutBytes(b []byte) (v1.Hash, error) {
	h := sum(b)
	if size, err := s.Size(h); err == nil && size == int64(len(b)) && size <= maxSmall {
		if _, err := s.ReadAll(h); err == nil {
			return h, nil
		}
	}
	w, err := s.Create()
	if err != nil {
		return v1.Hash{}, err
	}
	defer w.Discard()
	if _, err := w.Write(b); err != nil {
		return v1.Hash{}, err
	}
	if err := w.f.Sync(); err != nil {
		return v1.Hash{}, fmt.Errorf("storing blob %s: %w", h, err)
	}
	_, _, err = w.Commit(h)
	return h, err
}

// Remove deletes a blob, whoever uses it; one that is not there is no error.
func (s *Store) Remove(h v1.Hash) error {
	path, err := s.path(h)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing blob %s: %w", h, err)
	}
	return nil
}

// Collect deletes a blob, but not, and it returns false, if somebody uses it.
func (s *Store) Collect(c *lease.Collection, h v1.Hash) (bool, error) {
	return c.Take(func() error { return s.Remove(h) }, h.String())
}

// Walk calls f for every blob, and stops at f's first error. f may remove blobs.
func (s *Store) Walk(f func(h v1.Hash, size int64) error) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "sha256"))
	if err != nil {
		return fmt.Errorf("listing blobs: %w", err)
	}
	for _, e := range entries {
		h := v1.Hash{Algorithm: "sha256", Hex: e.Name()}
		if _, err := s.path(h); err != nil || !e.Type().IsRegular() {
			continue
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return fmt.Errorf("listing blobs: %w", err)
		}
		if err := f(h, fi.Size()); err != nil {
			return err
		}
	}
	return nil
}

// notFound turns the error of a file that is not there into ErrNotFound.
func notFound(h v1.Hash, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", h, ErrNotFound)
	}
	return err
}

func sum(b []byte) v1.Hash {
	d := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(d[:])}
}

// contextReader ends with the context's cause once it is done.
type contextReader struct {
	done  <-chan struct{}
	cause func() error
	r     io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	select {
	case <-c.done:
		return 0, c.cause()
	default:
		return c.r.Read(p)
	}
}
