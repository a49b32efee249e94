// Package device finds devices by their CDI names (Container Device Interface, SPEC.md) and says what a step needs
// of the host to use them: variables, device nodes and mounts.
package device

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxSpec is how long a specification may be, in bytes: a program writes it, and a big one has some ten thousand.
const maxSpec = 4 << 20

// spec is a CDI specification. What strake does not do is kept as it is, so that whoever asks for such a device is told.
type spec struct {
	Version     string            `json:"cdiVersion"`
	Kind        string            `json:"kind"`
	Annotations map[string]string `json:"annotations"`
	Devices     []deviceSpec      `json:"devices"`
	Edits       edits             `json:"containerEdits"`
}

type deviceSpec struct {
	Name        string            `json:"name"`
	Annotations map[string]string `json:"annotations"`
	Edits       edits             `json:"containerEdits"`
}

type edits struct {
	Env    []string    `json:"env"`
	Nodes  []nodeSpec  `json:"deviceNodes"`
	Mounts []mountSpec `json:"mounts"`

	Hooks  []hookSpec `json:"hooks"`
	Groups []uint32   `json:"additionalGids"`

	Rdt        json.RawMessage   `json:"intelRdt"`
	NetDevices []json.RawMessage `json:"netDevices"`
}

type hookSpec struct {
	Name    string   `json:"hookName"`
	Path    string   `json:"path"`
	Args    []string `json:"args"`
	Env     []string `json:"env"`
	Timeout *int     `json:"timeout"` // in seconds
}

func (h hookSpec) hook() Hook {
	hook := Hook{Name: h.Name, Path: h.Path, Args: h.Args, Env: h.Env}
	if h.Timeout != nil {
		hook.Timeout = time.Duration(*h.Timeout) * time.Second
	}
	return hook
}

// hookNames are those of CDI (SPEC.md, "hookName").
var hookNames = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

func (h hookSpec) validate() error {
	switch {
	case !slices.Contains(hookNames, h.Name):
		return fmt.Errorf("invalid hookName %q", h.Name)
	case !filepath.IsAbs(h.Path):
		return fmt.Errorf("%s hook: its path %q is not absolute", h.Name, h.Path)
	case h.Timeout != nil && *h.Timeout <= 0:
		return fmt.Errorf("%s hook: its timeout is not positive", h.Name)
	}
	for _, kv := range h.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" || strings.Contains(kv, "\x00") {
			return fmt.Errorf("%s hook: invalid environment variable %q", h.Name, kv)
		}
	}
	return nil
}

type nodeSpec struct {
	Path        string  `json:"path"`
	HostPath    string  `json:"hostPath"`
	Type        string  `json:"type"`
	Major       int64   `json:"major"`
	Minor       int64   `json:"minor"`
	FileMode    *uint32 `json:"fileMode"`
	Permissions string  `json:"permissions"`
	UID         *uint32 `json:"uid"`
	GID         *uint32 `json:"gid"`
}

// source is the path of the node on the host.
func (n nodeSpec) source() string { return cmp.Or(n.HostPath, n.Path) }

type mountSpec struct {
	HostPath      string   `json:"hostPath"`
	ContainerPath string   `json:"containerPath"`
	Options       []string `json:"options"`
	Type          string   `json:"type"`
}

// readSpec reads the specification in file.
func readSpec(file string) (*spec, error) {
	// A pipe must not be waited for.
	if st, err := os.Stat(file); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, errors.New("not a file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSpec {
		return nil, fmt.Errorf("longer than %d bytes", maxSpec)
	}
	return parseSpec(data, filepath.Ext(file) != ".json")
}

// parseSpec reads a specification, in JSON or YAML.
func parseSpec(data []byte, isYAML bool) (*spec, error) {
	if isYAML {
		var value any
		err := yaml.Unmarshal(data, &value)
		if err == nil {
			data, err = json.Marshal(value)
		}
		if err != nil {
			return nil, err
		}
	}
	var s spec
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields() // as CDI has it: what is not known cannot be done
	if err := dec.Decode(&s); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	return &s, s.validate()
}

// versions are the versions of CDI.
var versions = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"}

// The names of CDI (SPEC.md, "Kind" and "CDI Devices").
var (
	vendorName = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`)
	className  = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`)
	deviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$`)
)

// validate refuses a specification that CDI does not allow (SPEC.md).
func (s *spec) validate() error {
	if !slices.Contains(versions, strings.TrimPrefix(s.Version, "v")) {
		return fmt.Errorf("unknown CDI version %q", s.Version)
	}
	vendor, class, _ := strings.Cut(s.Kind, "/")
	if !vendorName.MatchString(vendor) || !className.MatchString(class) {
		return fmt.Errorf("invalid kind %q: it is VENDOR/CLASS", s.Kind)
	}
	if len(s.Devices) == 0 {
		return errors.New("no devices")
	}
	if err := s.Edits.validate(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, d := range s.Devices {
		switch {
		case !deviceName.MatchString(d.Name):
			return fmt.Errorf("invalid device name %q", d.Name)
		case seen[d.Name]:
			return fmt.Errorf("two devices have the name %q", d.Name)
		case d.Edits.empty():
			return fmt.Errorf("device %q: it has no containerEdits", d.Name)
		}
		seen[d.Name] = true
		if err := d.Edits.validate(); err != nil {
			return fmt.Errorf("device %q: %w", d.Name, err)
		}
	}
	return nil
}

func (e *edits) empty() bool {
	return len(e.Env)+len(e.Nodes)+len(e.Mounts)+len(e.Hooks)+len(e.Groups)+len(e.NetDevices) == 0 && !e.hasRdt()
}

func (e *edits) hasRdt() bool { return len(e.Rdt) > 0 && string(e.Rdt) != "null" }

// possible says what of the edits strake cannot make, and why.
func (e *edits) possible() error {
	switch {
	case e.hasRdt():
		return errors.New("intelRdt, which is not supported: strake makes no group in the host's resctrl")
	case len(e.NetDevices) > 0:
		return errors.New("netDevices, which is not supported: no interface of the host is moved into a step's network")
	}
	for _, h := range e.Hooks {
		if h.Name == "startContainer" {
			return errors.New("a startContainer hook, which is not supported: its program would be one of the image")
		}
	}
	return nil
}

// validate refuses edits that CDI does not allow, or that could not be made.
func (e *edits) validate() error {
	for _, kv := range e.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" || strings.Contains(kv, "\x00") {
			return fmt.Errorf("invalid environment variable %q", kv)
		}
	}
	for _, h := range e.Hooks {
		if err := h.validate(); err != nil {
			return err
		}
	}
	for _, n := range e.Nodes {
		switch {
		case !filepath.IsAbs(n.Path) || !filepath.IsAbs(n.source()):
			return fmt.Errorf("device node %q: its paths are not absolute", n.Path)
		case !slices.Contains([]string{"", "b", "c", "u", "p"}, n.Type):
			return fmt.Errorf("device node %s: unknown type %q", n.Path, n.Type)
		case strings.Trim(n.Permissions, "rwm") != "":
			return fmt.Errorf("device node %s: invalid permissions %q", n.Path, n.Permissions)
		}
	}
	for _, m := range e.Mounts {
		if m.Type != "tmpfs" && !filepath.IsAbs(m.HostPath) || !filepath.IsAbs(m.ContainerPath) {
			return fmt.Errorf("mount of %q at %q: its paths are not absolute", m.HostPath, m.ContainerPath)
		}
	}
	return nil
}
