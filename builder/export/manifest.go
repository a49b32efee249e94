// Package export writes a finished image somewhere: into an OCI layout, a tar
// that docker load takes, a plain tar or folder, or a registry.
package export

import (
	"bytes"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/registry"
	"github.com/strake-build/strake/layer/snapshot"
)

// Exporter writes images. Its methods are safe for concurrent use.
type Exporter struct {
	Layers    *image.Layers
	Blobs     *blob.Store
	Snapshots *snapshot.Store
	Client    *registry.Client
	Temp      string // a folder for compressed layers on their way; they have no name there
	UserXattr bool   // see layer.Options
	// From are repositories that may have the blobs of layers which were made here, for mounts.
	From []string
}

// manifest is an image manifest in the bytes that its digest names.
type manifest struct {
	raw       []byte
	mediaType types.MediaType
	digest    v1.Hash
}

func (m manifest) descriptor(img *image.Image) v1.Descriptor {
	return v1.Descriptor{MediaType: m.mediaType, Digest: m.digest, Size: int64(len(m.raw)), Platform: &v1.Platform{
		OS: img.Config.OS, Architecture: img.Config.Architecture, Variant: img.Config.Variant, OSVersion: img.Config.OSVersion,
	}}
}

// original returns the manifest of an image that was pulled, unchanged: its digest stays.
func (e *Exporter) original(img *image.Image) (m manifest, ok bool, err error) {
	if img.Manifest == (v1.Hash{}) {
		return manifest{}, false, nil
	}
	raw, err := e.Blobs.ReadAll(img.Manifest)
	if err != nil {
		return manifest{}, false, fmt.Errorf("reading the manifest of the image: %w", err)
	}
	var head struct {
		MediaType types.MediaType `json:"mediaType"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return manifest{}, false, fmt.Errorf("reading the manifest of the image: %w", err)
	}
	if head.MediaType == "" {
		head.MediaType = types.OCIManifestSchema1
	}
	return manifest{raw, head.MediaType, img.Manifest}, true, nil
}

// newManifest describes img with its compressed layers, as the OCI image specification says (manifest.md), or with
// docker's media types (image manifest version 2, schema 2).
func newManifest(img *image.Image, layers []v1.Descriptor, notes map[string]string, docker bool) (manifest, error) {
	m := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: img.ID, Size: int64(len(img.RawConfig))},
		Layers:        make([]v1.Descriptor, len(layers)),
		Annotations:   notes,
	}
	if docker {
		m.MediaType, m.Config.MediaType = types.DockerManifestSchema2, types.DockerConfigJSON
	}
	for i, l := range layers {
		t := image.OCIMediaType(l.MediaType) // a base may have docker's
		if docker {
			if t = dockerLayer(t); t == "" {
				return manifest{}, fmt.Errorf("docker has no media type for a layer of %s: ask for gzip and force-compression, or for OCI's media types", l.MediaType)
			}
		}
		m.Layers[i] = v1.Descriptor{MediaType: t, Digest: l.Digest, Size: l.Size, Annotations: l.Annotations, URLs: l.URLs}
	}
	return encodeManifest(m, m.MediaType)
}

// encodeManifest gives a manifest its bytes and digest.
func encodeManifest(m any, t types.MediaType) (manifest, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return manifest{}, fmt.Errorf("encoding the manifest: %w", err)
	}
	digest, _, err := v1.SHA256(bytes.NewReader(raw))
	return manifest{raw, t, digest}, err
}

// dockerLayer is docker's name of a layer's OCI media type, "" if there is none.
func dockerLayer(t types.MediaType) types.MediaType {
	switch t {
	case types.OCILayer:
		return types.DockerLayer
	case types.OCIUncompressedLayer:
		return types.DockerUncompressedLayer
	case types.DockerForeignLayer:
		return t
	default:
		return ""
	}
}
