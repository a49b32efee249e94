package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// meta is what the store knows of a layer beside its files.
type meta struct {
	DiffID v1.Hash `json:"diffID"`
	Size   int64   `json:"size"` // of the tar, in bytes
	// Unpacked: the layer came from a tar that was given. The tar that WriteTar makes of it may differ from that.
	Unpacked bool  `json:"unpacked,omitempty"`
	Disk     int64 `json:"disk,omitempty"` // what the files take of the disk, in bytes; 0 if not measured
}

// readMeta reads what is known of a layer: a zero meta if nothing is, or the file is damaged, for it can
// be computed again.
func (s *Store) readMeta(id ID) (meta, error) {
	m, err := s.loadMeta(id)
	if errors.Is(err, errMeta) {
		return meta{}, nil
	}
	return m, err
}

// errMeta is that the file meta is damaged.
var errMeta = errors.New("what is known of the layer is damaged")

// loadMeta is readMeta, with errMeta.
func (s *Store) loadMeta(id ID) (meta, error) {
	var m meta
	b, err := os.ReadFile(filepath.Join(s.path(id), "meta"))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if json.Unmarshal(b, &m) != nil {
		return meta{}, errMeta
	}
	return m, nil
}

// writeMeta writes the file meta in the directory of a layer.
func writeMeta(dir string, m meta) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "meta-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, "meta"))
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// Unpack makes a layer from the uncompressed tar of open, whose digest must be diffID.
// If the store has it already, open is not called. Concurrent calls for one
// diffID, also from other processes, unpack it once. On an error nothing is left.
func (s *Store) Unpack(ctx context.Context, diffID v1.Hash, open func() (io.ReadCloser, error)) (ID, error) {
	id, err := s.ByDiffID(diffID)
	if !errors.Is(err, ErrNotFound) {
		return id, err
	}
	unlock, err := s.locks.lock(ctx, diffID.Hex)
	if err != nil {
		return "", err
	}
	defer unlock()
	if id, err := s.ByDiffID(diffID); !errors.Is(err, ErrNotFound) {
		return id, err
	}
	if id, err = s.unpack(ctx, diffID, open); err != nil {
		return "", fmt.Errorf("unpacking layer %s: %w", diffID, err)
	}
	return id, nil
}

func (s *Store) unpack(ctx context.Context, diffID v1.Hash, open func() (io.ReadCloser, error)) (_ ID, err error) {
	t, err := s.newTemporary()
	if err != nil {
		return "", err
	}
	defer t.remove() //nolint:errcheck // a later sweep does
	if err := rootfs.Mkdir(t.dir, "fs", 0o755); err != nil {
		return "", err
	}
	size, err := s.apply(ctx, filepath.Join(t.path, "fs"), diffID, open)
	if err != nil {
		return "", err
	}
	if err := writeMeta(t.path, meta{DiffID: diffID, Size: size, Unpacked: true}); err != nil {
		return "", err
	}
	id := newID()
	if err := s.publish(t, id); err != nil {
		return "", err
	}
	// The layer is complete; without the index entry it would be unpacked again, no more.
	return id, s.addIndex(diffID, id)
}

// apply unpacks the tar into dir and checks its digest.
func (s *Store) apply(ctx context.Context, dir string, diffID v1.Hash, open func() (io.ReadCloser, error)) (_ int64, err error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close() // nothing was written through it
	r, err := open()
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := r.Close(); err == nil {
			err = cerr
		}
	}()
	sum := newSummer()
	next := readAhead(r)
	defer next.close() // before r is closed
	tee := io.TeeReader(next, sum)
	if err := layer.Apply(ctx, root, tee, s.options()); err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return 0, err
	}
	if got := sum.digest(); got != diffID {
		return 0, fmt.Errorf("its tar has the digest %s, not %s as the image's configuration says", got, diffID)
	}
	return sum.size, nil
}

