package cachemount

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/flock"
	"github.com/strake-build/strake/layer/rootfs"
)

// Info is a directory of a cache as List found it.
type Info struct {
	ID    string // as in --mount=type=cache,id=ID, with what keeps others' apart
	Dir   string // its folder
	Used  time.Time
	Disk  int64 // what it took of the disk, in bytes
	InUse bool  // a step has it
}

// Name is the ID of a cache as people know it: that of no namespace is left out.
func Name(id string) string { return strings.TrimPrefix(id, "/") }

// List lists the directories of all caches. One that was used since it was last measured is measured again.
func (s *Store) List() ([]Info, error) {
	places, err := fs.Glob(os.DirFS(s.Dir), "*/*/lock")
	if err != nil {
		return nil, fmt.Errorf("listing the caches of steps: %w", err)
	}
	var list []Info
	for _, l := range places {
		info, err := s.describe(filepath.Join(s.Dir, filepath.Dir(l)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("listing the caches of steps: %w", err)
		}
		list = append(list, info)
	}
	return list, nil
}

func (s *Store) describe(place string) (Info, error) {
	info := Info{Dir: place}
	var err error
	if info.Used, info.InUse, err = placeUse(place); err != nil {
		return info, err
	}
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(place), "id")); err != nil || json.Unmarshal(b, &info.ID) != nil {
		info.ID = filepath.Base(filepath.Dir(place)) // it is only for people
	}
	usage := filepath.Join(place, "usage")
	if m, err := os.Lstat(usage); err == nil && m.ModTime().After(info.Used) {
		if b, err := os.ReadFile(usage); err == nil {
			if n, err := strconv.ParseInt(string(b), 10, 64); err == nil && n > 0 {
				info.Disk = n
				return info, nil
			}
		}
	}
	if info.Disk, err = (&rootfs.DiskUsage{}).Of(place); err != nil {
		return info, err
	}
	// What somebody used meanwhile is measured again the next time.
	if used, busy, err := placeUse(place); err == nil && !busy && !info.InUse && used.Equal(info.Used) {
		_ = os.WriteFile(usage, []byte(strconv.FormatInt(info.Disk, 10)), 0o600)
	}
	return info, nil
}

// placeUse says when a place was last taken, and whether somebody has it now.
func placeUse(place string) (used time.Time, busy bool, err error) {
	lock, err := os.Open(filepath.Join(place, "lock"))
	if err != nil {
		return used, false, err
	}
	defer lock.Close() // at once: a step that wants a private cache would take another place
	fi, err := lock.Stat()
	if err != nil {
		return used, false, err
	}
	return fi.ModTime(), errors.Is(flock.Try(lock, flock.Shared), flock.ErrHeld), nil
}

// Remove deletes a directory of a cache that List found. It returns false if a step has it.
func (s *Store) Remove(info Info) (bool, error) {
	gone, err := removePlace(info.Dir)
	if err != nil {
		return false, fmt.Errorf("removing the cache %s: %w", info.ID, err)
	}
	return gone, nil
}

// removedMark is in the name of a place that is being removed.
const removedMark = ".removed-"

// removePlace deletes a directory unless somebody has its lock. It is renamed first: who waits for the lock makes another one.
func removePlace(place string) (bool, error) {
	lock, err := flock.TryOpen(filepath.Join(place, "lock"), os.O_RDONLY, flock.Alone)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if errors.Is(err, flock.ErrHeld) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Close() // only a lock
	base := filepath.Dir(place)
	parent, err := os.OpenFile(base, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return false, err
	}
	defer parent.Close()                                       // only a name
	doomed := filepath.Base(place) + removedMark + rand.Text() // after a crash List lists it, too
	if err := os.Rename(place, filepath.Join(base, doomed)); err != nil {
		return false, err
	}
	if err := rootfs.RemoveAll(parent, doomed); err != nil {
		return false, err
	}
	if left, _ := fs.Glob(os.DirFS(base), "*/lock"); len(left) == 0 {
		_ = os.Remove(filepath.Join(base, "id"))
		_ = os.Remove(base)
	}
	return true, nil
}
