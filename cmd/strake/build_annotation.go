package main

import (
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/layer/compress"
)

// The forms of annotations: as an attribute of -o, annotation[-KIND][[PLATFORM]].KEY, and in --annotation, [KIND[,KIND…][[PLATFORM]]:]KEY=VALUE.
var (
	annotationKey  = regexp.MustCompile(`^annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)$`)
	annotationFlag = regexp.MustCompile(`^(?:([a-z,-]+)?(?:\[([A-Za-z0-9_/-]+)\])?:)?([^\s=]+)=(.*)$`)
)

// given says whether something is asked for about manifests or compression.
func (o *output) given() bool {
	return o.options.Force || o.options.DockerTypes || o.options.Codec != compress.Gzip || o.options.Level != nil || len(o.options.Annotations) > 0
}

// addAnnotation adds the annotation of an attribute of -o.
func (o *output) addAnnotation(value, key, v string) error {
	m := annotationKey.FindStringSubmatch(key)
	if m == nil {
		return usagef("invalid -o %q: %q is not supported", value, key)
	}
	a, err := newAnnotation(m[1], m[2], m[3], v)
	if err != nil {
		return usagef("invalid -o %q: %w", value, err)
	}
	o.options.Annotations = append(o.options.Annotations, a)
	return nil
}

// annotate adds those of --annotation, which are for every output that has manifests.
func (o *output) annotate(values []string, index bool) error {
	if o.kind == outputLocal || o.kind == outputTar || o.kind == outputImage {
		return nil
	}
	for _, value := range values {
		m := annotationFlag.FindStringSubmatch(value)
		if m == nil {
			return usagef("invalid --annotation %q: it is KEY=VALUE or TYPE:KEY=VALUE", value)
		}
		for _, kind := range strings.Split(m[1], ",") {
			a, err := newAnnotation(kind, m[2], m[3], m[4])
			if err != nil {
				return usagef("invalid --annotation %q: %w", value, err)
			}
			o.options.Annotations = append(o.options.Annotations, a)
		}
	}
	for _, a := range o.options.Annotations {
		if !index && (a.Kind == export.OnIndex || a.Kind == export.OnIndexDescriptor) {
			return usagef("the annotation %s is for an index, which only a build for several platforms has", a.Key)
		}
	}
	return nil
}

func newAnnotation(kind, platform, key, value string) (export.Annotation, error) {
	a := export.Annotation{Kind: export.AnnotationKind(kind), Key: key, Value: value}
	switch a.Kind {
	case "":
		a.Kind = export.OnManifest
	case export.OnManifest, export.OnManifestDescriptor, export.OnIndex, export.OnIndexDescriptor:
	default:
		return a, usagef("an annotation is on a manifest, manifest-descriptor, index or index-descriptor, not %q", kind)
	}
	if platform != "" {
		var p v1.Platform
		p, err := parsePlatform(platform)
		if err != nil {
			return a, err
		}
		a.Platform = &p
	}
	return a, nil
}
