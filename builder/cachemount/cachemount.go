// Package cachemount keeps the directories of RUN --mount=type=cache: lends them to steps, lists, bounds, checks and removes them, and
// takes them to other machines' caches and from them.
package cachemount

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/layer/flock"
	"github.com/strake-build/strake/layer/rootfs"
)

// Store keeps the directories of RUN --mount=type=cache. Several processes share it: a step holds a
// lock on the directory that it uses.
//
//	DIR/HASH/N/fs     a directory of the cache whose ID and Variant have that hash; 0, and more for private sharing
//	DIR/HASH/N/lock   its lock; the file's time is that of the last use
//	DIR/HASH/N/usage  what it took of the disk when that was last measured
//	DIR/HASH/id       the ID, for people
type Store struct {
	Dir    string
	Travel *Travel // nil for none

	mu   sync.Mutex
	used map[string]string // the places that Open returned, and the IDs of their caches
}

// Mount is what a step asks for.
type Mount struct {
	ID      string
	Variant string // keeps caches of the same ID apart that begin as something else
	Sharing dockerfile.Sharing
	// The following are used when the directory is made.
	Mode     uint32
	UID, GID int
	Owners   *rootfs.Owners         // how owners are kept
	Seed     func(dir string) error // fills it, and gives it its owner and mode; nil leaves it empty, with UID, GID and Mode
	Platform string                 // what it is for, on other machines
}

// Open returns a directory of the cache. It waits for others as the sharing says, and release lets them go on.
func (s *Store) Open(ctx context.Context, m Mount) (dir string, release func(), err error) {
	name := m.ID
	if m.Variant != "" {
		name += "\x00" + m.Variant
	}
	sum := sha256.Sum256([]byte(name))
	base := filepath.Join(s.Dir, hex.EncodeToString(sum[:]))
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", nil, err
	}
	if id, err := json.Marshal(m.ID); err == nil {
		_ = os.WriteFile(filepath.Join(base, "id"), id, 0o600) // for people: nothing depends on it
	}
	for n := 0; ; n++ {
		place := filepath.Join(base, strconv.Itoa(n))
		if n == 0 && s.Travel != nil && len(s.Travel.From) > 0 && s.Travel.first(place) {
			if err := s.Travel.merge(ctx, m, place); err != nil {
				s.Travel.warn(m.ID, err)
			}
		}
		lock, err := s.lock(ctx, place, m.Sharing)
		if err != nil {
			return "", nil, err
		}
		if lock == nil { // private, and somebody has it
			continue
		}
		s.note(place, m.ID)
		dir := filepath.Join(place, "fs")
		if err := s.fill(ctx, m, place, n); err != nil {
			return "", nil, errors.Join(err, lock.Close())
		}
		return dir, func() { _ = lock.Close() }, nil
	}
}

// lock makes a place and takes its lock; for private sharing it returns nil if it is taken.
func (s *Store) lock(ctx context.Context, place string, sharing dockerfile.Sharing) (*os.File, error) {
	mode := flock.Alone
	if sharing == dockerfile.SharingShared {
		mode = flock.Shared
	}
	const flag = os.O_CREATE | os.O_RDWR
	name := filepath.Join(place, "lock")
	for {
		err := os.MkdirAll(place, 0o700)
		var f *os.File
		switch {
		case err != nil:
		case sharing == dockerfile.SharingPrivate:
			f, err = flock.TryOpen(name, flag, mode)
		default:
			f, err = flock.Open(ctx, name, flag, mode)
		}
		switch {
		case err == nil:
			_ = unix.Utimes(name, nil) // the time of last use is for the collector only
			return f, nil
		case errors.Is(err, flock.ErrHeld):
			return nil, nil //nolint:nilnil // the caller tries the next place
		case !errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil:
			return nil, err
		}
		// It was removed in between.
	}
}

// fill makes the directory if it is not there. It appears complete, by a rename: a crash or an error leaves none.
// The first place, n = 0, is the one that travels.
func (s *Store) fill(ctx context.Context, m Mount, place string, n int) error {
	dir := filepath.Join(place, "fs")
	travel := s.Travel
	if n > 0 {
		travel = nil
	}
	if travel != nil {
		travel.use(m, place)
	}
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	making, err := os.OpenFile(filepath.Join(place, "making"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer making.Close()
	if err := flock.Wait(ctx, making, flock.Alone); err != nil {
		return err
	}
	if _, err := os.Lstat(dir); err == nil { // another sharer made it meanwhile
		return nil
	}
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil { // of a process that died
		return err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	restored := false
	if travel != nil {
		var trouble error
		var from *remote.Entry
		if from, trouble = travel.fetch(ctx, m, tmp, func(string) bool { return true }); trouble != nil {
			travel.warn(m.ID, trouble)
		}
		if restored = from != nil; restored {
			// Another build need not merge the same. That it is not known only costs a look.
			_ = os.WriteFile(filepath.Join(place, "merged"), []byte(from.DiffID.String()), 0o600)
		}
	}
	if !restored && m.Seed != nil {
		err = m.Seed(tmp)
	} else {
		err = m.own(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, dir)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return nil
}

// own gives the directory its owner and mode.
func (m Mount) own(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close() // what is set is no data
	return m.Owners.Set(f, ".", m.UID, m.GID, int(m.Mode))
}
