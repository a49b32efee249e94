package main

import (
	"cmp"
	"os"
	"strconv"
	"strings"
	"time"
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

// How many bytes may wait to be written, by anybody on the machine, for a build to wait for them: a syncfs writes them all.
const (
	cheapSync   = 64 << 20 // for any build
	syncPerTime = 10 << 20 // more for each second that the build took: a twentieth of its time, on a slow disk
)

// syncLayers makes the layers of the store durable, if there are new ones, for a build or a pull that took so long. Where that would take too
// long it is left to a later command: until then the first one after a power failure drops those that are not whole.
func (s *store) syncLayers(took time.Duration) error {
	mode, err := s.env.syncMode()
	if err != nil || mode == "never" || mode == "auto" && unwritten() > cheapSync+int64(max(took.Seconds(), 0)*syncPerTime) {
		return err
	}
	_, err = s.snapshots.Sync()
	return err
}

// syncLoaded makes everything in the store durable, however long that takes: what came from an archive may be nowhere else.
func (s *store) syncLoaded() error {
	mode, err := s.env.syncMode()
	if err != nil || mode == "never" {
		return err
	}
	return s.snapshots.SyncAll()
}

// syncMode is the value of STRAKE_SYNC.
func (e *environment) syncMode() (string, error) {
	switch mode := cmp.Or(e.getenv("STRAKE_SYNC"), "auto"); mode {
	case "auto", "always", "never":
		return mode, nil
	default:
		return "", usagef("invalid STRAKE_SYNC %q: it is auto, always or never", mode)
	}
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
