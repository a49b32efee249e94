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
	"io/fs"
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
	add(name string, r sized) error
}

// sized is content of a known size, in bytes.
type sized interface {
	io.Reader
	Size() int64
}

// LayoutTar writes artifacts as an OCI image layout in a tar. The result is that of the last one.
func (e *Exporter) LayoutTar(ctx context.Context, w io.Writer, artifacts []Artifact, o Options) (Result, error) {
	tw := tar.NewWriter(w)
	res, err := e.layout(ctx, tarFiles{tw, map[string]bool{}}, artifacts, o)
	if err != nil {
		return Result{}, err
	}
	if err := tw.Close(); err != nil {
		return Result{}, fmt.Errorf("writing the image: %w", err)
	}
	return res, nil
}

// LayoutFolder writes artifacts as an OCI image layout into a folder, which is made if it is missing; an
// index.json that is there is replaced last, so an older layout stays readable until then.
func (e *Exporter) LayoutFolder(ctx context.Context, dir string, artifacts []Artifact, o Options) (Result, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil { //nolint:gosec // an output folder, for others to read
		return Result{}, fmt.Errorf("writing the image: %w", err)
	}
	return e.layout(ctx, dirFiles(dir), artifacts, o)
}

// layout writes the files of an OCI layout, and with Options.Archive the one that docker load reads.
func (e *Exporter) layout(ctx context.Context, out files, artifacts []Artifact, o Options) (Result, error) {
	for _, a := range artifacts {
		if err := o.check(a); err != nil {
			return Result{}, err
		}
	}
	if err := out.add("oci-layout", strings.NewReader(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return Result{}, fmt.Errorf("writing the image: %w", err)
	}
	manifests := make([][]manifest, len(artifacts))
	archive := []dockerEntry{}
	err := eachImage(ctx, artifacts, func(a int, img *image.Image) error {
		m, layers, err := e.layoutImage(ctx, out, img, o)
		manifests[a] = append(manifests[a], m)
		archive = append(archive, newDockerEntry(img, layers, artifacts[a].Names))
		return err
	})
	if err != nil {
		return Result{}, err
	}
	top := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	var last v1.Descriptor
	for i, a := range artifacts {
		d, index, err := o.top(a, manifests[i])
		if err == nil && index != nil {
			err = out.add(blobName(index.digest), bytes.NewReader(index.raw))
		}
		if err != nil {
			return Result{}, fmt.Errorf("writing the image: %w", err)
		}
		last = d
		top.Manifests = append(top.Manifests, entries(d, a.Names)...)
	}
	if o.Archive {
		err = addJSON(out, "manifest.json", archive)
	}
	if err == nil {
		err = addJSON(out, "index.json", top)
	}
	if err != nil {
		return Result{}, fmt.Errorf("writing the image: %w", err)
	}
	return Result{Descriptor: last}, nil
}

// layoutImage adds the blobs of one image.
func (e *Exporter) layoutImage(ctx context.Context, out files, img *image.Image, o Options) (manifest, []v1.Descriptor, error) {
	blobs, err := e.compressed(ctx, img, o)
	defer func() {
		for _, b := range blobs {
			if b.file != nil {
				_ = b.file.Close()
			}
		}
	}()
	if err != nil {
		return manifest{}, nil, err
	}
	layers := make([]v1.Descriptor, len(blobs))
	for i, b := range blobs {
		layers[i] = b.desc
	}
	m, err := e.manifest(img, layers, o)
	if err != nil {
		return manifest{}, nil, err
	}
	for _, b := range blobs {
		if err == nil {
			err = out.add(blobName(b.desc.Digest), io.NewSectionReader(b.file, 0, b.desc.Size))
		}
	}
	if err == nil {
		err = out.add(blobName(img.ID), bytes.NewReader(img.RawConfig))
	}
	if err == nil {
		err = out.add(blobName(m.digest), bytes.NewReader(m.raw))
	}
	if err != nil {
		return manifest{}, nil, fmt.Errorf("writing the image: %w", err)
	}
	return m, layers, nil
}

func addJSON(out files, name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return out.add(name, bytes.NewReader(raw))
}

func blobName(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// entries are an artifact's entries in index.json of a layout (OCI image specification, image-layout.md): one for each name.
func entries(d v1.Descriptor, names []name.Tag) []v1.Descriptor {
	if len(names) == 0 {
		return []v1.Descriptor{d}
	}
	list := make([]v1.Descriptor, len(names))
	for i, n := range names {
		list[i] = d
		list[i].Annotations = named(d.Annotations, n)
	}
	return list
}

// dockerEntry is an image in manifest.json of docker save's format.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func newDockerEntry(img *image.Image, layers []v1.Descriptor, names []name.Tag) dockerEntry {
	entry := dockerEntry{Config: blobName(img.ID), Layers: []string{}}
	for _, n := range names {
		entry.RepoTags = append(entry.RepoTags, familiar(n))
	}
	for _, l := range layers {
		entry.Layers = append(entry.Layers, blobName(l.Digest))
	}
	return entry
}

// compressedBlob is a compressed layer in a file without a name.
type compressedBlob struct {
	desc v1.Descriptor
	file *os.File
}

// compressed compresses or fetches every layer, two at a time: each alone uses all cores while it is compressed. The files
// must be closed, also after an error.
func (e *Exporter) compressed(ctx context.Context, img *image.Image, o Options) ([]compressedBlob, error) {
	blobs := make([]compressedBlob, len(img.Layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i, l := range img.Layers {
		g.Go(func() (err error) {
			blobs[i], err = e.compress(ctx, e.form(l, o), o.encoder())
			return err
		})
	}
	return blobs, g.Wait()
}

// compress returns the compressed form of a layer: the one that is known and here, or a new one in a file without a name.
func (e *Exporter) compress(ctx context.Context, l formed, with compress.Encoder) (b compressedBlob, err error) {
	known, ok := e.Layers.Descriptor(l.Layer, with)
	if ok {
		if f, err := e.Blobs.Open(known.Digest); err == nil {
			return compressedBlob{known, f}, nil
		}
	}
	mediaType, err := image.MediaType(with.Algorithm)
	if err != nil {
		return b, err
	}
	fd, err := unix.Open(e.Temp, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return b, fmt.Errorf("making a temporary file in %s: %w", e.Temp, err)
	}
	b.file = os.NewFile(uintptr(fd), "compressed layer")
	r, err := e.open(ctx, l, with)
	if err != nil {
		return b, err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(b.file, h), r)
	if err := errors.Join(err, r.Close()); err != nil {
		return b, fmt.Errorf("compressing layer %s: %w", l.DiffID, err)
	}
	b.desc = v1.Descriptor{MediaType: mediaType, Size: n, Digest: v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", h.Sum(nil))}}
	if l.Blob != nil {
		b.desc = *l.Blob
		return b, nil
	}
	return b, e.Layers.Remember(l.Layer, with, b.desc)
}

// tarFiles is a layout in a tar. Times are zero: the same image gives the same tar.
type tarFiles struct {
	w    *tar.Writer
	seen map[string]bool
}

func (t tarFiles) add(name string, r sized) error {
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
	if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: r.Size(), Mode: 0o644}); err != nil {
		return err
	}
	_, err := io.Copy(t.w, r)
	return err
}

// dirFiles is a layout in a folder.
type dirFiles string

func (d dirFiles) add(name string, r sized) error {
	path := filepath.Join(string(d), name)
	if st, err := os.Lstat(path); err == nil && filepath.Dir(name) != "." && st.Size() == r.Size() {
		return nil // a blob: its name says what it holds
	}
	return replaceFile(path, func(w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// WriteFile writes a file that a person has named. It appears complete or not at all, unless there is a device, a pipe or the like, or the name is one of
// the kernel's: /dev/null and /dev/stdout are written to, for everybody else wants to find them there too.
func WriteFile(path string, write func(io.Writer) error) error {
	st, err := os.Stat(path)
	kernels := strings.HasPrefix(path, "/dev/") || strings.HasPrefix(path, "/proc/")
	if err == nil && st.IsDir() {
		return &fs.PathError{Op: "writing", Path: path, Err: unix.EISDIR}
	}
	if err != nil || st.Mode().IsRegular() && !kernels {
		return replaceFile(path, write)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return errors.Join(write(f), f.Close())
}

// replaceFile writes a file by way of a temporary one beside it.
func replaceFile(path string, write func(io.Writer) error) error {
	// Errors name the file that was asked for.
	failed := func(err error) error { return &fs.PathError{Op: "writing", Path: path, Err: errors.Unwrap(err)} }
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return failed(err)
	}
	err = tmp.Chmod(0o644)
	if err == nil {
		err = write(tmp)
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		if err = os.Rename(tmp.Name(), path); err != nil {
			err = failed(err)
		}
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// canonical is a name with its host, which for Docker Hub is docker.io.
func canonical(n name.Tag) string {
	if rest, ok := strings.CutPrefix(n.Name(), name.DefaultRegistry+"/"); ok {
		return "docker.io/" + rest
	}
	return n.Name()
}

// familiar is a name as docker's users write it: without Docker Hub's host and "library/".
func familiar(n name.Tag) string {
	repo := n.Context()
	if repo.RegistryStr() == name.DefaultRegistry {
		return strings.TrimPrefix(repo.RepositoryStr(), "library/") + ":" + n.TagStr()
	}
	return n.Name()
}
