package export_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	reg "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// variant is the image for another platform.
func variant(t *testing.T, img *image.Image, arch string) *image.Image {
	t.Helper()
	other := *img
	other.Config.Architecture = arch
	var err error
	other.RawConfig, err = json.Marshal(other.Config)
	must(t, err)
	other.ID, _, err = v1.SHA256(bytes.NewReader(other.RawConfig))
	must(t, err)
	return &other
}

func layoutTar(t *testing.T, e *export.Exporter, o export.Options, artifacts ...export.Artifact) map[string][]byte {
	t.Helper()
	var b bytes.Buffer
	_, err := e.LayoutTar(t.Context(), &b, artifacts, o)
	must(t, err)
	return readTar(t, &b)
}

// decode reads the blob that d names, its digest checked.
func decode[T any](t *testing.T, files map[string][]byte, d v1.Descriptor) (v T) {
	t.Helper()
	data := files["blobs/sha256/"+d.Digest.Hex]
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != d.Digest.Hex || int64(len(data)) != d.Size {
		t.Fatalf("blob %v is missing or wrong", d)
	}
	must(t, json.Unmarshal(data, &v))
	return v
}

func TestSeveralImages(t *testing.T) {
	e, img := fixture(t)
	files := layoutTar(t, e, export.Options{Codec: compress.Gzip, Archive: true}, export.One(img, tag(t, "a:1")), export.One(variant(t, img, "arm64"), tag(t, "b:1")))
	var index v1.IndexManifest
	must(t, json.Unmarshal(files["index.json"], &index))
	if len(index.Manifests) != 2 || index.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("%+v", index)
	}
	var docker []struct{ RepoTags []string }
	must(t, json.Unmarshal(files["manifest.json"], &docker))
	if len(docker) != 2 || docker[1].RepoTags[0] != "b:1" {
		t.Errorf("%+v", docker)
	}
}

func TestIndex(t *testing.T) {
	e, img := fixture(t)
	arm := v1.Platform{OS: "linux", Architecture: "arm64"}
	a := export.Artifact{Images: []*image.Image{img, variant(t, img, "arm64")}, Index: true, Names: []name.Tag{tag(t, "a:1"), tag(t, "a:2")}}
	o := export.Options{Codec: compress.Gzip, Annotations: []export.Annotation{
		{Kind: export.OnManifest, Key: "m", Value: "all"},
		{Kind: export.OnManifest, Key: "m", Value: "arm", Platform: &arm},
		{Kind: export.OnManifestDescriptor, Key: "md", Value: "x"},
		{Kind: export.OnIndex, Key: "i", Value: "y"},
		{Kind: export.OnIndexDescriptor, Key: "id", Value: "z"},
	}}
	files := layoutTar(t, e, o, a)
	var top v1.IndexManifest
	must(t, json.Unmarshal(files["index.json"], &top))
	if len(top.Manifests) != 2 || top.Manifests[0].MediaType != types.OCIImageIndex || top.Manifests[1].Annotations["id"] != "z" ||
		top.Manifests[1].Annotations["org.opencontainers.image.ref.name"] != "2" {
		t.Fatalf("%+v", top)
	}
	index := decode[v1.IndexManifest](t, files, top.Manifests[0])
	if len(index.Manifests) != 2 || index.Annotations["i"] != "y" || index.Manifests[0].Annotations["md"] != "x" || index.Manifests[1].Platform.Architecture != "arm64" {
		t.Fatalf("%+v", index)
	}
	for i, want := range []string{"all", "arm"} {
		if m := decode[v1.Manifest](t, files, index.Manifests[i]); m.Annotations["m"] != want {
			t.Errorf("manifest %d: %v", i, m.Annotations)
		}
	}
	server := httptest.NewServer(reg.New())
	defer server.Close()
	ref := tag(t, strings.TrimPrefix(server.URL, "http://")+"/a:1")
	res, err := e.Push(t.Context(), a, ref, o, nil)
	must(t, err)
	for range 2 { // both are found, by the name
		for _, p := range []v1.Platform{{OS: "linux", Architecture: "amd64"}, arm} {
			m, err := e.Client.Resolve(t.Context(), ref, p)
			must(t, err)
			if m.Config.Architecture != p.Architecture {
				t.Errorf("%v: %s", p, m.Config.Architecture)
			}
		}
	}
	if res.Descriptor.Digest != top.Manifests[0].Digest {
		t.Errorf("pushed %v, wrote %v", res.Descriptor, top.Manifests[0])
	}
}

