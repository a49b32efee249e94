package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder/copier"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/layer/rootfs"
)

// CacheMounts keeps the directories of RUN --mount=type=cache. Several processes share it: a step holds a
// lock on the directory that it uses.
//
//	DIR/HASH/N/fs     a directory of the cache whose ID and Variant have that hash; 0, and more for private sharing
//	DIR/HASH/N/lock   its lock; the file's time is that of the last use
//	DIR/HASH/N/usage  what it took of the disk when that was last measured
//	DIR/HASH/id       the ID, for people
type CacheMounts struct {
	Dir    string
	Travel *MountTravel // nil for none

	mu   sync.Mutex
	used map[string]string // the places that Open returned, and the IDs of their caches
}

// CacheMount is what a step asks for.
type CacheMount struct {
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
func (c *CacheMounts) Open(ctx context.Context, m CacheMount) (dir string, release func(), err error) {
	name := m.ID
	if m.Variant != "" {
		name += "\x00" + m.Variant
	}
	sum := sha256.Sum256([]byte(name))
	base := filepath.Join(c.Dir, hex.EncodeToString(sum[:]))
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", nil, err
	}
	if id, err := json.Marshal(m.ID); err == nil {
		_ = os.WriteFile(filepath.Join(base, "id"), id, 0o600) // for people: nothing depends on it
	}
	for n := 0; ; n++ {
		place := filepath.Join(base, strconv.Itoa(n))
		if n == 0 && c.Travel != nil && len(c.Travel.From) > 0 && c.Travel.first(place) {
			if err := c.Travel.merge(ctx, m, place); err != nil {
				c.Travel.warn(m.ID, err)
			}
		}
		lock, err := c.lock(ctx, place, m.Sharing)
		if err != nil {
			return "", nil, err
		}
		if lock == nil { // private, and somebody has it
			continue
		}
		c.note(place, m.ID)
		dir := filepath.Join(place, "fs")
		if err := c.fill(ctx, m, place, n); err != nil {
			return "", nil, errors.Join(err, lock.Close())
		}
		return dir, func() { _ = lock.Close() }, nil
	}
}

// lock makes a place and takes its lock; for private sharing it returns nil if it is taken.
func (c *CacheMounts) lock(ctx context.Context, place string, sharing dockerfile.Sharing) (*os.File, error) {
	how := unix.LOCK_EX
	if sharing == dockerfile.SharingShared {
		how = unix.LOCK_SH
	}
	for {
		err := os.MkdirAll(place, 0o700)
		var f *os.File
		if err == nil {
			f, err = os.OpenFile(filepath.Join(place, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed in between
		}
		if err != nil {
			return nil, err
		}
		err = waitLock(ctx, f, how, sharing != dockerfile.SharingPrivate)
		if err == nil && hasName(f) {
			_ = unix.Utimes(f.Name(), nil) // the time of last use is for the collector only
			return f, nil
		}
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil //nolint:nilnil // the caller tries the next place
		}
		if err != nil {
			return nil, err
		}
	}
}

// hasName says whether an open file is still found under its name: a place may have been removed while somebody waited for its lock.
func hasName(f *os.File) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(f.Name())
	return err == nil && os.SameFile(mine, now)
}

// waitLock takes a lock of flock(2), and gives up with EWOULDBLOCK at once if it shall not wait.
func waitLock(ctx context.Context, f *os.File, how int, wait bool) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !wait || !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// fill makes the directory if it is not there. It appears complete, by a rename: a crash or an error leaves none.
// The first place, n = 0, is the one that travels.
func (c *CacheMounts) fill(ctx context.Context, m CacheMount, place string, n int) error {
	dir := filepath.Join(place, "fs")
	travel := c.Travel
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
	if err := waitLock(ctx, making, unix.LOCK_EX, true); err != nil {
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
func (m CacheMount) own(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close() // what is set is no data
	return m.Owners.Set(f, ".", m.UID, m.GID, int(m.Mode))
}

// cacheVariant says what a cache begins as, where that is not an empty folder of root's: one of another owner or mode, or a part of
// other layers. In BuildKit too these are caches of their own.
func cacheVariant(m dockerfile.Mount, from filesystem) string {
	var parts []string
	if m.Mode != nil || m.UID != nil || m.GID != nil {
		parts = append(parts, fmt.Sprintf("%o %d:%d", orElse(m.Mode, cacheMode), orElse(m.UID, 0), orElse(m.GID, 0)))
	}
	if m.From != nil {
		parts = append(parts, m.Source)
		for _, l := range from.layers {
			parts = append(parts, l.identity())
		}
	}
	return strings.Join(parts, "\x00")
}

// seed fills a new cache with what its from= and source= name.
func (w *runWork) seed(ctx context.Context, dir string, from filesystem, m dockerfile.Mount) error {
	ids, err := w.unpacked(ctx, from, w.vertex)
	if err != nil {
		return err
	}
	view, err := w.Snapshots.OpenView(ctx, ids)
	if err != nil {
		return err
	}
	tree := source.FromRoot(view, source.Options{Unwritten: true, Now: w.Now})
	defer tree.Close()
	items, err := tree.Select(ctx, source.Selection{Patterns: []string{m.Source}})
	if err != nil {
		return fmt.Errorf("filling it from %s: %w", m.Source, err)
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := copier.Copy(ctx, root.With(view.Owners()), tree, items, nil, copier.Options{Dest: "/", UserXattr: w.UserXattr}); err != nil {
		return err
	}
	st, err := view.Stat(m.Source)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	return view.Owners().Set(root.File(), ".", int(st.Uid), int(st.Gid), int(st.Mode&0o7777))
}
