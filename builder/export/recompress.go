package export

import (
	"context"
	"errors"
	"io"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// formed is a layer as it will be written. One that came in another compression than it shall have, counts as one without
// a blob, and from is the layer that its tar is taken from.
type formed struct {
	image.Layer
	from *image.Layer
}

// form decides whether a layer keeps the compression that it came in.
func (e *Exporter) form(l image.Layer, o Options) formed {
	if l.Blob == nil || !o.Force || sameCodec(l.Blob.MediaType, o.Codec) {
		return formed{Layer: l}
	}
	return formed{image.Layer{DiffID: l.DiffID}, &l}
}

// sameCodec says whether a media type is that of layers compressed with codec.
func sameCodec(t types.MediaType, codec compress.Algorithm) bool {
	want, err := image.MediaType(codec)
	return err == nil && image.OCIMediaType(t) == want
}

// open streams a layer compressed with that encoder, or in the compression that it keeps.
func (e *Exporter) open(ctx context.Context, l formed, with compress.Encoder) (io.ReadCloser, error) {
	if l.from == nil {
		return e.Layers.Compressed(ctx, l.Layer, with)
	}
	plain, err := e.Layers.Uncompressed(ctx, *l.from)
	if err != nil || with.Algorithm == compress.None {
		return plain, err
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := with.NewWriter(w)
		if err == nil {
			_, err = io.Copy(c, plain)
			err = errors.Join(err, c.Close())
		}
		w.CloseWithError(errors.Join(err, plain.Close())) // nil is the end
	}()
	return &recompressed{r, done}, nil
}

// recompressed is the reading end of open's compressor.
type recompressed struct {
	*io.PipeReader
	done <-chan struct{}
}

// Close ends the compressor.
func (r *recompressed) Close() error {
	err := r.PipeReader.Close()
	<-r.done
	return err
}
