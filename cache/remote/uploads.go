package remote

import (
	"context"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/image"
)

// Made is a step that was found or made, for other machines.
type Made struct {
	Keys    []cache.Key
	Name    string
	Created time.Time
	Parts   []cache.Part
	Result  bool // its layer is part of the image
	// Layer returns the identity of the layers below, and the layer. It may take a while.
	Layer func(ctx context.Context) (below v1.Hash, l image.Layer, err error)
}
