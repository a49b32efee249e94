package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/snapshot"
)

// Fetcher fetches blobs of an origin: a repository of a registry, or what else a layer names as its own. The bytes it returns were not checked yet.
type Fetcher interface {
	FetchBlob(ctx context.Context, origin string, d v1.Descriptor) (io.ReadCloser, error)
}

// Layers finds the bytes of layers wherever they are: unpacked, as a blob, or at their origin.
// Nothing is fetched before it is asked for. It is safe for concurrent use, also by several processes.
type Layers struct {
	Blobs     *blob.Store
	Snapshots *snapshot.Store
	Remote    Fetcher // nil: what is not here is an error
	Dir       string  // remembers (diffID, encoder) → descriptor
}

// Unpacked returns the layer's directory in the snapshot store, unpacking the blob or
// fetching it first where needed; what is fetched is kept in the blob store as well. Digest and
// size of the blob and the diffID are checked, and on a failure nothing is left.
// done is called with bytes fetched so far; it may be nil.
func (l *Layers) Unpacked(ctx context.Context, layer Layer, done func(current, total int64)) (snapshot.ID, error) {
	id, err := l.unpack(ctx, layer, done)
	if errors.Is(err, errDamaged) && layer.Origin != "" && l.Remote != nil {
		// The copy here is of no use to anybody; the origin has another.
		if err := l.Blobs.Remove(layer.Blob.Digest); err != nil {
			return "", err
		}
		id, err = l.unpack(ctx, layer, done)
	}
	return id, err
}

// unpack has a layer unpacked from its blob, unless it is already.
func (l *Layers) unpack(ctx context.Context, layer Layer, done func(current, total int64)) (snapshot.ID, error) {
	var src *source
	id, err := l.Snapshots.Unpack(ctx, layer.DiffID, func() (io.ReadCloser, error) {
		s, err := l.source(ctx, layer, done)
		if err != nil {
			return nil, err
		}
		src = s
		return newUnpacker(s)
	})
	if src == nil {
		return id, err
	}
	// Kept only now: bytes that turned out not to be the layer are not.
	defer src.discard()
	if err != nil {
		// Damaged bytes show in many ways before their digest is known.
		switch {
		case ctx.Err() != nil:
		case src.remote != "":
			err = blameOrigin(*layer.Blob, err)
		case !errors.Is(err, errDamaged):
			err = l.blame(*layer.Blob, err)
			if layer.Origin != "" && !errors.Is(err, errDamaged) { // the blob is what it should be, and not the layer that it was said to be
				err = blameOrigin(*layer.Blob, err)
			}
		}
		return "", err
	}
	return id, src.keep()
}

// blameOrigin makes an OriginError of an error that only bytes can be the reason of, and not this machine.
func blameOrigin(d v1.Descriptor, err error) error {
	var origin *OriginError
	var here syscall.Errno
	if errors.As(err, &origin) || errors.As(err, &here) {
		return err
	}
	return &OriginError{d.Digest, err}
}

// blame returns the error of the blob store's copy if that is damaged, else err.
func (l *Layers) blame(d v1.Descriptor, err error) error {
	f, ferr := l.Blobs.Open(d.Digest)
	if ferr != nil {
		return err
	}
	defer f.Close() // only read
	if _, serr := io.Copy(io.Discard, newSource(f, d)); serr != nil {
		return serr
	}
	return err
}

// source opens the blob of a layer, here or at its origin; what is fetched can be kept.
func (l *Layers) source(ctx context.Context, layer Layer, done func(current, total int64)) (*source, error) {
	d := layer.Blob
	if d == nil {
		return nil, fmt.Errorf("layer %s is neither unpacked nor stored as a blob: %w", layer.DiffID, snapshot.ErrNotFound)
	}
	f, err := l.Blobs.Open(d.Digest)
	if err == nil {
		return newSource(f, *d), nil
	}
	if !errors.Is(err, blob.ErrNotFound) {
		return nil, err
	}
	if layer.Origin == "" || l.Remote == nil {
		return nil, fmt.Errorf("the blob of layer %s: %w", layer.DiffID, err)
	}
	r, err := l.Remote.FetchBlob(ctx, layer.Origin, *d)
	if err != nil {
		if !d.MediaType.IsDistributable() {
			return nil, fmt.Errorf("layer %s may not be distributed by registries (%s) and is not here: %w", layer.DiffID, d.MediaType, err)
		}
		return nil, &OriginError{d.Digest, fmt.Errorf("fetching layer %s from %s: %w", layer.DiffID, place(layer.Origin), err)}
	}
	s := newSource(r, *d)
	s.remote, s.done = layer.Origin, done
	if s.copy, err = l.Blobs.Create(); err != nil {
		_ = r.Close()
		return nil, err
	}
	return s, nil
}

// OriginError says that the origin of a layer does not have its blob, or has other bytes, or such that are not the layer.
type OriginError struct {
	Blob v1.Hash
	Err  error
}

func (e *OriginError) Error() string { return e.Err.Error() }
func (e *OriginError) Unwrap() error { return e.Err }

// place is an origin for people.
func place(origin string) string {
	if strings.HasPrefix(origin, ":") {
		return "the cache"
	}
	return origin
}

