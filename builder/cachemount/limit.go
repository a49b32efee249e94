package cachemount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/flock"
	"github.com/strake-build/strake/layer/rootfs"
)

// Excess is a directory of a cache that takes more of the disk than it may.
type Excess struct {
	Info
	Limit   int64 // bytes
	Emptied bool  // false: somebody uses it
}

// note remembers that Open gave a directory of the cache with that ID to a step.
func (s *Store) note(place, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == nil {
		s.used = make(map[string]string)
	}
	s.used[place] = id
}

// Limit measures the directories that Open returned and empties those that take more than limit says of their ID, in bytes; 0 is
// no limit, and such a directory is not measured. One that somebody uses stays as it is. It returns all that take too much, by ID, also with an error.
//
// Others may use and remove directories meanwhile.
func (s *Store) Limit(ctx context.Context, limit func(id string) int64) (list []Excess, err error) {
	s.mu.Lock()
	used := maps.Clone(s.used)
	s.mu.Unlock()
	for _, place := range slices.Sorted(maps.Keys(used)) {
		id := used[place]
		most := limit(id)
		if most <= 0 {
			continue
		}
		if ctx.Err() != nil {
			return list, context.Cause(ctx)
		}
		info, derr := s.describe(place)
		info.ID = id
		if errors.Is(derr, fs.ErrNotExist) || derr == nil && info.Disk <= most {
			continue // others remove things in it while it is measured: they look after it
		}
		excess := Excess{Info: info, Limit: most}
		if derr == nil && !info.InUse {
			var changed bool
			if excess.Emptied, changed, derr = empty(info); changed {
				continue // who used it since looks after it
			}
		}
		if errors.Is(derr, fs.ErrNotExist) {
			continue // somebody removed it since
		}
		if derr != nil {
			err = errors.Join(err, fmt.Errorf("limiting the cache mount %s: %w", id, derr))
			continue
		}
		list = append(list, excess)
	}
	slices.SortStableFunc(list, func(a, b Excess) int { return cmp.Compare(a.ID, b.ID) })
	return list, err
}

// empty removes what a directory holds. Its place and its lock stay: others may wait for the lock, and make the directory again.
// It does nothing if somebody uses it (done is false) or did since it was measured (changed is true).
func empty(info Info) (done, changed bool, err error) {
	lock, err := flock.TryOpen(filepath.Join(info.Dir, "lock"), os.O_RDONLY, flock.Alone)
	if errors.Is(err, flock.ErrHeld) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	defer lock.Close() // only a lock
	fi, err := lock.Stat()
	if err != nil || !fi.ModTime().Equal(info.Used) {
		return false, err == nil, err
	}
	_ = unix.Utimes(lock.Name(), nil) // what anybody measured before counts no more
	place, err := os.OpenFile(info.Dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return false, false, err
	}
	defer place.Close() // only a name
	// Under the name of a directory in the making, what is left by a crash is removed by the next who makes it.
	if err := rootfs.RemoveAll(place, "fs.new"); err != nil {
		return false, false, err
	}
	dir := filepath.Join(info.Dir, "fs")
	if err := os.Rename(dir, dir+".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, false, err
	}
	// What was merged from other machines' caches is gone with it.
	if err := os.Remove(filepath.Join(info.Dir, "merged")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, false, err
	}
	return true, false, rootfs.RemoveAll(place, "fs.new")
}
