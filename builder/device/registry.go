package device

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The annotations that BuildKit knows.
const (
	classAnnotation     = "org.mobyproject.buildkit.device.class"
	autoAllowAnnotation = "org.mobyproject.buildkit.device.autoallow"
)

// Registry is the devices of a machine.
type Registry struct {
	devices map[string]*registered // by VENDOR/CLASS=NAME
	names   []string               // sorted
	// broken says what is wrong with the specifications that were left out.
	broken []error
}

type registered struct {
	spec   *spec
	device *deviceSpec
}

// annotation is the device's, or else that of its specification.
func (r *registered) annotation(name string) string {
	if v, ok := r.device.Annotations[name]; ok {
		return v
	}
	return r.spec.Annotations[name]
}

// Open reads the specifications in folders: *.json, *.yaml and *.yml. A device of a later folder hides one of the same name in an earlier one; of two
// in one folder there is neither. A folder that is not there holds nothing. A specification that is wrong is left out, and told of by
// the error about a device that is missed.
func Open(folders []string) (*Registry, error) {
	r := &Registry{devices: map[string]*registered{}}
	for _, folder := range folders {
		if err := r.read(folder); err != nil {
			return nil, fmt.Errorf("looking for devices: %w", err)
		}
	}
	r.names = slices.Sorted(maps.Keys(r.devices))
	return r, nil
}

// read adds the devices that the specifications in a folder describe; they take the place of those of folders before. What two files of the folder
// describe is there no more.
func (r *Registry) read(folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	found := map[string]*registered{}
	origin := map[string]string{}
	var twice []string
	for _, e := range entries {
		file := filepath.Join(folder, e.Name())
		if ext := filepath.Ext(file); e.IsDir() || ext != ".json" && ext != ".yaml" && ext != ".yml" {
			continue
		}
		s, err := readSpec(file)
		if err != nil {
			r.broken = append(r.broken, fmt.Errorf("reading %s: %w", file, err))
			continue
		}
		for i := range s.Devices {
			name := s.Kind + "=" + s.Devices[i].Name
			if origin[name] != "" {
				twice = append(twice, name)
				r.broken = append(r.broken, fmt.Errorf("%s is in %s and in %s", name, origin[name], file))
			}
			found[name], origin[name] = &registered{s, &s.Devices[i]}, file
		}
	}
	maps.Copy(r.devices, found)
	for _, name := range twice {
		delete(r.devices, name)
	}
	return nil
}

// Find returns the full names of the devices that name means, as BuildKit finds them: VENDOR/CLASS=NAME is one, VENDOR/CLASS the first of its kind,
// VENDOR/CLASS=* all of it; else it is the value of the annotation org.mobyproject.buildkit.device.class.
func (r *Registry) Find(name string) []string {
	kind, device, _ := strings.Cut(name, "=")
	vendor, class, _ := strings.Cut(kind, "/")
	var found []string
	if vendor != "" && class != "" {
		for _, n := range r.names {
			if of := strings.HasPrefix(n, kind+"="); n == name || of && (device == "" || device == "*") {
				found = append(found, n)
			}
		}
		if device == "" && len(found) > 1 {
			found = found[:1]
		}
	}
	if len(found) > 0 {
		return found
	}
	for _, n := range r.names {
		if name != "" && r.devices[n].annotation(classAnnotation) == name {
			found = append(found, n)
		}
	}
	return found
}

// Request is a RUN --device.
type Request struct {
	Name     string // see Find
	Required bool   // if not, a device that is not there is left out
}

// Resolve returns the full names of the devices that a step asks for, each once, and the names of those that are not there. A device
// must be allowed by rights, or by its specification's annotation org.mobyproject.buildkit.device.autoallow.
func (r *Registry) Resolve(requests []Request, rights Rights) (names, missing []string, err error) {
	granted := map[string]bool{}
	for _, n := range rights.Names {
		for _, d := range r.Find(n) {
			granted[d] = true
		}
	}
	var forbidden []string
	for _, q := range requests {
		name, isAlias := rights.Aliases[q.Name]
		if !isAlias {
			name = q.Name
		}
		found := r.Find(name)
		if len(found) == 0 && q.Required {
			return nil, nil, r.notRegistered(name)
		}
		if len(found) == 0 {
			missing = append(missing, name)
		}
		for _, n := range found {
			switch {
			case slices.Contains(names, n) || slices.Contains(forbidden, n):
			case rights.All || isAlias || granted[n] || r.autoAllowed(n):
				names = append(names, n)
			default:
				forbidden = append(forbidden, n)
			}
		}
	}
	switch len(forbidden) {
	case 0:
		return names, missing, nil
	case 1:
		return nil, nil, fmt.Errorf("device %s is requested by the build but not allowed: build with --allow device=%s", forbidden[0], forbidden[0])
	}
	return nil, nil, fmt.Errorf("devices %s are requested by the build but not allowed: build with --allow device", strings.Join(forbidden, ", "))
}

func (r *Registry) autoAllowed(name string) bool {
	allowed, err := strconv.ParseBool(r.devices[name].annotation(autoAllowAnnotation))
	return err == nil && allowed
}

func (r *Registry) notRegistered(name string) error {
	err := fmt.Errorf("required device %q is not registered", name)
	if len(r.broken) > 0 {
		err = fmt.Errorf("%w: %w", err, errors.Join(r.broken...))
	}
	return err
}
