package cgroup

import (
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
	parents := []string{h.v2.mount}
	if h.v2.own != h.v2.mount {
		parents = append(parents, filepath.Dir(h.v2.own))
	}
	for _, parent := range parents {
		if unix.Access(parent, unix.W_OK) != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
		if have := strings.Fields(string(data)); err == nil && len(have) > 0 {
			s.Dir, s.Controllers = parent, have
			return s
		}
	}
	return s
}
