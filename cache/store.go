package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/flock"
)

// ErrMiss is what Lookup returns, wrapped with the reason, for a key without a usable record.
var ErrMiss = errors.New("not in the cache")

// Why there is no usable record, where it is not that there never was one. Each wraps ErrMiss.
var (
	ErrDamaged  = fmt.Errorf("%w: the record is damaged", ErrMiss)
	ErrGone     = fmt.Errorf("%w: the layer is gone (pruned)", ErrMiss)
	ErrDisabled = fmt.Errorf("%w: --no-cache", ErrMiss)
)

// Record is what the cache keeps for a key.
type Record struct {
	// Layer names the layer that the step made, in the words of the snapshot store.
	Layer string `json:"layer"`
	// Created is when the step ended; an image that reuses it says so in its history.
	Created time.Time `json:"created"`
	// Name is the step as people read it.
	Name string `json:"name"`
	// Parts are what the key was computed from.
	Parts []Part `json:"parts"`
	// On tells apart what the layer may have been made on, in the words of who saves the record.
	On string `json:"on,omitempty"`
	// DiffID is the digest of the layer's tar if the layer was made on another machine; empty otherwise.
	DiffID string `json:"diffID,omitempty"`
	// Away says where the layer is if it is not on this machine; Layer is empty then. Such a record is not stored.
	Away *Away `json:"-"`
	// Content are parts of the second key, by what parent and inputs held (solver.Op.ContentParts).
	Content []Part `json:"content,omitempty"`
	// Notes are in no key: they say more of the step to whoever explains why a later one is another.
	Notes []Part `json:"notes,omitempty"`
}

// Local says whether the record is for this machine alone.
func (r *Record) Local() bool {
	local := func(p Part) bool { return p.Local }
	return slices.ContainsFunc(r.Parts, local) || slices.ContainsFunc(r.Content, local)
}

// Away is a layer on another machine, of a record that came from there.
type Away struct {
	Below  v1.Hash // identifies the layers that it was made on
	Blob   v1.Descriptor
	Origin string // names the place that has Blob
}

// Store keeps records as files, one for each key. It is safe for concurrent use, also by
// several processes. Files are not synced one by one: each carries its checksum, and a torn one is a miss.
type Store struct {
	dir string

	mu   sync.Mutex
	used map[Key]string // the layers of the records that were found or saved
}

// Open opens or makes the store in dir.
func Open(dir string) (*Store, error) {
	for _, d := range []string{"records", "steps", "files", "locks", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("opening the build cache: %w", err)
		}
	}
	s := &Store{dir: dir, used: make(map[Key]string)}
	return s, s.sweep()
}

// sweep removes the temporary files of processes that died: a living one holds a lock on its own.
func (s *Store) sweep() error {
	dir := filepath.Join(s.dir, "tmp")
	names, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("opening the build cache: %w", err)
	}
	if len(names) == 0 {
		return nil
	}
	guard, err := flock.TryOpen(dir, os.O_RDONLY, flock.Alone)
	if errors.Is(err, flock.ErrHeld) {
		return nil // a living process makes a file; the next to open the store sweeps
	}
	if err != nil {
		return fmt.Errorf("opening the build cache: %w", err)
	}
	defer guard.Close() // only a lock
	for _, n := range names {
		path := filepath.Join(dir, n.Name())
		if f, err := flock.TryOpen(path, os.O_RDWR, flock.Alone); err == nil {
			_ = os.Remove(path)
			_ = f.Close()
		}
	}
	return nil
}

func (s *Store) path(k Key) string {
	name := k.String()
	return filepath.Join(s.dir, "records", name[:2], name)
}

// Lookup returns the record of k, or an error that wraps ErrMiss.
func (s *Store) Lookup(_ context.Context, k Key) (Record, error) {
	r, err := s.read(k)
	if err == nil {
		s.use(k, r)
	}
	return r, err
}

func (s *Store) read(k Key) (Record, error) {
	data, err := os.ReadFile(s.path(k))
	if errors.Is(err, os.ErrNotExist) {
		return Record{}, ErrMiss
	}
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrMiss, err)
	}
	body, ok := unseal(data)
	if !ok {
		return Record{}, ErrDamaged
	}
	var r Record
	if err := json.Unmarshal(body, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return r, nil
}

// Save stores the record of k, replacing an earlier one.
func (s *Store) Save(_ context.Context, k Key, r Record) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding a cache record: %w", err)
	}
	if err := s.put(s.path(k), seal(body)); err != nil {
		return fmt.Errorf("saving a cache record: %w", err)
	}
	s.use(k, r)
	return nil
}

// createTemp makes a temporary file and locks it, so that sweep sees that its process lives.
func (s *Store) createTemp() (*os.File, error) {
	dir, err := os.Open(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// Nobody sweeps between the next two calls.
	if err := flock.Take(dir, flock.Shared); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir.Name(), "record-*")
	if err != nil {
		return nil, err
	}
	if err := flock.Try(f, flock.Alone); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// seal puts a checksum before a file's content: a torn file is none.
func seal(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append([]byte(hex.EncodeToString(sum[:])+"\n"), body...)
}

// unseal is the content of a whole file.
func unseal(data []byte) (body []byte, ok bool) {
	sum, body, ok := bytes.Cut(data, []byte("\n"))
	want := sha256.Sum256(body)
	return body, ok && string(sum) == hex.EncodeToString(want[:])
}

// put makes a file that appears whole, in place of an earlier one.
func (s *Store) put(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := s.createTemp()
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	err = errors.Join(err, tmp.Close())
	if err != nil {
		_ = os.Remove(tmp.Name())
		return err
	}
	return nil
}

// Lock waits until no other holder, in this process or another, works on k, and
// returns the function that lets the next one in. The lock of a killed process is free.
func (s *Store) Lock(ctx context.Context, k Key) (unlock func(), err error) {
	path := filepath.Join(s.dir, "locks", k.String())
	f, err := flock.Open(ctx, path, os.O_CREATE|os.O_RDWR, flock.Alone)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, fmt.Errorf("locking a cache key: %w", err)
	}
	return func() {
		// Removed before it is released: whoever waits sees that its file is gone and takes a new one.
		_ = os.Remove(path)
		_ = f.Close()
	}, nil
}

// Walk calls f for every record that can be read, and stops at f's first error.
func (s *Store) Walk(ctx context.Context, f func(Key, Record) error) error {
	return s.Entries(ctx, func(e Entry) error {
		if e.Err != nil {
			return nil //nolint:nilerr // a miss
		}
		return f(e.Key, e.Record)
	})
}
