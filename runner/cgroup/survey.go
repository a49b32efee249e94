package cgroup

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Survey is what there is for limits.
type Survey struct {
	Version int // 1 or 2; 0 without control groups
	// Controllers are those that this process can limit a box with.
	Controllers []string
	// Dir is the group that boxes would be made in, as far as there is one for all.
	Dir string
}

// Look finds the control groups of this machine and changes nothing.
func Look() (Survey, error) {
	h, err := findHierarchies()
	if err != nil {
		return Survey{}, err
	}
	return h.survey(), nil
}

// survey says which controllers this process may use.
func (h *hierarchies) survey() Survey {
	if len(h.v1) > 0 {
		s := Survey{Version: 1}
		for _, c := range slices.Sorted(maps.Keys(h.v1)) {
			if !strings.HasPrefix(c, "name=") && unix.Access(h.v1[c].own, unix.W_OK) == nil {
				s.Controllers = append(s.Controllers, c)
			}
		}
		return s
	}
	if h.v2.mount == "" {
		return Survey{}
	}
	s := Survey{Version: 2}
	for _, at := range h.homes("") {
		dir := at.dir
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			dir = filepath.Dir(dir) // it would be made
		}
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		have := strings.Fields(string(data))
		if err == nil && len(have) > 0 && unix.Access(dir, unix.W_OK) == nil {
			s.Dir, s.Controllers = at.dir, have
			return s
		}
	}
	return s
}
