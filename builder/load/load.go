// Package load reads images from what other programs and strake itself wrote: archives of docker save, and OCI image layouts in tars and
// folders. It is what package export is in the other direction. Archives are hostile: their names are only looked up, every digest is checked.
package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/registry"
)

// Loader reads the images of one archive. What it adds to the stores of blobs and layers belongs to no image until whoever loads puts the
// image: when the whole archive turned out to be good.
type Loader struct {
	From   *Archive
	Images *image.Store
	Blobs  *blob.Store
	Layers *image.Layers    // for Load only
	Client *registry.Client // reads names
	// Platform is whose image is taken from an index.
	Platform v1.Platform
	// Progress returns the function that is told how many bytes of a layer are unpacked, of how many; nil for none.
	Progress func(diffID v1.Hash) func(done, total int64)

	others []string       // platforms that indexes have beside
	begun  []*image.Image // images that the store did not have
}

// Image is an image of an archive whose bytes are in the stores.
type Image struct {
	*image.Image
	Tags []name.Tag // what the archive calls it
}

// Load reads all images: by index.json of an OCI image layout, else by docker's manifest.json.
func (l *Loader) Load(ctx context.Context) ([]Image, error) {
	if l.From.has("index.json") {
		return l.loadLayout(ctx)
	}
	if l.From.has("manifest.json") {
		return l.loadDocker(ctx)
	}
	return nil, errors.New("it holds no image: neither index.json nor manifest.json")
}

// begin notes that the layers of an image, which are all listed in it, will be added.
func (l *Loader) begin(img *image.Image) error {
	_, err := l.Images.Get(img.ID)
	if errors.Is(err, image.ErrNotFound) {
		l.begun = append(l.begun, img)
		return nil
	}
	return err
}

// Begun are the images of which Load may have added something, and that were not here. After an error somebody may want to put and remove
// them, so that what was added goes.
func (l *Loader) Begun() []*image.Image { return l.begun }

// json reads a small file of the archive.
func (l *Loader) json(path string, v any) ([]byte, error) {
	raw, err := l.From.read(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return raw, nil
}

// verified reads a small blob of a layout and checks its digest.
func (l *Loader) verified(h v1.Hash, v any) ([]byte, error) {
	raw, err := l.json(blobPath(h), v)
	if err != nil {
		return nil, err
	}
	if got, _, err := v1.SHA256(strings.NewReader(string(raw))); err != nil || got != h {
		return nil, fmt.Errorf("%s has the digest %s", blobPath(h), got)
	}
	return raw, nil
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// put copies a blob into the store.
func (l *Loader) put(ctx context.Context, h v1.Hash) error {
	_, err := l.Blobs.Size(h)
	if err == nil {
		return nil
	}
	if !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	r, err := l.From.open(blobPath(h))
	if err != nil {
		return err
	}
	defer r.Close()
	return l.Blobs.Put(ctx, h, r)
}

// unpack unpacks the layers of an image, which checks their diffIDs.
func (l *Loader) unpack(ctx context.Context, img *image.Image) error {
	for _, layer := range img.Layers {
		if _, err := l.Layers.Snapshots.ByDiffID(layer.DiffID); err == nil {
			continue
		}
		var progress func(done, total int64)
		if l.Progress != nil {
			progress = l.Progress(layer.DiffID)
		}
		if _, err := l.Layers.Unpacked(ctx, layer, progress); err != nil {
			return err
		}
	}
	return nil
}
