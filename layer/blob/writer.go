package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/flock"
)

// Writer receives a blob whose digest is not known yet. It serves one goroutine at a time.
type Writer struct {
	s    *Store
	f    *os.File // locked as long as it is open; nil when done
	hash hash.Hash
	size int64
}

// errFinished is what a Writer says after Commit or Discard.
var errFinished = errors.New("the blob was committed or discarded already")

// Create starts a blob. Commit or Discard must follow.
func (s *Store) Create() (*Writer, error) {
	for {
		f, err := os.CreateTemp(s.temp(), "blob-")
		if err != nil {
			return nil, fmt.Errorf("making a blob: %w", err)
		}
		// A sweep that came between the two calls may have removed the file: then another one.
		err = flock.Take(f, flock.Alone)
		alive := err == nil && flock.Named(f)
		if alive {
			err = f.Chmod(0o644)
		}
		if err != nil {
			_ = os.Remove(f.Name())
			_ = f.Close()
			return nil, fmt.Errorf("making a blob: %w", err)
		}
		if alive {
			return &Writer{s: s, f: f, hash: sha256.New()}, nil
		}
		_ = f.Close()
	}
}

// Write appends to the blob.
func (w *Writer) Write(p []byte) (int, error) {
	if w.f == nil {
		return 0, errFinished
	}
	n, err := w.f.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("writing a blob: %w", err)
	}
	return n, nil
}

// Sum returns the digest and size of what was written so far.
func (w *Writer) Sum() (v1.Hash, int64) {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(w.hash.Sum(nil))}, w.size
}

// Commit gives the blob its name and returns it with the size. If want is not the
// zero Hash, other content is an error and the blob is dropped.
func (w *Writer) Commit(want v1.Hash) (v1.Hash, int64, error) {
	if w.f == nil {
		return v1.Hash{}, 0, errFinished
	}
	defer w.Discard()
	got, size := w.Sum()
	if want != (v1.Hash{}) && got != want {
		return v1.Hash{}, 0, fmt.Errorf("storing blob %s: the %d bytes have the digest %s", want, size, got)
	}
	path, err := w.s.path(got)
	if err == nil {
		err = w.s.Lease.Hold(func() error { return os.Rename(w.f.Name(), path) }, got.String())
	}
	if err != nil {
		return v1.Hash{}, 0, fmt.Errorf("storing blob %s: %w", got, err)
	}
	f := w.f
	w.f = nil
	if err := f.Close(); err != nil { // some file systems tell of a full disk only now
		_ = os.Remove(path)
		return v1.Hash{}, 0, fmt.Errorf("storing blob %s: %w", got, err)
	}
	return got, size, nil
}

// Discard drops the blob; after Commit it does nothing.
func (w *Writer) Discard() {
	if w.f == nil {
		return
	}
	_ = os.Remove(w.f.Name())
	_ = w.f.Close()
	w.f = nil
}

// sweep removes the temporary files that nobody holds the lock of.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.temp())
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.temp(), e.Name())
		f, err := flock.TryOpen(path, os.O_RDONLY, flock.Alone)
		if err != nil {
			continue // somebody writes it, committed it or removed it
		}
		_ = os.Remove(path)
		_ = f.Close()
	}
	return nil
}
