package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// module is this module's path.
const module = "github.com/strake-build/strake"

// allowed is the house: who may import whom, inside this module. A package that
// is missing here fails the test, so a new package needs a decision. Inside runner it goes down only: the parent, the init of a box, what answers
// calls in it, what compiles filters.
var allowed = map[string][]string{
	"dockerfile":                  {},
	"dockerfile/ignore":           {},
	"layer/compress":              {},
	"layer/rootfs":                {},
	"layer":                       {"layer/compress", "layer/rootfs"},
	"layer/flock":                 {},
	"layer/lease":                 {"layer/flock"},
	"layer/blob":                  {"layer/flock", "layer/lease"},
	"layer/snapshot":              {"layer", "layer/blob", "layer/compress", "layer/flock", "layer/lease", "layer/rootfs", "layer/snapshot/*"},
	"layer/snapshot/tree":         {"layer/rootfs"},
	"layer/image":                 {"layer", "layer/blob", "layer/compress", "layer/flock", "layer/lease", "layer/rootfs", "layer/snapshot"},
	"layer/registry":              {"layer/blob"},
	"layer/registry/registrytest": {"layer/*"},
	"cache":                       {"layer/flock"},
	"cache/remote":                {"cache", "layer/*"},
	"cache/remote/wire":           {},
	"cache/remote/*":              {"cache", "cache/*"},
	"runner":                      {"runner/cgroup", "runner/network", "runner/sandbox", "runner/supervisor", "runner/seccomp"},
	"runner/cgroup":               {},
	"runner/network":              {},
	"runner/sandbox":              {"runner/supervisor", "runner/seccomp"},
	"runner/supervisor":           {"runner/seccomp"},
	"runner/seccomp":              {},
	"runner/seccomp/seccomptest":  {},
	"builder/progress":            {},
	"builder/solver":              {"builder/progress", "cache"},
	"builder/source":              {"dockerfile/ignore", "layer", "layer/*"},
	"builder/copier":              {"builder/source", "layer", "layer/*"},
	"builder/export":              {"builder/*", "layer", "layer/*"},
	"builder/agent":               {},
	"builder/cachemount":          {"cache", "cache/remote", "dockerfile", "layer", "layer/*"},
	"builder/device":              {},
	"builder/fetch":               {"layer", "layer/compress", "layer/flock", "layer/rootfs"},
	"builder/load":                {"layer/*"},
	"builder/store":               {"builder/cachemount", "builder/fetch", "builder/source", "cache", "layer/*"},
	"builder":                     {"builder/*", "cache", "cache/*", "dockerfile", "dockerfile/*", "layer", "layer/*", "runner"},
	"cmd/ui":                      {"builder/progress", "dockerfile"},
	"cmd/strake":                  {"*"},
	"testdata/*":                  {"*"},
}

// owner says which packages alone may import an external module.
var owner = map[string][]string{
	"github.com/moby/buildkit":       {"dockerfile"},
	"github.com/moby/patternmatcher": {"dockerfile/ignore"},
	"github.com/klauspost/compress":  {"layer/compress"},
	"github.com/klauspost/pgzip":     {"layer/compress"},
	"github.com/ulikunitz/xz":        {"layer/compress"},
	"github.com/spf13/cobra":         {"cmd/strake"},
	"github.com/spf13/pflag":         {"cmd/strake"},

	"golang.org/x/crypto": {"builder/agent"},
	"go.yaml.in/yaml":     {"builder/device"},

	"github.com/google/go-containerregistry/pkg/authn":               {"layer/registry"},
	"github.com/google/go-containerregistry/pkg/v1/remote":           {"layer/registry"},
	"github.com/google/go-containerregistry/pkg/v1/remote/transport": {"layer/registry"},
	"github.com/google/go-containerregistry/pkg/registry":            {"layer/registry/registrytest"},
}

// listedPackage is what go list tells of a package.
type listedPackage struct {
	ImportPath, Doc  string
	GoFiles, Imports []string
}

func TestArchitecture(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,GoFiles,Imports,Doc", module+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listedPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		checkPackage(t, p)
	}
}

func checkPackage(t *testing.T, p listedPackage) {
	self := strings.TrimPrefix(p.ImportPath, module+"/")
	if len(p.GoFiles) == 0 {
		return // tests only
	}
	rules, ok := allowed[self]
	for pattern, r := range allowed {
		if !ok && match([]string{pattern}, self) {
			rules, ok = r, true
		}
	}
	if !ok {
		t.Errorf("%s: not in the house; add it to allowed", self)
	}
	if p.Doc == "" {
		t.Errorf("%s: no package comment", self)
	}
	for _, imp := range p.Imports {
		if in, ok := strings.CutPrefix(imp, module+"/"); ok {
			if !match(rules, in) {
				t.Errorf("%s may not import %s", self, in)
			}
			continue
		}
		for dep, owners := range owner {
			if (imp == dep || strings.HasPrefix(imp, dep+"/")) && !slices.Contains(owners, self) {
				t.Errorf("%s imports %s; only %s may", self, imp, strings.Join(owners, ", "))
			}
		}
	}
}

func match(rules []string, p string) bool {
	for _, r := range rules {
		if r == "*" || r == p || strings.HasSuffix(r, "/*") && strings.HasPrefix(p, strings.TrimSuffix(r, "*")) {
			return true
		}
	}
	return false
}
