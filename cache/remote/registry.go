package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/registry"
)

// Registry is a cache in a registry: an OCI image manifest under Ref whose layers are those of the steps, and whose
// configuration lists them. Images that were built with inline entries are read too.
type Registry struct {
	Client *registry.Client
	Ref    name.Reference
	// Platforms are asked for where Ref is an index: that of each image of the build.
	Platforms []v1.Platform
	// From are repositories ("host/name") that may have blobs already, for mounts.
	From []string
	Now  func() time.Time

	mu     sync.Mutex // guards what follows
	loaded bool
	have   []Entry
	plain  []Plain
	own    []Entry // committed in this build

	start sync.Once        // guards what follows
	there map[v1.Hash]bool // blobs of the cache as it was first seen
}

// Name implements Backend.
func (r *Registry) Name() string { return "cache " + r.Ref.Name() }

// Repository implements Located.
func (r *Registry) Repository() string { return r.Ref.Context().Name() }

// Records implements Backend: manifest and configuration are fetched once.
func (r *Registry) Records(ctx context.Context, _ []cache.Key) ([]Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.loaded {
		return r.have, nil
	}
	seen := map[v1.Hash]bool{}
	var errs []error
	for _, p := range r.Platforms {
		m, err := r.Client.Resolve(ctx, r.Ref, p)
		if err != nil {
			errs = append(errs, absent(err))
			if ctx.Err() != nil || errors.Is(err, registry.ErrNotFound) {
				break
			}
			continue
		}
		if seen[m.Digest] {
			continue
		}
		seen[m.Digest] = true
		list, err := decodeImage(m.RawConfig, m.Manifest.Layers)
		if errors.Is(err, errNoCache) {
			r.plain = append(r.plain, Plain{m.Config, m.Manifest.Layers, r.Repository()})
		} else if err != nil {
			errs = append(errs, err)
		}
		for _, h := range list {
			r.have = append(r.have, h.Entry)
		}
	}
	r.loaded = true
	return r.have, errors.Join(errs...)
}

// Plain returns the images under the reference that carry no cache, once Records was called.
func (r *Registry) Plain() []Plain {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plain
}

// Open implements Backend.
func (r *Registry) Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	body, err := r.Client.FetchBlob(ctx, r.Repository(), d)
	return body, absent(err)
}

// absent makes an answer that something is not there an ErrNotFound.
func absent(err error) error {
	if errors.Is(err, registry.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// Put implements Backend. A blob that the cache names already is not asked for.
func (r *Registry) Put(ctx context.Context, d v1.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	r.start.Do(func() {
		r.there = map[v1.Hash]bool{}
		have, err := r.current(ctx)
		if err != nil {
			return // it comes again with Commit
		}
		for _, h := range have {
			r.there[h.Blob.Digest] = true
		}
	})
	if r.there[d.Digest] {
		return nil
	}
	return r.push(ctx, d, open)
}

func (r *Registry) push(ctx context.Context, d v1.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	_, err := r.Client.PushBlob(ctx, r.Ref.Context(), registry.Upload{Known: &d, From: r.From, MediaType: d.MediaType, Open: open})
	return err
}

// races is how often a manifest is written anew because another build wrote it at the same time.
const races = 4

// Commit implements Backend. What others wrote since stays: it is read, merged and written, and read again, for there is no way
// to write a tag only if it has not changed. Of two builds that end within the same moment one may lose its entries.
func (r *Registry) Commit(ctx context.Context, entries []Entry, _ bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.own = append(r.own, entries...)
	if len(entries) == 0 {
		return nil
	}
	for try := 0; ; try++ {
		have, err := r.current(ctx)
		if err != nil {
			return err
		}
		if Holds(have, r.own, r.Now()) {
			return nil
		}
		digest, err := r.write(ctx, Merge(have, r.own, r.Now()))
		var status *registry.StatusError
		if errors.As(err, &status) && status.Status/100 == 4 && status.Status != http.StatusUnauthorized && len(have) > 0 {
			// Blobs of what was there may be gone: then the registry does not take a manifest that names them.
			digest, err = r.write(ctx, Merge(nil, r.own, r.Now()))
		}
		if err != nil {
			return err
		}
		if now, err := r.Client.ResolveDigest(ctx, r.Ref); err != nil || now.Digest == digest || try == races {
			return nil // it was written
		}
	}
}

// current returns what the registry has under the reference.
func (r *Registry) current(ctx context.Context) ([]Held, error) {
	raw, d, err := r.Client.FetchManifest(ctx, r.Ref)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	foreign := fmt.Errorf("%s is there and is not a cache of strake's: give the cache a tag of its own", r.Ref.Name())
	var m v1.Manifest
	if !d.MediaType.IsImage() || json.Unmarshal(raw, &m) != nil || m.Config.Size > MaxDocument {
		return nil, foreign
	}
	body, err := r.Open(ctx, m.Config)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	config, err := readAll(body, m.Config.Size)
	if err != nil {
		return nil, err
	}
	if !isCache(config) {
		return nil, foreign
	}
	have, err := decodeImage(config, m.Layers)
	if err != nil {
		return nil, nil // a cache that cannot be read is replaced
	}
	return have, nil
}

// write stores the image of entries.
func (r *Registry) write(ctx context.Context, entries []Held) (v1.Hash, error) {
	config, manifest, err := encodeImage(entries)
	if err != nil {
		return v1.Hash{}, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return v1.Hash{}, err
	}
	err = r.push(ctx, m.Config, func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(config)), nil })
	if err != nil {
		return v1.Hash{}, err
	}
	digest, _, err := v1.SHA256(bytes.NewReader(manifest))
	if err != nil {
		return v1.Hash{}, err
	}
	return digest, r.Client.PushManifest(ctx, r.Ref, manifest, types.OCIManifestSchema1)
}
