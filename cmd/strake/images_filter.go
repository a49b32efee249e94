package main

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/strake-build/strake/layer/image"
)

// imageFilter says which images strake images shows; the zero value shows all.
type imageFilter struct {
	references    []string // patterns of path.Match: one must match REPOSITORY, or REPOSITORY:TAG or REPOSITORY@DIGEST
	labels        []string // K or K=V: all must be there
	dangling      *bool    // whether it has no name
	before, since []string // images: it must be older than these, and younger than those
}

// parseImageFilter reads values of --filter, which are docker's.
func parseImageFilter(values []string) (f imageFilter, err error) {
	for _, v := range values {
		key, value, ok := strings.Cut(v, "=")
		if !ok || value == "" {
			return f, usagef("invalid --filter %q: it is KEY=VALUE", v)
		}
		switch key {
		case "reference":
			if _, err := path.Match(value, ""); err != nil {
				return f, usagef("invalid pattern %q: %w", value, err)
			}
			value = strings.TrimPrefix(value, "docker.io/")
			f.references = append(f.references, strings.TrimPrefix(value, "library/"))
		case "label":
			f.labels = append(f.labels, value)
		case "dangling":
			dangling, err := strconv.ParseBool(value)
			if err != nil {
				return f, usagef("invalid --filter %q: it is dangling=true or dangling=false", v)
			}
			f.dangling = &dangling
		case "before":
			f.before = append(f.before, value)
		case "since":
			f.since = append(f.since, value)
		default:
			return f, usagef("invalid --filter %q: there are reference, label, dangling, before and since", v)
		}
	}
	return f, nil
}

// images returns a function that says whether an image is shown, its names aside. It finds the images to compare with in the store.
func (f *imageFilter) images(s *session) (func(image.Named) bool, error) {
	find := func(names []string) (images []*image.Image, err error) {
		for _, n := range names {
			img, err := s.find(n)
			if err != nil {
				return nil, err
			}
			images = append(images, img)
		}
		return images, nil
	}
	before, err := find(f.before)
	if err != nil {
		return nil, err
	}
	since, err := find(f.since)
	if err != nil {
		return nil, err
	}
	return func(n image.Named) bool {
		created := n.Image.Config.Created
		return (f.dangling == nil || *f.dangling == (len(n.Names) == 0)) && f.labeled(n.Image.Config.Config.Labels) &&
			!slices.ContainsFunc(before, func(i *image.Image) bool { return !created.Before(i.Config.Created.Time) }) &&
			!slices.ContainsFunc(since, func(i *image.Image) bool { return !created.After(i.Config.Created.Time) })
	}, nil
}

// labeled says whether labels has all that are asked for.
func (f *imageFilter) labeled(labels map[string]string) bool {
	for _, want := range f.labels {
		key, value, valued := strings.Cut(want, "=")
		if have, ok := labels[key]; !ok || valued && have != value {
			return false
		}
	}
	return true
}

// name says whether a name of an image is shown.
func (f *imageFilter) name(r imageRow) bool {
	if len(f.references) == 0 {
		return true
	}
	for _, pattern := range f.references {
		for _, text := range []string{r.Repository, r.Repository + ":" + r.Tag, r.Repository + "@" + r.Digest} {
			if ok, _ := path.Match(pattern, text); ok && r.Repository != none {
				return true
			}
		}
	}
	return false
}
