package snapshot

import (
	"fmt"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/rootfs"
)

// Info is what the store knows of a layer.
type Info struct {
	DiffID   v1.Hash // zero if it was never asked for
	Unpacked bool    // from a tar that was given, and not made here
	Disk     int64   // how many bytes it takes of the disk
	Made     time.Time
}

// Info returns what is known of a layer. The first time it measures the layer, and remembers that.
func (s *Store) Info(id ID) (Info, error) {
	if err := s.check(id); err != nil {
		return Info{}, err
	}
	fi, err := os.Lstat(s.path(id))
	if err != nil {
		return Info{}, fmt.Errorf("measuring layer %s: %w", id, err)
	}
	m, err := s.readMeta(id)
	if err != nil {
		return Info{}, fmt.Errorf("measuring layer %s: %w", id, err)
	}
	info := Info{DiffID: m.DiffID, Unpacked: m.Unpacked, Disk: m.Disk, Made: fi.ModTime()}
	if m.Disk == 0 {
		if info.Disk, err = (&rootfs.DiskUsage{}).Of(s.fs(id)); err != nil {
			return Info{}, fmt.Errorf("measuring layer %s: %w", id, err)
		}
		s.remember(id, info.Disk)
	}
	// The folder and meta change, the files do not.
	beside, err := (&rootfs.DiskUsage{Skip: func(p string) bool { return p == s.fs(id) }}).Of(s.path(id))
	if err != nil {
		return Info{}, fmt.Errorf("measuring layer %s: %w", id, err)
	}
	info.Disk += beside
	return info, nil
}

// remember notes the size of a layer's files. It does not mind if it cannot.
func (s *Store) remember(id ID, disk int64) {
	// Read again: others may have learned the diffID in the meantime. Whose note is lost in spite of that does it again.
	m, err := s.readMeta(id)
	if err != nil {
		return
	}
	fi, err := os.Lstat(s.path(id))
	if err != nil {
		return
	}
	m.Disk = disk
	if writeMeta(s.path(id), m) == nil {
		_ = os.Chtimes(s.path(id), time.Time{}, fi.ModTime()) // it says when the layer was made
	}
}

// ViewsUsage is how many bytes the views of layers take beside the layers themselves.
func (s *Store) ViewsUsage() (int64, error) {
	size, err := (&rootfs.DiskUsage{Private: true}).Of(s.trees())
	if err != nil {
		return size, fmt.Errorf("measuring %s: %w", s.trees(), err)
	}
	return size, nil
}

// Views returns the folder of the views of layers, which hold hard links to the layers' files.
func (s *Store) Views() string { return s.trees() }

// Dir returns the folder of a layer: its files and what is known of it.
func (s *Store) Dir(id ID) string { return s.path(id) }
