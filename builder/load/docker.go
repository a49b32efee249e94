package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// dockerEntry is an image in the manifest.json of docker save.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// loadDocker reads an archive of docker save.
func (l *Loader) loadDocker(ctx context.Context) ([]Image, error) {
	var entries []dockerEntry
	if _, err := l.json("manifest.json", &entries); err != nil {
		return nil, err
	}
	var loaded []Image
	for _, e := range entries {
		img, err := l.loadEntry(ctx, e)
		if err != nil {
			return nil, err
		}
		next := Image{Image: img}
		for _, t := range e.RepoTags {
			ref, err := l.Client.ParseReference(t)
			if err != nil {
				return nil, fmt.Errorf("the image name in manifest.json: %w", err)
			}
			tag, ok := ref.(name.Tag)
			if !ok {
				return nil, fmt.Errorf("the image name %q in manifest.json has a digest", t)
			}
			next.Tags = append(next.Tags, tag)
		}
		loaded = append(loaded, next)
	}
	if len(loaded) == 0 {
		return nil, errors.New("it holds no image: manifest.json is empty")
	}
	return loaded, nil
}

// loadEntry stores one image of the archive, without its names.
func (l *Loader) loadEntry(ctx context.Context, e dockerEntry) (*image.Image, error) {
	img := &image.Image{}
	var err error
	if img.RawConfig, err = l.From.read(e.Config); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(img.RawConfig, &img.Config); err != nil {
		return nil, fmt.Errorf("%s: %w", e.Config, err)
	}
	if img.ID, _, err = v1.SHA256(bytes.NewReader(img.RawConfig)); err != nil {
		return nil, err
	}
	if len(e.Layers) != len(img.Config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("manifest.json lists %d layers and %s %d", len(e.Layers), e.Config, len(img.Config.RootFS.DiffIDs))
	}
	for _, diffID := range img.Config.RootFS.DiffIDs {
		img.Layers = append(img.Layers, image.Layer{DiffID: diffID})
	}
	if err := l.begin(img); err != nil {
		return nil, err
	}
	for i, path := range e.Layers {
		if err := l.loadLayer(ctx, path, &img.Layers[i]); err != nil {
			return nil, fmt.Errorf("layer %s: %w", path, err)
		}
	}
	return img, nil
}

// loadLayer unpacks a layer of a docker archive. One in a format that has a media type is kept also as the blob that it is: another program
// made its tar, which strake's own need not equal.
func (l *Loader) loadLayer(ctx context.Context, path string, layer *image.Layer) error {
	codec, err := l.codec(path)
	if err != nil {
		return err
	}
	if mediaType, err := image.MediaType(codec); err == nil {
		if layer.Blob, err = l.keepBlob(path, mediaType); err != nil {
			return err
		}
		return l.unpack(ctx, &image.Image{Layers: []image.Layer{*layer}})
	}
	_, err = l.Layers.Snapshots.Unpack(ctx, layer.DiffID, func() (io.ReadCloser, error) {
		r, err := l.From.open(path)
		if err != nil {
			return nil, err
		}
		plain, _, err := compress.NewReader(r)
		if err != nil {
			r.Close()
			return nil, err
		}
		return &chainedCloser{plain, r}, nil
	})
	return err
}

// codec finds out how a file is compressed.
func (l *Loader) codec(path string) (compress.Algorithm, error) {
	r, err := l.From.open(path)
	if err != nil {
		return "", err
	}
	defer r.Close()
	head, err := bufio.NewReader(r).Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return compress.Detect(head), nil
}

// keepBlob copies a file whose digest nobody told into the store.
func (l *Loader) keepBlob(path string, mediaType types.MediaType) (*v1.Descriptor, error) {
	r, err := l.From.open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	h, size, err := v1.SHA256(r)
	if err != nil {
		return nil, err
	}
	if _, err := l.Blobs.Size(h); errors.Is(err, blob.ErrNotFound) {
		again, err := l.From.open(path)
		if err != nil {
			return nil, err
		}
		defer again.Close()
		w, err := l.Blobs.Create()
		if err != nil {
			return nil, err
		}
		defer w.Discard()
		if _, err := io.Copy(w, again); err != nil {
			return nil, err
		}
		if _, _, err := w.Commit(h); err != nil {
			return nil, err
		}
	}
	return &v1.Descriptor{MediaType: mediaType, Digest: h, Size: size}, nil
}

// chainedCloser closes a reader and the one below it.
type chainedCloser struct {
	io.ReadCloser
	below io.Closer
}

// Close closes the reader and what it reads from.
func (c *chainedCloser) Close() error { return errors.Join(c.ReadCloser.Close(), c.below.Close()) }