// addIndex makes the layer findable by its diffID, unless another one is found already.
func (s *Store) addIndex(diffID v1.Hash, id ID) error {
	if _, err := s.ByDiffID(diffID); !errors.Is(err, ErrNotFound) {
		return err
	}
	entry, err := s.indexEntry(diffID)
	if err != nil {
		return err
	}
	temp := filepath.Join(s.temp(), string(newID()))
	if err := os.Symlink(string(id), temp); err != nil {
		return err
	}
	err = os.Rename(temp, entry)
	if errors.Is(err, fs.ErrNotExist) {
		// A sweep of another process took the new link away.
		err = os.Symlink(string(id), entry)
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	return err
}

// DiffID returns the digest and size of the layer's uncompressed tar, computing it the first time.
// Concurrent calls compute it once.
func (s *Store) DiffID(ctx context.Context, id ID) (v1.Hash, int64, error) {
	if err := s.check(id); err != nil {
		return v1.Hash{}, 0, err
	}
	m, err := s.diffID(ctx, id)
	if err == nil {
		// Also when it was known: a crash, or the removal of a layer with the same content, may have left no entry.
		err = s.addIndex(m.DiffID, id)
	}
	if err != nil {
		return v1.Hash{}, 0, fmt.Errorf("hashing layer %s: %w", id, err)
	}
	return m.DiffID, m.Size, nil
}

// KnownDiffID returns the digest of the layer's uncompressed tar if it was computed before.
func (s *Store) KnownDiffID(id ID) (v1.Hash, bool) {
	if s.check(id) != nil {
		return v1.Hash{}, false
	}
	m, err := s.readMeta(id)
	return m.DiffID, err == nil && m.DiffID != (v1.Hash{})
}

func (s *Store) diffID(ctx context.Context, id ID) (meta, error) {
	if m, err := s.readMeta(id); err != nil || m.DiffID != (v1.Hash{}) {
		return m, err
	}
	unlock, err := s.locks.lockAt(ctx, s.fs(id))
	if err != nil {
		return meta{}, err
	}
	defer unlock()
	if m, err := s.readMeta(id); err != nil || m.DiffID != (v1.Hash{}) {
		return m, err
	}
	sum := newSummer()
	if err := s.write(ctx, id, sum); err != nil {
		return meta{}, err
	}
	return s.learn(id, sum)
}

// learn remembers the digest of a layer's tar.
func (s *Store) learn(id ID, sum *summer) (meta, error) {
	m, err := s.readMeta(id)
	if err != nil {
		return meta{}, err
	}
	m.DiffID, m.Size = sum.digest(), sum.size
	if err := writeMeta(s.path(id), m); err != nil {
		return meta{}, err
	}
	return m, s.addIndex(m.DiffID, id)
}

// WriteTar writes the layer as an uncompressed tar, always the same bytes. If the layer's diffID is
// known and the bytes are not those (a layer unpacked from another program's tar, or
// a damaged one), the error comes after they were written.
func (s *Store) WriteTar(ctx context.Context, id ID, w io.Writer) error {
	if err := s.check(id); err != nil {
		return err
	}
	m, err := s.readMeta(id)
	if err != nil {
		return fmt.Errorf("writing the tar of layer %s: %w", id, err)
	}
	sum := newSummer()
	if err := s.write(ctx, id, io.MultiWriter(w, sum)); err != nil {
		return fmt.Errorf("writing the tar of layer %s: %w", id, err)
	}
	if m.DiffID == (v1.Hash{}) {
		_, err := s.learn(id, sum)
		return err
	}
	if got := sum.digest(); got != m.DiffID {
		return fmt.Errorf("writing the tar of layer %s: it has the digest %s and not %s: the layer was unpacked from a tar that was written differently, or its files are damaged", id, got, m.DiffID)
	}
	return nil
}

func (s *Store) write(ctx context.Context, id ID, w io.Writer) error {
	root, err := rootfs.Open(s.fs(id))
	if err != nil {
		return err
	}
	defer root.Close() // only read
	return layer.Write(ctx, w, root, s.options())
}

// summer hashes and counts.
type summer struct {
	hash hash.Hash
	size int64
}

func newSummer() *summer { return &summer{hash: sha256.New()} }

func (s *summer) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	return s.hash.Write(p)
}

func (s *summer) digest() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(s.hash.Sum(nil))}
}
