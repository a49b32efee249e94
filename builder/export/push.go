package export

import (
	"bytes"
	"context"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/registry"
)

// Pushes is how many layers are sent at once.
const pushes = 4

// Push sends a to the registry under ref: layers the registry lacks, several at once, then the configuration, and
// the manifest last, and after all images their index. Layers that were never compressed are compressed on their way. progress is called with the bytes of each
// layer that are done; it may be nil. The names of a are not looked at.
func (e *Exporter) Push(ctx context.Context, a Artifact, ref name.Reference, o Options, progress func(layer v1.Hash, current int64)) (Result, error) {
	if err := o.check(a); err != nil {
		return Result{}, err
	}
	manifests := make([]manifest, len(a.Images))
	for i, img := range a.Images {
		var err error
		if manifests[i], err = e.pushImage(ctx, img, ref.Context(), o, progress); err != nil {
			return Result{}, err
		}
		if a.Index {
			if err := e.Client.PushManifest(ctx, ref.Context().Digest(manifests[i].digest.String()), manifests[i].raw, manifests[i].mediaType); err != nil {
				return Result{}, err
			}
		}
	}
	top, index, err := o.top(a, manifests)
	if err != nil {
		return Result{}, err
	}
	if index == nil {
		index = &manifests[0]
	}
	if o.ByDigest {
		ref = ref.Context().Digest(index.digest.String())
	}
	if err := e.Client.PushManifest(ctx, ref, index.raw, index.mediaType); err != nil {
		return Result{}, err
	}
	return Result{Descriptor: top}, nil
}

// pushImage sends the layers and the configuration of an image, and returns its manifest.
func (e *Exporter) pushImage(ctx context.Context, img *image.Image, repo name.Repository, o Options, progress func(v1.Hash, int64)) (manifest, error) {
	layers := make([]v1.Descriptor, len(img.Layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(pushes)
	for i, l := range img.Layers {
		g.Go(func() (err error) {
			layers[i], err = e.pushLayer(gctx, repo, e.form(l, o), o.encoder(), progress)
			return err
		})
	}
	g.Go(func() error {
		known := v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: img.ID, Size: int64(len(img.RawConfig))}
		_, err := e.Client.PushBlob(gctx, repo, registry.Upload{
			Known: &known, MediaType: known.MediaType,
			Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(img.RawConfig)), nil },
		})
		return err
	})
	if err := g.Wait(); err != nil {
		return manifest{}, err // the client's errors name the repository
	}
	return e.manifest(img, layers, o)
}

func (e *Exporter) pushLayer(ctx context.Context, repo name.Repository, l formed, with compress.Encoder, progress func(v1.Hash, int64)) (v1.Descriptor, error) {
	mediaType, err := image.MediaType(with.Algorithm)
	if err != nil {
		return v1.Descriptor{}, err
	}
	u := registry.Upload{
		MediaType: mediaType,
		Open:      func(ctx context.Context) (io.ReadCloser, error) { return e.open(ctx, l, with) },
	}
	if progress != nil {
		u.Progress = func(current int64) { progress(l.DiffID, current) }
	}
	if known, ok := e.Layers.Descriptor(l.Layer, with); ok {
		u.Known, u.MediaType = &known, known.MediaType
	}
	if from := l.Repository(); from != "" {
		u.From = []string{from}
	} else if l.Blob == nil {
		u.From = e.From
	}
	d, err := e.Client.PushBlob(ctx, repo, u)
	if err != nil || l.Blob != nil {
		return d, err
	}
	return d, e.Layers.Remember(l.Layer, with, d)
}
