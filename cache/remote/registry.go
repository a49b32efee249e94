package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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
	var errs, missing []error
	for _, p := range r.Platforms {
		m, err := r.Client.Resolve(ctx, r.Ref, p)
		if errors.Is(err, registry.ErrPlatform) {
			missing = append(missing, err)
			continue
		}
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
		if m.Digest == m.RefDigest {
			break // no index: it is the same for every platform
		}
	}
	r.loaded = true
	if len(seen) == 0 { // with one of several platforms it is of use
		errs = append(errs, missing...)
	}
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
		have, _, err := r.current(ctx)
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

const (
	races = 10 // how often a manifest is written anew because another build wrote it at the same time
	// settled is how long another build may take to write what it merged before this one wrote; at least that, and
	// twice the time that this one took.
	settled = 20 * time.Millisecond
)

// errMoved says that another build has written the tag since it was read.
var errMoved = errors.New("the cache has changed meanwhile")

// Commit implements Backend. What others wrote since stays. There is no way to write a tag only if it has not changed: it is
// read, merged, looked at again just before it is written, and once more when another build that did the same has written, too.
func (r *Registry) Commit(ctx context.Context, entries []Entry, _ bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.own = append(r.own, entries...)
	if len(entries) == 0 {
		return nil
	}
	for try := range races {
		have, was, err := r.current(ctx)
		if err != nil {
			return err
		}
		if Holds(have, r.own, r.Now()) {
			return nil
		}
		digest, took, err := r.write(ctx, Merge(have, r.own, r.Now()), was)
		var status *registry.StatusError
		if errors.As(err, &status) && status.Status/100 == 4 && status.Status != http.StatusUnauthorized && len(have) > 0 {
			// Blobs of what was there may be gone: then the registry does not take a manifest that names them.
			digest, took, err = r.write(ctx, Merge(nil, r.own, r.Now()), was)
		}
		wait := max(settled, 2*took)
		if errors.Is(err, errMoved) {
			wait = rand.N(wait * time.Duration(try+1)) //nolint:gosec // keeps builds apart, no secret
		} else if err != nil {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
		if err != nil {
			continue
		}
		if now, err := r.Client.ResolveDigest(ctx, r.Ref); err != nil || now.Digest == digest {
			return nil // it was written
		}
	}
	return fmt.Errorf("%w, %d times: too many builds write it at once", errMoved, races)
}

// current returns what the registry has under the reference, and its digest.
func (r *Registry) current(ctx context.Context) (have []Held, digest v1.Hash, err error) {
	raw, d, err := r.Client.FetchManifest(ctx, r.Ref)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, digest, nil
	}
	if err != nil {
		return nil, digest, err
	}
	foreign := fmt.Errorf("%s is there and is not a cache of strake's: give the cache a tag of its own", r.Ref.Name())
	var m v1.Manifest
	if !d.MediaType.IsImage() || json.Unmarshal(raw, &m) != nil || m.Config.Size > MaxDocument {
		return nil, digest, foreign
	}
	body, err := r.Open(ctx, m.Config)
	if err != nil {
		return nil, digest, err
	}
	defer body.Close()
	config, err := readAll(body, m.Config.Size)
	if err != nil {
		return nil, digest, err
	}
	if !isCache(config) {
		return nil, digest, foreign
	}
	if have, err = decodeImage(config, m.Layers); err != nil {
		return nil, d.Digest, nil // a cache that cannot be read is replaced
	}
	return have, d.Digest, nil
}

// write stores the image of entries, unless the tag is another one than it was. took is the time from that look to the end.
func (r *Registry) write(ctx context.Context, entries []Held, was v1.Hash) (digest v1.Hash, took time.Duration, err error) {
	config, manifest, err := encodeImage(entries)
	if err != nil {
		return digest, 0, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return digest, 0, err
	}
	err = r.push(ctx, m.Config, func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(config)), nil })
	if err != nil {
		return digest, 0, err
	}
	if digest, _, err = v1.SHA256(bytes.NewReader(manifest)); err != nil {
		return digest, 0, err
	}
	began := r.Now()
	is, err := r.Client.ResolveDigest(ctx, r.Ref)
	switch {
	case err != nil && !errors.Is(err, registry.ErrNotFound):
		return digest, 0, err
	case is.Digest != was:
		return digest, 0, errMoved
	}
	err = r.Client.PushManifest(ctx, r.Ref, manifest, types.OCIManifestSchema1)
	return digest, r.Now().Sub(began), err
}
