package main

import (
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/dockerfile"
)

// parseTags parses the values of -t.
func parseTags(env *environment, values []string) ([]name.Tag, error) {
	var tags []name.Tag
	client := env.registry()
	for _, v := range values {
		ref, err := client.ParseReference(v)
		if err != nil {
			return nil, usagef("invalid name %q: %w", v, err)
		}
		tag, ok := ref.(name.Tag)
		if !ok {
			return nil, usagef("invalid name %q: a digest cannot be given to an image", v)
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

// parsePlatform parses OS, OS/ARCH[/VARIANT] or ARCH, with the spellings that docker knows; "" and "local" are this machine's.
func parsePlatform(s string) (v1.Platform, error) {
	if s == "" || s == "local" {
		return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, nil
	}
	if strings.ContainsAny(s, ", ") {
		return v1.Platform{}, usagef("invalid --platform %q: it is one platform, such as linux/arm64", s)
	}
	p, err := dockerfile.ParsePlatform(s)
	if err != nil {
		return v1.Platform{}, usagef("invalid --platform %q: it is OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64", s)
	}
	if p.OS == "windows" {
		return v1.Platform{}, usagef("invalid --platform %q: strake builds no images for Windows", s)
	}
	return p, nil
}
