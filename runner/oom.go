package runner

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/strake-build/strake/runner/cgroup"
)

// oomFile is the file of this process's memory cgroup that counts kills for want of memory; empty if there is none to see.
type oomFile string

// findOOM finds it, on cgroup version 2 or 1.
func findOOM() oomFile {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	var found oomFile
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var file string
		switch {
		case parts[1] == "":
			file = filepath.Join("/sys/fs/cgroup", parts[2], "memory.events")
		case strings.Contains(","+parts[1]+",", ",memory,"):
			file = filepath.Join("/sys/fs/cgroup/memory", parts[2], "memory.oom_control")
		default:
			continue
		}
		if _, err := os.Stat(file); err == nil {
			found = oomFile(file)
		}
	}
	return found
}

// count returns the number of processes killed so far.
func (f oomFile) count() uint64 {
	if f == "" {
		return 0
	}
	return cgroup.Kills(string(f))
}
