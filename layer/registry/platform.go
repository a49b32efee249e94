package registry

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ErrPlatform is that an index has nothing for a platform.
var ErrPlatform = errors.New("there is no image for the platform")

// platformError tells that an index has nothing for a platform.
type platformError struct {
	want v1.Platform
	have []v1.Platform
}

// Is makes it an ErrPlatform.
func (e *platformError) Is(target error) bool { return target == ErrPlatform }

// Error lists the platforms there are.
func (e *platformError) Error() string {
	if len(e.have) == 0 {
		return fmt.Sprintf("there is no image for %s, nor for any other platform", e.want)
	}
	var names []string
	for _, p := range e.have {
		if s := printable(p.String(), 100); !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	return fmt.Sprintf("there is no image for %s, only for %s", e.want, strings.Join(names, ", "))
}

// choose orders the manifests of an index that may be for a platform, the best first, and lists the platforms of the
// others. Attestations are no images.
func choose(manifests []v1.Descriptor, want v1.Platform) (order []v1.Descriptor, have []v1.Platform) {
	wanted := vector(want)
	ranks := map[v1.Hash]int{}
	for _, d := range manifests {
		if !d.MediaType.IsImage() && !d.MediaType.IsIndex() || attestation(d) {
			continue
		}
		if d.Platform == nil {
			ranks[d.Digest] = len(wanted) // its configuration will tell; after those that tell themselves
			order = append(order, d)
			continue
		}
		r := rank(*d.Platform, wanted)
		if r < 0 {
			have = append(have, *d.Platform)
			continue
		}
		if _, twice := ranks[d.Digest]; !twice {
			ranks[d.Digest] = r
			order = append(order, d)
		}
	}
	slices.SortStableFunc(order, func(a, b v1.Descriptor) int { return ranks[a.Digest] - ranks[b.Digest] })
	return order, have
}

// attestation recognizes BuildKit's attestation manifests.
func attestation(d v1.Descriptor) bool {
	if d.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
		return true
	}
	return d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// platformOf names the platform of an index's entry.
func platformOf(d v1.Descriptor) string {
	if d.Platform == nil {
		return "an unnamed platform"
	}
	return printable(d.Platform.String(), 100)
}

// rank is the place of p among the platforms that are wanted, -1 when it is none of them.
func rank(p v1.Platform, wanted []v1.Platform) int {
	p = normal(p)
	return slices.IndexFunc(wanted, func(w v1.Platform) bool {
		return w.OS == p.OS && w.Architecture == p.Architecture && w.Variant == p.Variant
	})
}

// normal is the plain spelling of a platform, by containerd's rules: amd64/v1 and arm64/v8 are what has no variant,
// arm without a variant is v7.
func normal(p v1.Platform) v1.Platform {
	n := v1.Platform{OS: strings.ToLower(p.OS), Architecture: strings.ToLower(p.Architecture), Variant: strings.ToLower(p.Variant)}
	switch n.Architecture {
	case "x86_64", "x86-64":
		n.Architecture = "amd64"
	case "i386":
		n.Architecture, n.Variant = "386", ""
	case "aarch64":
		n.Architecture = "arm64"
	case "armhf":
		n.Architecture, n.Variant = "arm", "v7"
	case "armel":
		n.Architecture, n.Variant = "arm", "v6"
	}
	switch {
	case n.Architecture == "amd64" && n.Variant == "v1", n.Architecture == "arm64" && (n.Variant == "8" || n.Variant == "v8"):
		n.Variant = ""
	case n.Architecture == "arm" && n.Variant == "":
		n.Variant = "v7"
	case n.Architecture == "arm" && n.Variant[0] != 'v':
		n.Variant = "v" + n.Variant
	}
	return n
}

// vector lists the platforms that run on p, the best first: lower variants, and the 32-bit architecture of the same family.
func vector(p v1.Platform) []v1.Platform {
	p = normal(p)
	all := []v1.Platform{p}
	add := func(arch, variant string) {
		all = append(all, v1.Platform{OS: p.OS, Architecture: arch, Variant: variant})
	}
	level := func(s string) int {
		s, _, _ = strings.Cut(strings.TrimPrefix(s, "v"), ".")
		n, err := strconv.Atoi(s)
		if err != nil || n > 9 {
			return 0
		}
		return n
	}
	switch p.Architecture {
	case "amd64":
		for v := level(p.Variant) - 1; v > 1; v-- {
			add("amd64", "v"+strconv.Itoa(v))
		}
		if p.Variant != "" {
			add("amd64", "")
		}
		add("386", "")
	case "arm64":
		if p.Variant != "" {
			add("arm64", "")
		}
		for v := 8; v >= 5; v-- {
			add("arm", "v"+strconv.Itoa(v))
		}
	case "arm":
		for v := level(p.Variant) - 1; v >= 5; v-- {
			add("arm", "v"+strconv.Itoa(v))
		}
	}
	return all
}
