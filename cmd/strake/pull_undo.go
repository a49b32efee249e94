package main

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/image"
)

// naming is that a registry made a name mean img; before is what had it, nil if nothing.
type naming struct {
	ref         name.Reference
	img, before *image.Image
}

// namings are those of one command, in their order.
type namings struct {
	mu  sync.Mutex
	all []naming
}

func (n *namings) add(ref name.Reference, img, before *image.Image) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, naming{ref, img, before})
}

// forgetPulled takes back the names of the images that this command pulled and that are chosen: who asks again gets what the registry
// has then. What the command held of the store is released.
func (s *session) forgetPulled(ctx context.Context, chosen func(*image.Image) bool) error {
	s.Release()
	s.namings.mu.Lock()
	defer s.namings.mu.Unlock()
	for _, n := range slices.Backward(s.namings.all) {
		if !chosen(n.img) {
			continue
		}
		if err := s.forget(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// forget gives a name back to the image that had it before, and removes the other if it has no name then.
func (s *session) forget(ctx context.Context, n naming) error {
	now, err := s.Images.Resolve(n.ref)
	if errors.Is(err, image.ErrNotFound) || err == nil && now.ID != n.img.ID {
		return nil // somebody else changed it since
	}
	if err != nil {
		return err
	}
	if n.before != nil {
		err = s.Images.Tag(n.ref, n.before.ID)
	} else {
		_, err = s.Images.Untag(n.ref)
	}
	if err != nil {
		return err
	}
	names, err := s.names(n.img.ID)
	if err != nil || len(names) > 0 {
		return err
	}
	return s.RemoveImage(ctx, n.img.ID)
}

// giveBack is err with the consequence that it has if a registry's image is not what its manifest says, or cannot be had whole: the image
// is forgotten.
func (s *session) giveBack(ctx context.Context, err error) error {
	var origin *image.OriginError
	if !errors.As(err, &origin) {
		return err
	}
	return errors.Join(err, s.forgetPulled(context.WithoutCancel(ctx), func(img *image.Image) bool { return hasBlob(img, origin.Blob) }))
}

// hasBlob says whether a layer of img is fetched as the blob h.
func hasBlob(img *image.Image, h v1.Hash) bool {
	return slices.ContainsFunc(img.Layers, func(l image.Layer) bool { return l.Blob != nil && l.Blob.Digest == h })
}
