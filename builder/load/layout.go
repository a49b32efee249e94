package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/layer/image"
)

// maxIndexDepth bounds how deep indexes of an archive refer to others.
const maxIndexDepth = 4

// loadLayout reads an OCI image layout (OCI image specification, image-layout.md).
func (l *Loader) loadLayout(ctx context.Context) ([]Image, error) {
	var index v1.IndexManifest
	if _, err := l.json("index.json", &index); err != nil {
		return nil, err
	}
	var loaded []Image
	byID := make(map[v1.Hash]int)
	for _, d := range index.Manifests {
		manifest, err := l.choose(d, 0)
		if err != nil {
			return nil, err
		}
		if manifest == nil {
			continue
		}
		img, err := l.loadManifest(ctx, *manifest)
		if err != nil {
			return nil, err
		}
		i, ok := byID[img.ID]
		if !ok {
			i = len(loaded)
			byID[img.ID] = i
			loaded = append(loaded, Image{Image: img})
		}
		if tag, ok := l.layoutName(d); ok {
			loaded[i].Tags = append(loaded[i].Tags, tag)
		}
	}
	if len(loaded) == 0 {
		return nil, l.noImage()
	}
	return loaded, nil
}

// layoutName is what an entry of index.json is called: containerd's whole name, or a ref.name that
// is more than a tag.
func (l *Loader) layoutName(d v1.Descriptor) (name.Tag, bool) {
	s := d.Annotations["io.containerd.image.name"]
	if s == "" {
		s = d.Annotations["org.opencontainers.image.ref.name"]
		if !strings.ContainsAny(s, ":/") {
			return name.Tag{}, false
		}
	}
	ref, err := l.Client.ParseReference(s)
	if err != nil {
		return name.Tag{}, false
	}
	tag, ok := ref.(name.Tag)
	return tag, ok
}

// serves says whether an image for p is what is wanted.
func (l *Loader) serves(p v1.Platform) bool {
	return p.OS == l.Platform.OS && p.Architecture == l.Platform.Architecture &&
		(p.Variant == l.Platform.Variant || p.Variant == "" || l.Platform.Variant == "")
}

// choose follows an index to the manifest for the platform. It is nil for what is no image.
func (l *Loader) choose(d v1.Descriptor, depth int) (*v1.Descriptor, error) {
	switch {
	case d.Annotations["vnd.docker.reference.type"] != "":
		return nil, nil // an attestation
	case d.MediaType.IsImage(), d.MediaType == "":
		return &d, nil
	case !d.MediaType.IsIndex():
		return nil, nil
	case depth == maxIndexDepth:
		return nil, errors.New("its indexes are nested too deep")
	}
	var index v1.IndexManifest
	if _, err := l.verified(d.Digest, &index); err != nil {
		return nil, err
	}
	for _, m := range index.Manifests {
		if m.Platform != nil && !l.serves(*m.Platform) {
			if name := m.Platform.String(); m.Platform.OS != "unknown" && !slices.Contains(l.others, name) {
				l.others = append(l.others, name)
			}
			continue
		}
		if chosen, err := l.choose(m, depth+1); chosen != nil || err != nil {
			return chosen, err
		}
	}
	return nil, nil
}

// noImage is the error of an index that has nothing for the platform.
func (l *Loader) noImage() error {
	if len(l.others) == 0 {
		return fmt.Errorf("it has no image for %s", &l.Platform)
	}
	return fmt.Errorf("it has no image for %s, only for %s: choose with --platform", &l.Platform, strings.Join(l.others, ", "))
}

// loadManifest copies the blobs of a manifest and unpacks its layers.
func (l *Loader) loadManifest(ctx context.Context, d v1.Descriptor) (*image.Image, error) {
	img, err := l.copyManifest(ctx, d)
	if err != nil {
		return nil, err
	}
	if err := l.unpack(ctx, img); err != nil {
		return nil, err
	}
	return img, l.put(ctx, d.Digest)
}

// copyManifest copies the blobs of a manifest, each checked by its digest, but not the manifest itself.
func (l *Loader) copyManifest(ctx context.Context, d v1.Descriptor) (*image.Image, error) {
	var m v1.Manifest
	if _, err := l.verified(d.Digest, &m); err != nil {
		return nil, err
	}
	img := &image.Image{ID: m.Config.Digest, Manifest: d.Digest}
	var err error
	if img.RawConfig, err = l.verified(m.Config.Digest, &img.Config); err != nil {
		return nil, err
	}
	if len(m.Layers) != len(img.Config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("the manifest %s has %d layers and its configuration %d", d.Digest, len(m.Layers), len(img.Config.RootFS.DiffIDs))
	}
	for i := range m.Layers {
		img.Layers = append(img.Layers, image.Layer{DiffID: img.Config.RootFS.DiffIDs[i], Blob: &m.Layers[i]})
	}
	if err := l.begin(img); err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		if err := l.put(ctx, d.Digest); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// LoadOne reads the image of an OCI image layout that is meant by a digest, by a tag, or by neither: then the tag is "latest", or there is
// only one. Its blobs are copied to the store, and its layers are not unpacked.
func (l *Loader) LoadOne(ctx context.Context, tag string, digest v1.Hash) (*image.Image, error) {
	d, err := l.layoutEntry(tag, digest)
	if err != nil {
		return nil, err
	}
	chosen, err := l.choose(d, 0)
	if err == nil && chosen == nil {
		err = l.noImage()
	}
	if err != nil {
		return nil, err
	}
	img, err := l.copyManifest(ctx, *chosen)
	if err != nil {
		return nil, err
	}
	return img, l.put(ctx, chosen.Digest)
}

// layoutEntry finds what is meant in a layout: by digest, by tag, or the tag "latest", or the only one there is.
func (l *Loader) layoutEntry(tag string, digest v1.Hash) (v1.Descriptor, error) {
	var index v1.IndexManifest
	if _, err := l.json("index.json", &index); err != nil {
		return v1.Descriptor{}, err
	}
	if digest != (v1.Hash{}) {
		for _, d := range index.Manifests {
			if d.Digest == digest {
				return d, nil
			}
		}
		return l.layoutBlob(digest)
	}
	want := tag
	if want == "" {
		want = "latest"
	}
	for _, d := range index.Manifests {
		if d.Annotations["org.opencontainers.image.ref.name"] == want {
			return d, nil
		}
	}
	if tag == "" && len(index.Manifests) == 1 {
		return index.Manifests[0], nil
	}
	return v1.Descriptor{}, fmt.Errorf("it has no image with the tag %q", want)
}

// layoutBlob describes a manifest or an index that index.json does not name.
func (l *Loader) layoutBlob(digest v1.Hash) (v1.Descriptor, error) {
	var head struct {
		MediaType types.MediaType   `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	raw, err := l.verified(digest, &head)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if head.MediaType == "" { // optional in OCI's
		head.MediaType = types.OCIManifestSchema1
		if head.Manifests != nil {
			head.MediaType = types.OCIImageIndex
		}
	}
	return v1.Descriptor{MediaType: head.MediaType, Digest: digest, Size: int64(len(raw))}, nil
}
