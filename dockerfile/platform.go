package dockerfile

import (
	"fmt"
	"path"
	"regexp"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

var (
	platformOS   = regexp.MustCompile(`^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*(?:\+[A-Za-z0-9_.%-]+)*)\))?$`)
	platformPart = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
)

// ParsePlatform reads the platform of a build, as BuildKit does: OS, ARCH or OS/ARCH[/VARIANT], with other names and the usual variant made
// the usual ones (linux/arm is linux/arm/v7).
func ParsePlatform(s string) (v1.Platform, error) {
	p, err := parsePlatform(s)
	return normalPlatform(p), err
}

// parsePlatform reads OS[(VERSION)], ARCH or OS[(VERSION)]/ARCH[/VARIANT], with the customary other names
// (x86_64, aarch64, armhf) made Go's.
func parsePlatform(s string) (v1.Platform, error) {
	if strings.Contains(s, "*") {
		return v1.Platform{}, fmt.Errorf("%q: wildcards not yet supported: invalid argument", s)
	}
	parts := strings.SplitN(s, "/", 4)
	first := platformOS.FindStringSubmatch(parts[0])
	if first == nil {
		return v1.Platform{}, fmt.Errorf("%q is an invalid OS component of %q: OSAndVersion specifier component must match %q: invalid argument", parts[0], s, platformOS)
	}
	for _, part := range parts[1:] {
		if !platformPart.MatchString(part) {
			return v1.Platform{}, fmt.Errorf("%q is an invalid component of %q: platform specifier component must match %q: invalid argument", part, s, platformPart)
		}
	}
	if len(parts) > 3 {
		return v1.Platform{}, fmt.Errorf("%q: cannot parse platform specifier: invalid argument", s)
	}
	p := v1.Platform{OS: strings.ToLower(first[1])}
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	p.OSVersion, p.OSFeatures = osOptions(first[2])
	switch len(parts) {
	case 1:
		if knownOS(p.OS) {
			p.Architecture = runtime.GOARCH
			return p, nil
		}
		p.Architecture, p.Variant = normalArch(parts[0], "")
		if !knownArch(p.Architecture) {
			return v1.Platform{}, fmt.Errorf("%q: unknown operating system or architecture: invalid argument", s)
		}
		p.OS = "linux"
	case 2:
		p.Architecture, p.Variant = normalArch(parts[1], "")
	case 3:
		p.Architecture, p.Variant = normalArch(parts[1], parts[2])
		if p.Architecture == "arm64" && p.Variant == "" {
			p.Variant = "v8"
		}
		return p, nil
	}
	if p.Architecture == "arm" && p.Variant == "v7" {
		p.Variant = ""
	}
	return p, nil
}

// osOptions parts "10.0.17763+win32k" into a version and features.
func osOptions(s string) (version string, features []string) {
	version, rest, _ := strings.Cut(s, "+")
	for f := range strings.SplitSeq(rest, "+") {
		if f != "" {
			features = append(features, f)
		}
	}
	return version, features
}

func knownOS(os string) bool {
	switch os {
	case "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux",
		"nacl", "netbsd", "openbsd", "plan9", "solaris", "windows", "zos":
		return true
	}
	return false
}

func knownArch(arch string) bool {
	switch arch {
	case "386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "ppc64", "ppc64le", "loong64", "mips", "mipsle",
		"mips64", "mips64le", "mips64p32", "mips64p32le", "ppc", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm":
		return true
	}
	return false
}

// normalArch gives architecture and variant their usual names; the usual variant of one is empty, but for arm.
func normalArch(arch, variant string) (string, string) {
	arch, variant = strings.ToLower(arch), strings.ToLower(variant)
	switch arch {
	case "i386":
		return "386", ""
	case "x86_64", "x86-64", "amd64":
		if variant == "v1" {
			variant = ""
		}
		return "amd64", variant
	case "aarch64", "arm64":
		switch variant {
		case "8", "v8", "v8.0":
			variant = ""
		case "9", "9.0", "v9.0":
			variant = "v9"
		}
		return "arm64", variant
	case "armhf":
		return "arm", "v7"
	case "armel":
		return "arm", "v6"
	case "arm":
		switch variant {
		case "", "7":
			variant = "v7"
		case "5", "6", "8":
			variant = "v" + variant
		}
	}
	return arch, variant
}

// shortPlatform is OS/ARCH[/VARIANT], and longPlatform has the version of the OS too.
func shortPlatform(p v1.Platform) string {
	if p.OS == "" {
		return "unknown"
	}
	return path.Join(p.OS, p.Architecture, p.Variant)
}

func longPlatform(p v1.Platform) string {
	options := strings.Join(append([]string{p.OSVersion}, p.OSFeatures...), "+")
	if p.OS == "" || options == "" {
		return shortPlatform(p)
	}
	return path.Join(p.OS+"("+options+")", p.Architecture, p.Variant)
}

// normalPlatform is p with the usual names.
func normalPlatform(p v1.Platform) v1.Platform {
	p.OS = strings.ToLower(p.OS)
	p.Architecture, p.Variant = normalArch(p.Architecture, p.Variant)
	return p
}

// LintImage is the rule on an image that is for another platform than the stage that copies from it or mounts it. r is the instruction.
func (g *Graph) LintImage(name string, want v1.Platform, image v1.ConfigFile, r Range) []Warning {
	found := newFindings(g.lint)
	at := []parser.Range{{Start: parser.Position{Line: r.Start}, End: parser.Position{Line: r.End}}}
	lintPlatform(found.linter, name, want, image, at)
	return *found.warnings
}

func lintPlatform(lint *linter.Linter, name string, want v1.Platform, c v1.ConfigFile, at []parser.Range) {
	if c.OS == want.OS && c.Architecture == want.Architecture {
		return
	}
	have := v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, OSVersion: c.OSVersion, OSFeatures: c.OSFeatures}
	rule := &linter.RuleInvalidBaseImagePlatform
	lint.Run(rule, at, rule.Format(name, longPlatform(normalPlatform(want)), longPlatform(normalPlatform(have))))
}
