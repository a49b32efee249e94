package main

import (
	"os"
	"strconv"
	"strings"
)

// bootIDFile tells one boot of the machine from another.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// bootID returns the boot of the machine, "" if that is not known.
func bootID() string {
	id, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// cheapSync is how many bytes may wait to be written, by anybody on the machine, for a build to wait for them: a syncfs
// writes them all.
const cheapSync = 64 << 20

// syncLayers makes the layers of the store durable, if there are new ones. Where that would take long it is left to
// a later command: until then a power failure costs the layers, and the next command drops what is left of them.
func (s *store) syncLayers() error {
	switch s.env.getenv("STRAKE_SYNC") {
	case "never":
		return nil
	case "always":
	case "", "auto":
		if unwritten() > cheapSync {
			return nil
		}
	default:
		return usagef("invalid STRAKE_SYNC %q: it is auto, always or never", s.env.getenv("STRAKE_SYNC"))
	}
	_, err := s.snapshots.Sync()
	return err
}

// unwritten is how many bytes the machine has not yet written to its disks; 0 if that is not known.
func unwritten() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var sum int64
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && (f[0] == "Dirty:" || f[0] == "Writeback:") {
			n, _ := strconv.ParseInt(f[1], 10, 64) // in KiB
			sum += n << 10
		}
	}
	return sum
}
