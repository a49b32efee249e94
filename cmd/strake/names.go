package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/image"
)

// hub is Docker Hub as people write it.
const hub = "docker.io"

// canonicalName is a reference with its host, as docker prints what it pulled: docker.io/library/busybox:latest.
func canonicalName(ref name.Reference) string {
	if rest, ok := strings.CutPrefix(ref.Name(), name.DefaultRegistry+"/"); ok {
		return hub + "/" + rest
	}
	return ref.Name()
}

// canonicalRepository is a repository with its host, as docker prints it.
func canonicalRepository(repo name.Repository) string {
	if rest, ok := strings.CutPrefix(repo.Name(), name.DefaultRegistry+"/"); ok {
		return hub + "/" + rest
	}
	return repo.Name()
}

// familiarName is a reference as docker's users write it: busybox:latest.
func familiarName(ref name.Reference) string {
	s := strings.TrimPrefix(ref.Name(), name.DefaultRegistry+"/")
	if s != ref.Name() {
		s = strings.TrimPrefix(s, "library/")
	}
	return s
}

// tellDefaultTag says, as docker does, which tag is meant by a name without one.
func (e *environment) tellDefaultTag(given string, ref name.Reference) {
	if tag, ok := ref.(name.Tag); ok && !strings.HasSuffix(given, ":"+tag.TagStr()) {
		fmt.Fprintf(e.stdout, "Using default tag: %s\n", tag.TagStr())
	}
}

// splitName cuts a familiar name into repository and tag, or repository and digest.
func splitName(s string) (repository, tag, digest string) {
	if repository, digest, ok := strings.Cut(s, "@"); ok {
		return repository, "", digest
	}
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') {
		return s[:i], s[i+1:], ""
	}
	return s, "", ""
}

// repoTags lists the names of an image that are tags.
func repoTags(names []string) []string {
	tags := []string{}
	for _, n := range names {
		if !strings.Contains(n, "@") {
			tags = append(tags, n)
		}
	}
	return tags
}

// repoDigests lists the names of an image that are digests, and those that its manifest has in the repositories that
// it came from.
func repoDigests(img *image.Image, names []string) []string {
	digests := []string{}
	origins := make(map[string]bool)
	for _, l := range img.Layers {
		origins[l.Origin] = true
	}
	for _, n := range names {
		switch repo, _, digest := splitName(n); {
		case digest != "":
			digests = append(digests, n)
		case img.Manifest != v1.Hash{}:
			if r, err := name.NewRepository(repo, name.WeakValidation); err == nil && origins[r.Name()] {
				digests = append(digests, repo+"@"+img.Manifest.String())
			}
		}
	}
	slices.Sort(digests)
	return slices.Compact(digests)
}

// find looks an image up by a name or an ID, with an error that names it.
func (s *session) find(ref string) (*image.Image, error) {
	img, err := s.Images.Find(ref)
	if errors.Is(err, image.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s", errNoSuchImage, ref)
	}
	return img, err
}

// errNoSuchImage is docker's word for an image that is not in the store.
var errNoSuchImage = errors.New("no such image")

// parseReference parses an image name of the command line.
func (s *session) parseReference(value string) (name.Reference, error) {
	ref, err := s.registry.ParseReference(value)
	if err != nil {
		return nil, usagef("%w", err)
	}
	return ref, nil
}
