package builder

import (
	"errors"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/layer/image"
)

// lostError says that a layer which another machine's cache has could not be had, or is not what the cache said.
type lostError struct {
	blob v1.Hash
	err  error
}

func (e *lostError) Error() string { return "a layer of the cache is lost: " + e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// WithoutLost calls do, which builds with the caches and exports the result. That a layer of a cache is not there, or is not what the
// cache said, may turn out as late as its bytes are read: then the cache forgets the layer, and do is called again. caches is nil for none.
func WithoutLost(caches *remote.Imports, do func() error) error {
	for {
		err := do()
		if err == nil || caches == nil || !caches.Lose(blamed(err)) {
			return err
		}
		caches.Warn("a cached layer cannot be used, so that it is made anew: " + err.Error())
	}
}

// blamed is the blob that is the reason of err; the zero Hash if none is.
func blamed(err error) v1.Hash {
	var lost *lostError
	if errors.As(err, &lost) {
		return lost.blob
	}
	var origin *image.OriginError
	if errors.As(err, &origin) {
		return origin.Blob
	}
	return v1.Hash{}
}
