package image_test

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/layer/image"
)

func TestOCIMediaType(t *testing.T) {
	for in, want := range map[types.MediaType]types.MediaType{
		types.DockerLayer: types.OCILayer, types.DockerUncompressedLayer: types.OCIUncompressedLayer,
		types.OCILayerZStd: types.OCILayerZStd, types.DockerForeignLayer: types.DockerForeignLayer,
	} {
		if got := image.OCIMediaType(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}
