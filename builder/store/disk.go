package store

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Disk is the file system that a store is on, in bytes.
type Disk struct {
	Size, Used int64
	Free       int64 // for who is not root
}

// Disk measures the file system.
func (s *Store) Disk() (Disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.Root, &st); err != nil {
		return Disk{}, fmt.Errorf("asking how much of the disk of %s is free: %w", s.Root, err)
	}
	return Disk{Size: int64(st.Blocks) * st.Bsize, Used: int64(st.Blocks-st.Bfree) * st.Bsize, Free: int64(st.Bavail) * st.Bsize}, nil
}

// Cap bounds what something takes of the disk. The zero value is none.
type Cap struct {
	Bytes   int64
	Percent float64 // of the disk; counts if Bytes is 0
}

// On is the bound on a disk, in bytes; 0 for none.
func (c Cap) On(d Disk) int64 {
	if c.Bytes > 0 {
		return c.Bytes
	}
	return int64(c.Percent / 100 * float64(d.Size))
}
