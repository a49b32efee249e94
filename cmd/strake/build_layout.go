package main

import (
	"context"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/load"
	"github.com/strake-build/strake/layer/image"
)

// layoutImage is oci-layout://FOLDER[:TAG][@DIGEST]: an image of an OCI image layout. Its blobs are copied to the store, and its layers are
// not unpacked before a step needs them.
func (j *job) layoutImage(ctx context.Context, value string, p v1.Platform) (*image.Image, error) {
	dir, tag, digest, err := splitLayout(value)
	if err != nil {
		return nil, err
	}
	a, err := load.OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	l := &load.Loader{From: a, Images: j.Images, Blobs: j.Blobs, Client: j.registry, Platform: p}
	img, err := l.LoadOne(ctx, tag, digest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
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
