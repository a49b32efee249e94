package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/registry"
)

// Puller is a Resolver: it finds images in the local store, and else asks their registry and keeps
// what it answers (manifest and configuration, no layers).
type Puller struct {
	Images *image.Store
	Blobs  *blob.Store
	Client *registry.Client
	Always bool // ask the registry first: --pull
	// Named, if not nil, is told of a name that means img now, and before (nil: nothing) until now.
	Named func(ref name.Reference, img, before *image.Image)
}

// PlatformError says that an image here is for another platform, and that the registry, where it came from, could not be asked for
// the one that is wanted.
type PlatformError struct {
	Image *image.Image
	Want  v1.Platform
	Err   error // why not
}

func (e *PlatformError) Error() string {
	return fmt.Sprintf("the image here is for %s and not for %s: %v", e.Image.Config.Platform(), &e.Want, e.Err)
}

func (e *PlatformError) Unwrap() error { return e.Err }

// Resolve returns the image that ref means for a platform. Where that is no index but a single image, or one that was built or loaded here, it
// may be for another platform: a lint rule says so. A *PlatformError says that there might be another.
func (p *Puller) Resolve(ctx context.Context, ref string, platform v1.Platform) (*image.Image, error) {
	r, err := p.Client.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("invalid image name %q: %w", ref, err)
	}
	local, err := p.Images.Resolve(r)
	if err != nil && !errors.Is(err, image.ErrNotFound) {
		return nil, err
	}
	if local == nil || matches(local, platform) {
		if local != nil && !p.Always {
			return local, nil
		}
		return p.pull(ctx, r, platform, local)
	}
	img, err := p.pull(ctx, r, platform, local)
	switch {
	case err == nil:
		return img, nil
	case !p.Always && ctx.Err() == nil && !pulled(local):
		return local, nil
	}
	return nil, &PlatformError{local, platform, err}
}

// pulled says whether an image came from a registry as it is.
func pulled(img *image.Image) bool {
	return img.Manifest != (v1.Hash{}) && !slices.ContainsFunc(img.Layers, func(l image.Layer) bool { return l.Origin == "" })
}

// pull asks the registry; local is what the store has under that name, if anything.
func (p *Puller) pull(ctx context.Context, ref name.Reference, platform v1.Platform, local *image.Image) (*image.Image, error) {
	m, err := p.Client.Resolve(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	if local != nil && local.Manifest == m.Digest {
		return local, nil
	}
	if len(m.Manifest.Layers) != len(m.Config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("%s: the manifest has %d layers and the configuration %d", ref, len(m.Manifest.Layers), len(m.Config.RootFS.DiffIDs))
	}
	img := &image.Image{ID: m.Manifest.Config.Digest, Manifest: m.Digest, RawConfig: m.RawConfig, Config: m.Config}
	for i := range m.Manifest.Layers {
		img.Layers = append(img.Layers, image.Layer{DiffID: m.Config.RootFS.DiffIDs[i], Blob: &m.Manifest.Layers[i], Origin: ref.Context().Name()})
	}
	if _, err := p.Blobs.PutBytes(m.Raw); err != nil {
		return nil, err
	}
	if err := p.Images.Put(img); err != nil {
		return nil, err
	}
	if err := p.Images.Tag(ref, img.ID); err != nil {
		return nil, err
	}
	if p.Named != nil {
		p.Named(ref, img, local)
	}
	return img, nil
}

// matches says whether an image serves for a platform: its variant matters only where both name one.
func matches(img *image.Image, p v1.Platform) bool {
	c := img.Config
	return (c.OS == p.OS || c.OS == "") && (c.Architecture == p.Architecture || c.Architecture == "") &&
		(c.Variant == p.Variant || c.Variant == "" || p.Variant == "")
}
