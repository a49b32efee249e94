package image

import (
	"fmt"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/layer/compress"
)

// MediaType is the media type of a layer that strake compressed with a (OCI image specification, layer.md). It is an error for what strake
// can read only.
func MediaType(a compress.Algorithm) (types.MediaType, error) {
	switch a {
	case compress.None:
		return types.OCIUncompressedLayer, nil
	case compress.Gzip:
		return types.OCILayer, nil
	case compress.Zstd:
		return types.OCILayerZStd, nil
	case compress.Bzip2, compress.XZ:
	}
	return "", fmt.Errorf("no media type says that a layer is compressed with %s", a)
}

// OCIMediaType is the OCI specification's name of a layer's media type, which may be one of docker's (image manifest version 2, schema 2).
func OCIMediaType(t types.MediaType) types.MediaType {
	switch t {
	case types.DockerLayer:
		return types.OCILayer
	case types.DockerUncompressedLayer:
		return types.OCIUncompressedLayer
	default:
		return t
	}
}