// Keep makes sure that the layer's bytes are on this machine, unpacked or as a blob, and returns the layer as one that needs no origin.
func (l *Layers) Keep(ctx context.Context, layer Layer) (Layer, error) {
	if layer.Blob == nil || layer.Origin == "" {
		return layer, nil
	}
	if _, err := l.Snapshots.ByDiffID(layer.DiffID); err == nil {
		return Layer{DiffID: layer.DiffID}, nil
	}
	r, err := l.checked(ctx, layer)
	if err != nil {
		return layer, err
	}
	_, err = io.Copy(io.Discard, r)
	return Layer{DiffID: layer.DiffID, Blob: layer.Blob}, errors.Join(err, r.Close())
}

// Descriptor returns the compressed form of the layer if it is known: the layer's own Blob, or what
// Remember was told of this encoder.
func (l *Layers) Descriptor(layer Layer, e compress.Encoder) (v1.Descriptor, bool) {
	if layer.Blob != nil {
		return *layer.Blob, true
	}
	path, err := l.path(layer.DiffID, e)
	if err != nil {
		return v1.Descriptor{}, false
	}
	var d v1.Descriptor
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &d) != nil || d.Digest == (v1.Hash{}) {
		return v1.Descriptor{}, false // a damaged file is as good as none
	}
	return d, true
}

// Remember records what compressing the layer with e gave.
func (l *Layers) Remember(layer Layer, e compress.Encoder, d v1.Descriptor) error {
	path, err := l.path(layer.DiffID, e)
	if err == nil {
		err = os.MkdirAll(l.Dir, 0o700)
	}
	var b []byte
	if err == nil {
		b, err = json.Marshal(d)
	}
	if err == nil {
		err = replaceFile(path, b)
	}
	if err != nil {
		return fmt.Errorf("remembering the blob of layer %s: %w", layer.DiffID, err)
	}
	return nil
}

// path is the file of what compressing a layer gave. The version, with the level, is part of it: another encoder gives other bytes.
func (l *Layers) path(diffID v1.Hash, e compress.Encoder) (string, error) {
	if err := blob.CheckDigest(diffID); err != nil {
		return "", err
	}
	return filepath.Join(l.Dir, diffID.Hex+"."+url.QueryEscape(string(e.Algorithm)+" "+e.Version())), nil
}

// forget removes what Remember was told of a layer.
func (l *Layers) forget(diffID v1.Hash) error {
	files, err := fs.Glob(os.DirFS(l.Dir), diffID.Hex+".*")
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Remove(filepath.Join(l.Dir, f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// replaceFile writes a file by rename and does not sync it: who reads it can do without.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// Compressed streams the layer's compressed bytes: its own Blob if it has one (local, else fetched,
// and checked: a wrong digest is an error from Read), else the tar of its directory compressed with e.
func (l *Layers) Compressed(ctx context.Context, layer Layer, e compress.Encoder) (io.ReadCloser, error) {
	if layer.Blob != nil {
		return l.checked(ctx, layer)
	}
	if d, ok := l.Descriptor(layer, e); ok {
		if f, err := l.Blobs.Open(d.Digest); err == nil {
			return newSource(f, d), nil
		}
	}
	id, err := l.Snapshots.ByDiffID(layer.DiffID)
	if err != nil {
		return nil, err
	}
	if e.Algorithm == compress.None {
		return l.tar(ctx, id), nil
	}
	return stream(ctx, func(ctx context.Context, w io.Writer) error {
		c, err := e.NewWriter(w)
		if err != nil {
			return err
		}
		return errors.Join(l.Snapshots.WriteTar(ctx, id, c), c.Close())
	}), nil
}

// Uncompressed streams the layer's tar. One whose digest is not the diffID is an error from Read. The tar of a layer
// that was pulled comes from its blob, for only that has the original's bytes.
func (l *Layers) Uncompressed(ctx context.Context, layer Layer) (io.ReadCloser, error) {
	if layer.Blob == nil {
		id, err := l.Snapshots.ByDiffID(layer.DiffID)
		if err != nil {
			return nil, err
		}
		return l.tar(ctx, id), nil
	}
	src, err := l.checked(ctx, layer)
	if err != nil {
		return nil, err
	}
	u, err := newUnpacker(src)
	if err != nil {
		return nil, err
	}
	return newSource(u, v1.Descriptor{Digest: layer.DiffID, Size: -1}), nil
}

// checked opens the blob of a layer for reading by others. A copy here that turns out to be damaged is dropped if there is an
// origin, so that who tries again gets the origin's bytes.
func (l *Layers) checked(ctx context.Context, layer Layer) (*source, error) {
	src, err := l.source(ctx, layer, nil)
	if err != nil {
		return nil, err
	}
	src.autoKeep = true
	if layer.Origin != "" && l.Remote != nil {
		src.damaged = func() { _ = l.Blobs.Remove(layer.Blob.Digest) }
	}
	return src, nil
}

// tar streams the tar of an unpacked layer.
func (l *Layers) tar(ctx context.Context, id snapshot.ID) io.ReadCloser {
	return stream(ctx, func(ctx context.Context, w io.Writer) error { return l.Snapshots.WriteTar(ctx, id, w) })
}
