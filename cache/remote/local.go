package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/flock"
)

// refName is the annotation of a manifest's name in a layout (OCI image specification, annotations.md).
const refName = "org.opencontainers.image.ref.name"

// Local is a cache in a folder, which is an OCI image layout with the manifest that Registry writes.
type Local struct {
	Dir string
	Tag string // the manifest's name in the layout
	// Digest is the manifest to read, whatever is called Tag; zero for Tag.
	Digest v1.Hash
	// Reset drops what this build does not use, and the blobs that no manifest of the folder needs.
	Reset bool
	Now   func() time.Time

	mu  sync.Mutex // guards own
	own []Entry    // committed in this build
}

// Name implements Backend.
func (l *Local) Name() string { return "cache " + l.Dir }

func (l *Local) blob(h v1.Hash) (string, error) {
	return filepath.Join(l.Dir, "blobs", h.Algorithm, h.Hex), blob.CheckDigest(h)
}

// Records implements Backend.
func (l *Local) Records(ctx context.Context, _ []cache.Key) ([]Entry, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	index, err := l.index()
	if err != nil {
		return nil, err
	}
	list, err := l.read(index)
	var out []Entry
	for _, h := range list {
		out = append(out, h.Entry)
	}
	return out, err
}

// index reads index.json.
func (l *Local) index() (v1.IndexManifest, error) {
	var index v1.IndexManifest
	raw, err := readFile(filepath.Join(l.Dir, "index.json"), MaxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return index, fmt.Errorf("%w: %s is not an OCI image layout: %w", ErrNotFound, l.Dir, err)
	}
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil {
		return index, fmt.Errorf("reading %s: %w", filepath.Join(l.Dir, "index.json"), err)
	}
	return index, nil
}

// read returns the entries of the manifest in the layout.
func (l *Local) read(index v1.IndexManifest) ([]Held, error) {
	want := l.Digest
	for _, m := range index.Manifests {
		if l.Digest == (v1.Hash{}) && m.Annotations[refName] == l.Tag {
			want = m.Digest
		}
	}
	if want == (v1.Hash{}) {
		return nil, fmt.Errorf("%w: %s has no cache %q", ErrNotFound, l.Dir, l.Tag)
	}
	raw, err := l.document(want)
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("reading manifest %s: %w", want, err)
	}
	config, err := l.document(m.Config.Digest)
	if err != nil {
		return nil, err
	}
	return decodeImage(config, m.Layers)
}

// document reads a blob whose digest must be right.
func (l *Local) document(h v1.Hash) ([]byte, error) {
	path, err := l.blob(h)
	if err != nil {
		return nil, err
	}
	raw, err := readFile(path, MaxDocument)
	if err != nil {
		return nil, err
	}
	if got, _, err := v1.SHA256(bytes.NewReader(raw)); err != nil || got != h {
		return nil, fmt.Errorf("%s is damaged", path)
	}
	return raw, nil
}

// readFile reads a regular file of at most so many bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return b, err
}

// openFile opens a regular file: a pipe would wait for ever.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		_ = f.Close()
		return nil, fmt.Errorf("%s is not a file", path)
	}
	return f, nil
}

// Open implements Backend.
func (l *Local) Open(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	path, err := l.blob(d.Digest)
	if err != nil {
		return nil, err
	}
	f, err := openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, ErrNotFound)
	}
	return f, err
}

// Put implements Backend. A blob appears complete or not at all.
func (l *Local) Put(ctx context.Context, d v1.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	path, err := l.blob(d.Digest)
	if err != nil {
		return err
	}
	if st, err := os.Lstat(path); err == nil && st.Size() == d.Size {
		return nil
	}
	r, err := open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	return l.write(path, func(w io.Writer) error {
		n, err := io.Copy(w, r)
		if err == nil && n != d.Size {
			err = fmt.Errorf("blob %s has %d bytes, not %d", d.Digest, n, d.Size)
		}
		return err
	})
}

// write makes a file by way of a temporary one beside it.
func (l *Local) write(path string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // an output folder, for others to read
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	err = f.Chmod(0o644)
	if err == nil {
		err = write(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// Commit implements Backend. index.json is replaced last, under a lock: builds that write at the same time keep each other's entries.
func (l *Local) Commit(ctx context.Context, entries []Entry, last bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own = append(l.own, entries...)
	if err := os.MkdirAll(l.Dir, 0o755); err != nil { //nolint:gosec // as above
		return err
	}
	unlock, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	index, err := l.index()
	if err != nil { // new, or not to be read: it is replaced
		index = v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	}
	have, err := l.read(index)
	if err != nil || l.Reset && last {
		have = nil
	}
	config, manifest, err := encodeImage(Merge(have, l.own, l.Now()))
	if err != nil {
		return err
	}
	desc := v1.Descriptor{MediaType: types.OCIManifestSchema1, Annotations: map[string]string{refName: l.Tag}}
	if desc.Digest, desc.Size, err = v1.SHA256(bytes.NewReader(manifest)); err != nil {
		return err
	}
	manifests := []v1.Descriptor{desc}
	for _, m := range index.Manifests {
		if m.Annotations[refName] != l.Tag {
			manifests = append(manifests, m)
		}
	}
	index.Manifests = manifests
	if err := l.store(ctx, config, manifest, index); err != nil {
		return fmt.Errorf("writing %s: %w", l.Dir, err)
	}
	if l.Reset && last {
		return l.sweep(index)
	}
	return nil
}

// store writes the files of a layout, index.json last.
func (l *Local) store(ctx context.Context, config, manifest []byte, index v1.IndexManifest) error {
	for _, raw := range [][]byte{config, manifest} {
		digest, size, err := v1.SHA256(bytes.NewReader(raw))
		if err != nil {
			return err
		}
		open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
		if err := l.Put(ctx, v1.Descriptor{Digest: digest, Size: size}, open); err != nil {
			return err
		}
	}
	raw, err := marshal(index)
	if err != nil {
		return err
	}
	files := []struct {
		name string
		data []byte
	}{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", raw}}
	for _, f := range files {
		err := l.write(filepath.Join(l.Dir, f.name), func(w io.Writer) error {
			_, err := w.Write(f.data)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lock keeps other builds from the folder.
func (l *Local) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(l.Dir, ".strake-lock"), os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // a folder that others read
	if err != nil {
		return nil, err
	}
	if err := flock.Wait(ctx, f, flock.Alone); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", l.Dir, err)
	}
	return func() { _ = f.Close() }, nil
}

// sweep removes the blobs that no manifest of index names. A folder with something else in it is left alone.
func (l *Local) sweep(index v1.IndexManifest) error {
	keep := map[string]bool{}
	for _, d := range index.Manifests {
		raw, err := l.document(d.Digest)
		if err != nil {
			return err
		}
		var m v1.Manifest
		if err := json.Unmarshal(raw, &m); err != nil || !d.MediaType.IsImage() {
			return nil //nolint:nilerr // not ours: what it needs is not known
		}
		keep[d.Digest.Hex], keep[m.Config.Digest.Hex] = true, true
		for _, layer := range m.Layers {
			keep[layer.Digest.Hex] = true
		}
	}
	dir := filepath.Join(l.Dir, "blobs", "sha256")
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := v1.NewHash("sha256:" + n.Name()); err == nil && !keep[n.Name()] {
			if err := os.Remove(filepath.Join(dir, n.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
