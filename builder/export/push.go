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

// Push sends img to the registry under ref: layers the registry lacks, several at once, then the configuration, and
// the manifest last. Layers that were never compressed are compressed with codec on their way. progress is called with the bytes of each layer that are done; it may be nil.
func (e *Exporter) Push(ctx context.Context, img *image.Image, ref name.Reference, codec compress.Algorithm, progress func(layer v1.Hash, current int64)) (Result, error) {
	repo := ref.Context()
	layers := make([]v1.Descriptor, len(img.Layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(pushes)
	for i, l := range img.Layers {
		g.Go(func() (err error) {
			layers[i], err = e.pushLayer(gctx, repo, l, codec, progress)
			return err
		})
	}
	g.Go(func() error {
		known := v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: img.ID, Size: int64(len(img.RawConfig))}
		_, err := e.Client.PushBlob(gctx, repo, registry.Upload{Known: &known, MediaType: known.MediaType,
			Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(img.RawConfig)), nil }})
		return err
	})
	if err := g.Wait(); err != nil {
		return Result{}, err // the client's errors name the repository
	}
	m, err := e.manifestFor(img, layers)
	if err != nil {
		return Result{}, err
	}
	if err := e.Client.PushManifest(ctx, ref, m.raw, m.mediaType); err != nil {
		return Result{}, err
	}
	return Result{Descriptor: m.descriptor(img)}, nil
}

func (e *Exporter) pushLayer(ctx context.Context, repo name.Repository, l image.Layer, codec compress.Algorithm, progress func(v1.Hash, int64)) (v1.Descriptor, error) {
	u := registry.Upload{
		MediaType: mediaType(codec),
		Open:      func(ctx context.Context) (io.ReadCloser, error) { return e.Layers.Compressed(ctx, l, codec) },
	}
	if progress != nil {
		u.Progress = func(current int64) { progress(l.DiffID, current) }
	}
	if known, ok := e.Layers.Descriptor(l, codec); ok {
		u.Known, u.MediaType = &known, known.MediaType
	}
	if l.Origin != "" {
		u.From = []string{l.Origin}
	}
	d, err := e.Client.PushBlob(ctx, repo, u)
	if err != nil || l.Blob != nil {
		return d, err
	}
	return d, e.Layers.Remember(l, codec, d)
}