func TestDockerTypes(t *testing.T) {
	e, img := fixture(t)
	files := layoutTar(t, e, export.Options{Codec: compress.Gzip, DockerTypes: true}, export.One(img))
	var top v1.IndexManifest
	must(t, json.Unmarshal(files["index.json"], &top))
	m := decode[v1.Manifest](t, files, top.Manifests[0])
	if top.Manifests[0].MediaType != types.DockerManifestSchema2 || m.MediaType != types.DockerManifestSchema2 ||
		m.Config.MediaType != types.DockerConfigJSON || m.Layers[0].MediaType != types.DockerLayer {
		t.Errorf("%+v", m)
	}
	_, err := e.LayoutTar(t.Context(), &bytes.Buffer{}, []export.Artifact{export.One(img)}, export.Options{Codec: compress.Zstd, DockerTypes: true})
	if err == nil || !strings.Contains(err.Error(), "no media type") {
		t.Errorf("docker's zstd: %v", err)
	}
}

// TestForce compresses layers again that came as another program had compressed them.
func TestForce(t *testing.T) {
	e, img := fixture(t)
	var plain, packed bytes.Buffer
	r, err := e.Layers.Uncompressed(t.Context(), img.Layers[0])
	must(t, err)
	_, err = plain.ReadFrom(r)
	must(t, err)
	must(t, r.Close())
	w, err := compress.Gzip.Encoder().NewWriter(&packed)
	must(t, err)
	_, err = w.Write(plain.Bytes())
	must(t, err)
	must(t, w.Close())
	h, size, err := v1.SHA256(bytes.NewReader(packed.Bytes()))
	must(t, err)
	must(t, e.Blobs.Put(t.Context(), h, bytes.NewReader(packed.Bytes())))
	img.Layers[0].Blob = &v1.Descriptor{MediaType: types.DockerLayer, Digest: h, Size: size}

	for _, c := range []struct {
		force bool
		want  [2]types.MediaType
	}{
		{false, [2]types.MediaType{types.OCILayer, types.OCILayerZStd}},
		{true, [2]types.MediaType{types.OCILayerZStd, types.OCILayerZStd}},
	} {
		files := layoutTar(t, e, export.Options{Codec: compress.Zstd, Force: c.force}, export.One(img))
		checkLayout(t, files, img)
		var top v1.IndexManifest
		must(t, json.Unmarshal(files["index.json"], &top))
		m := decode[v1.Manifest](t, files, top.Manifests[0])
		if got := [2]types.MediaType{m.Layers[0].MediaType, m.Layers[1].MediaType}; got != c.want {
			t.Errorf("force %v: %v", c.force, got)
		}
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	e, img := fixture(t)
	arm := v1.Platform{OS: "linux", Architecture: "arm64"}
	for want, c := range map[string]struct {
		a export.Artifact
		o export.Options
	}{
		"is for an index":    {export.One(img), export.Options{Annotations: []export.Annotation{{Kind: export.OnIndex, Key: "k"}}}},
		"which is not built": {export.One(img), export.Options{Annotations: []export.Annotation{{Kind: export.OnManifest, Platform: &arm, Key: "k"}}}},
		"hold no index":      {export.Artifact{Images: []*image.Image{img}, Index: true}, export.Options{Archive: true}},
	} {
		c.o.Codec = compress.Gzip
		var b bytes.Buffer
		if _, err := e.LayoutTar(t.Context(), &b, []export.Artifact{c.a}, c.o); err == nil || !strings.Contains(err.Error(), want) || b.Len() > 0 {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestSplitTar(t *testing.T) {
	e, img := fixture(t)
	a := export.Artifact{Images: []*image.Image{img, variant(t, img, "arm64")}, Index: true}
	var b bytes.Buffer
	must(t, e.SplitTar(t.Context(), &b, a, func(img *image.Image) string { return img.Config.Architecture }))
	files := readTar(t, &b)
	if string(files["amd64/dir/kept"]) != "kept" || string(files["arm64/link"]) != "-> dir/kept" {
		t.Errorf("%q", files)
	}
}
