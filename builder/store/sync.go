package store

import (
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

// SyncMode says when layers are made durable.
type SyncMode string

// The modes.
const (
	SyncAuto   SyncMode = "auto" // where it does not take long
	SyncAlways SyncMode = "always"
	SyncNever  SyncMode = "never" // not by this process
)

// SyncNew makes the layers of the store durable, if there are new ones, for a build or a pull that took so long. Where that would take too
// long it is left to a later command: until then the first one after a power failure drops those that are not whole.
func (s *Store) SyncNew(mode SyncMode, took time.Duration) error {
	if mode == SyncNever || mode == SyncAuto && unwritten() > cheapSync+int64(max(took.Seconds(), 0)*syncPerTime) {
		return nil
	}
	_, err := s.Snapshots.Sync()
	return err
}

// SyncAll makes everything in the store durable, however long that takes, unless the mode is SyncNever.
func (s *Store) SyncAll(mode SyncMode) error {
	if mode == SyncNever {
		return nil
	}
	return s.Snapshots.SyncAll()
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
