package export

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// Result says what was written.
type Result struct {
	Descriptor v1.Descriptor // of the manifest; zero for plain files
}

// files receives the files of a layout.
type files interface {
	add(name string, size int64, r io.Reader) error
}

// Layout says how an image is written as an OCI image layout.
type Layout struct {
	Names  []name.Tag         // what the image is called inside it
	Codec  compress.Algorithm // for layers that were never compressed
	Docker bool               // add what docker load reads
}

// LayoutTar writes img as an OCI image layout in a tar.
func (e *Exporter) LayoutTar(ctx context.Context, w io.Writer, img *image.Image, l Layout) (Result, error) {
	tw := tar.NewWriter(w)
	res, err := e.layout(ctx, tarFiles{tw, map[string]bool{}}, img, l)
	if err != nil {
		return Result{}, err
	}
	if err := tw.Close(); err != nil {
		return Result{}, fmt.Errorf("writing the image: %w", err)
	}
	return res, nil
}

// LayoutFolder writes img as an OCI image layout into a folder, which is made if it is missing; an
// index.json that is there is replaced last, so an older layout stays readable until then.
func (e *Exporter) LayoutFolder(ctx context.Context, dir string, img *image.Image, l Layout) (Result, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil { //nolint:gosec // an output folder, for others to read
		return Result{}, fmt.Errorf("writing the image: %w", err)
	}
	return e.layout(ctx, dirFiles(dir), img, l)
}

func (e *Exporter) layout(ctx context.Context, out files, img *image.Image, l Layout) (Result, error) {
	blobs, err := e.compressed(ctx, img, l.Codec)
	defer func() {
		for _, b := range blobs {
			if b.file != nil {
				_ = b.file.Close()
			}
		}
	}()
	if err != nil {
		return Result{}, err
	}
	layers := make([]v1.Descriptor, len(blobs))
	for i, b := range blobs {
		layers[i] = b.desc
	}
	m, err := e.manifestFor(img, layers)
	if err != nil {
		return Result{}, err
	}
	add := func(name string, b []byte) {
		if err == nil {
			err = out.add(name, int64(len(b)), bytes.NewReader(b))
		}
	}
	add("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	for _, b := range blobs {
		if err == nil {
			err = out.add(blobName(b.desc.Digest), b.desc.Size, io.NewSectionReader(b.file, 0, b.desc.Size))
		}
	}
	add(blobName(img.ID), img.RawConfig)
	add(blobName(m.digest), m.raw)
	if l.Docker {
		add("manifest.json", dockerManifest(img, layers, l.Names))
	}
	add("index.json", index(m.descriptor(img), l.Names))
	if err != nil {
		return Result{}, fmt.Errorf("writing the image: %w", err)
	}
	return Result{Descriptor: m.descriptor(img)}, nil
}

func blobName(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// index is index.json of a layout (OCI image specification, image-layout.md): an entry for each name.
func index(d v1.Descriptor, names []name.Tag) []byte {
	idx := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	for _, n := range names {
		named := d
		named.Annotations = map[string]string{
			"io.containerd.image.name":          n.Name(),
			"org.opencontainers.image.ref.name": n.TagStr(),
		}
		idx.Manifests = append(idx.Manifests, named)
	}
	if len(names) == 0 {
		idx.Manifests = append(idx.Manifests, d)
	}
	raw, _ := json.Marshal(idx) //nolint:errchkjson // plain data: it cannot fail
	return raw
}

// dockerManifest is manifest.json of docker save's format.
func dockerManifest(img *image.Image, layers []v1.Descriptor, names []name.Tag) []byte {
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blobName(img.ID), Layers: []string{}}
	for _, n := range names {
		entry.RepoTags = append(entry.RepoTags, familiar(n))
	}
	for _, l := range layers {
		entry.Layers = append(entry.Layers, blobName(l.Digest))
	}
	raw, _ := json.Marshal([]any{entry}) //nolint:errchkjson // plain data: it cannot fail
	return raw
}

// compressedBlob is a compressed layer in a file without a name.
type compressedBlob struct {
	desc v1.Descriptor
	file *os.File
}

// compressed compresses or fetches every layer, two at a time: each alone uses all cores while it is compressed. The files
// must be closed, also after an error.
func (e *Exporter) compressed(ctx context.Context, img *image.Image, codec compress.Algorithm) ([]compressedBlob, error) {
	blobs := make([]compressedBlob, len(img.Layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i, l := range img.Layers {
		g.Go(func() (err error) {
			blobs[i], err = e.compress(ctx, l, codec)
			return err
		})
	}
	return blobs, g.Wait()
}

func (e *Exporter) compress(ctx context.Context, l image.Layer, codec compress.Algorithm) (b compressedBlob, err error) {
	known, ok := e.Layers.Descriptor(l, codec)
	if ok {
		if f, err := e.Blobs.Open(known.Digest); err == nil {
			return compressedBlob{known, f}, nil
		}
	}
	fd, err := unix.Open(e.Temp, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return b, fmt.Errorf("making a temporary file in %s: %w", e.Temp, err)
	}
	b.file = os.NewFile(uintptr(fd), "compressed layer")
	r, err := e.Layers.Compressed(ctx, l, codec)
	if err != nil {
		return b, err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(b.file, h), r)
	if err := errors.Join(err, r.Close()); err != nil {
		return b, fmt.Errorf("compressing layer %s: %w", l.DiffID, err)
	}
	b.desc = v1.Descriptor{MediaType: mediaType(codec), Size: n, Digest: v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", h.Sum(nil))}}
	if l.Blob != nil {
		b.desc = *l.Blob
		return b, nil
	}
	return b, e.Layers.Remember(l, codec, b.desc)
}

// tarFiles is a layout in a tar. Times are zero: the same image gives the same tar.
type tarFiles struct {
	w    *tar.Writer
	seen map[string]bool
}

func (t tarFiles) add(name string, size int64, r io.Reader) error {
	if t.seen[name] {
		return nil // two layers with the same content are one blob
	}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if !t.seen[dir] && len(name) > len(dir) && name[:len(dir)] == dir {
			t.seen[dir] = true
			if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
				return err
			}
		}
	}
	t.seen[name] = true
	if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}); err != nil {
		return err
	}
	_, err := io.Copy(t.w, r)
	return err
}

// dirFiles is a layout in a folder.
type dirFiles string

func (d dirFiles) add(name string, size int64, r io.Reader) error {
	path := filepath.Join(string(d), name)
	if st, err := os.Lstat(path); err == nil && filepath.Dir(name) != "." && st.Size() == size {
		return nil // a blob: its name says what it holds
	}
	return WriteFile(path, func(w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// WriteFile writes a file by way of a temporary one beside it: it appears complete or not at all.
func WriteFile(path string, write func(io.Writer) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = tmp.Chmod(0o644)
	if err == nil {
		err = write(tmp)
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// familiar is a name as docker's users write it: without Docker Hub's host and "library/".
func familiar(n name.Tag) string {
	repo := n.Context()
	if repo.RegistryStr() == name.DefaultRegistry {
		return strings.TrimPrefix(repo.RepositoryStr(), "library/") + ":" + n.TagStr()
	}
	return n.Name()
}
