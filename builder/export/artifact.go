package export

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// Artifact is one thing that is written under its names: an image, or an index of images.
type Artifact struct {
	Images []*image.Image // more than one only in an index, each for a platform of its own
	Index  bool           // an index, also of a single image
	Names  []name.Tag
	// Epochs, if not nil, has for each image the modification time of its files, in seconds since 1970, where they are written as a tar or
	// a folder; nil for their own. As in BuildKit it is set, and no bound.
	Epochs []*int64
}

// Epoch is that of the image of index i; nil if there is none.
func (a Artifact) Epoch(i int) *int64 {
	if i < len(a.Epochs) {
		return a.Epochs[i]
	}
	return nil
}

// One is the artifact of an image alone.
func One(img *image.Image, names ...name.Tag) Artifact {
	return Artifact{Images: []*image.Image{img}, Names: names}
}

// check refuses an artifact without an image, and several images without an index to be in.
func (a Artifact) check() error {
	if len(a.Images) == 0 || len(a.Images) > 1 && !a.Index {
		return fmt.Errorf("internal error: an artifact of %d images", len(a.Images))
	}
	return nil
}

// Options say how layers and manifests are written.
type Options struct {
	Codec compress.Algorithm // for layers that were never compressed
	Level *int               // of Codec; see compress.Encoder
	// Force: layers that came in another compression are compressed again with Codec.
	Force bool
	// DockerTypes: manifests, configurations and layers get docker's media types instead of OCI's. There is none for zstd.
	DockerTypes bool
	// Archive adds what docker load reads to a layout. An index cannot be in it.
	Archive bool
	// ByDigest pushes the manifest under its digest and no tag.
	ByDigest    bool
	Annotations []Annotation
}

// encoder compresses layers that were never compressed.
func (o Options) encoder() compress.Encoder {
	return compress.Encoder{Algorithm: o.Codec, Level: o.Level}
}

// AnnotationKind says what an annotation is put on.
type AnnotationKind string

// The kinds of annotations, as BuildKit names them: a manifest, what refers to it, the index, what refers to that.
const (
	OnManifest           AnnotationKind = "manifest"
	OnManifestDescriptor AnnotationKind = "manifest-descriptor"
	OnIndex              AnnotationKind = "index"
	OnIndexDescriptor    AnnotationKind = "index-descriptor"
)

// Annotation is an annotation that the person who builds asks for (OCI image specification, annotations.md).
type Annotation struct {
	Kind       AnnotationKind
	Platform   *v1.Platform // only of images for it; nil is all
	Key, Value string
}

// annotations are those of a kind, for an image or, with nil, for the index.
func (o Options) annotations(kind AnnotationKind, img *image.Image) map[string]string {
	var found map[string]string
	for _, a := range o.Annotations {
		if a.Kind != kind || a.Platform != nil && (img == nil || !isFor(img, *a.Platform)) {
			continue
		}
		if found == nil {
			found = map[string]string{}
		}
		found[a.Key] = a.Value
	}
	return found
}

func isFor(img *image.Image, p v1.Platform) bool {
	return img.Config.OS == p.OS && img.Config.Architecture == p.Architecture && img.Config.Variant == p.Variant
}

// check refuses annotations of what there is not.
func (o Options) check(a Artifact) error {
	if err := a.check(); err != nil {
		return err
	}
	if o.Archive && a.Index {
		return fmt.Errorf("docker's archives hold no index of several platforms")
	}
	for _, n := range o.Annotations {
		if (n.Kind == OnIndex || n.Kind == OnIndexDescriptor) && !a.Index {
			return fmt.Errorf("the annotation %s is for an index, and the result is a single image", n.Key)
		}
		if n.Platform != nil && !slices.ContainsFunc(a.Images, func(img *image.Image) bool { return isFor(img, *n.Platform) }) {
			return fmt.Errorf("the annotation %s is for %s, which is not built", n.Key, n.Platform)
		}
	}
	return nil
}

// index describes the manifests of a's images (OCI image specification, image-index.md).
func (o Options) index(a Artifact, manifests []manifest) (manifest, error) {
	m := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Annotations: o.annotations(OnIndex, nil)}
	if o.DockerTypes {
		m.MediaType = types.DockerManifestList
	}
	for i, img := range a.Images {
		m.Manifests = append(m.Manifests, o.descriptor(manifests[i], img))
	}
	return encodeManifest(m, m.MediaType)
}

// descriptor refers to the manifest of an image.
func (o Options) descriptor(m manifest, img *image.Image) v1.Descriptor {
	d := m.descriptor(img)
	d.Annotations = o.annotations(OnManifestDescriptor, img)
	return d
}

// top refers to what a's names mean: its index, or the manifest of its image.
func (o Options) top(a Artifact, manifests []manifest) (v1.Descriptor, *manifest, error) {
	if !a.Index {
		return o.descriptor(manifests[0], a.Images[0]), nil, nil
	}
	m, err := o.index(a, manifests)
	d := v1.Descriptor{MediaType: m.mediaType, Digest: m.digest, Size: int64(len(m.raw)), Annotations: o.annotations(OnIndexDescriptor, nil)}
	return d, &m, err
}

// manifest is the pulled manifest, unless something else is asked for, or a new one over compressed layers.
func (e *Exporter) manifest(img *image.Image, layers []v1.Descriptor, o Options) (manifest, error) {
	notes := o.annotations(OnManifest, img)
	if m, ok, err := e.original(img); err != nil || ok && notes == nil && !o.Force && !o.DockerTypes {
		return m, err
	}
	return newManifest(img, layers, notes, o.DockerTypes)
}

// named are the annotations of a layout's index.json for a name (OCI image specification, image-layout.md, and containerd's).
func named(notes map[string]string, n name.Tag) map[string]string {
	all := maps.Clone(notes)
	if all == nil {
		all = map[string]string{}
	}
	all["io.containerd.image.name"] = canonical(n)
	all["org.opencontainers.image.ref.name"] = n.TagStr()
	return all
}

// eachImage calls f for every image, in order, with its number among all.
func eachImage(ctx context.Context, artifacts []Artifact, f func(a int, img *image.Image) error) error {
	for i, a := range artifacts {
		for _, img := range a.Images {
			if err := context.Cause(ctx); err != nil {
				return context.Cause(ctx)
			}
			if err := f(i, img); err != nil {
				return err
			}
		}
	}
	return nil
}
