package main

import (
	"math"
	"runtime"
	"strconv"
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

// parseSize parses a size as docker does: a number with the unit b, k, m, g, t or p, binary, also as "kb" or "KiB"; "" is 0.
// Errors call it what, a flag such as --memory or a variable.
func parseSize(what, value string) (int64, error) {
	if value == "" {
		return 0, nil
	}
	number := strings.TrimRight(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit := strings.ToLower(value[len(number):])
	unit = strings.TrimSuffix(strings.TrimSuffix(unit, "b"), "i")
	power := strings.Index("kmgtp", unit) // -1 + 1 is no unit
	if unit == "" {
		power = -1
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || len(unit) > 1 || unit != "" && power < 0 || n <= 0 || math.IsInf(n, 0) || math.IsNaN(n) {
		return 0, usagef("invalid %s %q: it is a size, such as 512m", what, value)
	}
	n *= math.Pow(1024, float64(power+1))
	if n < 1 || n > math.MaxInt64/2 {
		return 0, usagef("invalid %s %q: it is out of range", what, value)
	}
	return int64(n), nil
}
