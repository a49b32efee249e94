package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/layer/image"
)

// layoutImage is oci-layout://FOLDER[:TAG][@DIGEST]: an image of an OCI image layout. Its blobs are copied to the store, and its layers are
// not unpacked before a step needs them.
func (j *job) layoutImage(ctx context.Context, value string, p v1.Platform) (*image.Image, error) {
	dir, tag, digest, err := splitLayout(value)
	if err != nil {
		return nil, err
	}
	a, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	defer a.close()
	l := &loader{session: j.session, from: a, platform: p}
	d, err := l.layoutEntry(tag, digest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	chosen, err := l.choose(d, 0)
	if err == nil && chosen == nil {
		err = l.noImage()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	img, err := l.copyManifest(ctx, *chosen)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if err := l.put(ctx, chosen.Digest); err != nil {
		return nil, err
	}
	return img, j.Images.Put(img) // so that its blobs belong to somebody
}

// splitLayout takes FOLDER[:TAG][@DIGEST] apart.
func splitLayout(value string) (dir, tag string, digest v1.Hash, err error) {
	dir = value
	if before, after, ok := strings.Cut(value, "@"); ok {
		if digest, err = v1.NewHash(after); err != nil {
			return "", "", digest, fmt.Errorf("invalid digest in oci-layout://%s: %w", value, err)
		}
		dir = before
	}
	if i := strings.LastIndexByte(dir, ':'); i > strings.LastIndexByte(dir, '/') {
		dir, tag = dir[:i], dir[i+1:]
	}
	if dir == "" {
		return "", "", digest, fmt.Errorf("oci-layout://%s names no folder", value)
	}
	return dir, tag, digest, nil
}

// layoutEntry finds what is meant in a layout: by digest, by tag, or the tag "latest", or the only one there is.
func (l *loader) layoutEntry(tag string, digest v1.Hash) (v1.Descriptor, error) {
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
func (l *loader) layoutBlob(digest v1.Hash) (v1.Descriptor, error) {
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
