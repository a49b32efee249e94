package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// place is where a hierarchy is mounted, and where this process is in it.
type place struct {
	mount, own string
}

// hierarchies are the control groups of this machine. Those of version 1 are by controller; if there are any, limits are set there.
type hierarchies struct {
	v1 map[string]place
	v2 place
}

func findHierarchies() (*hierarchies, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("finding the control groups: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("finding the control groups: %w", err)
	}
	return parseHierarchies(string(mounts), string(own)), nil
}

// parseHierarchies reads /proc/PID/mountinfo and /proc/PID/cgroup (proc(5), cgroups(7)).
func parseHierarchies(mounts, own string) *hierarchies {
	paths := map[string]string{} // by controller, version 2 by ""
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			paths[c] = parts[2]
		}
	}
	h := &hierarchies{v1: map[string]place{}}
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		root, mount := unescape(left[3]), unescape(left[4])
		at := func(path string) place {
			rel, err := filepath.Rel(root, path)
			if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
				rel = "." // out of sight: the mount is all there is
			}
			return place{mount, filepath.Join(mount, rel)}
		}
		switch right[0] {
		case "cgroup2":
			if h.v2.mount == "" {
				h.v2 = at(paths[""])
			}
		case "cgroup":
			for c := range strings.SplitSeq(right[2], ",") {
				path, ok := paths[c]
				if _, twice := h.v1[c]; ok && !twice {
					h.v1[c] = at(path)
				}
			}
		}
	}
	return h
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
