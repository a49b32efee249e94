// Package snapshot keeps layers unpacked, each once and independent of what
// lies below it, and stacks them: with overlayfs, or by copies where that cannot be mounted.
//
// A layer is the directory DIR/ID/fs in overlay's lower form (package layer).
// An Active file system is an empty upper directory over such layers; Commit
// makes the upper directory the next layer by a rename. The diffID of a layer is
// computed when somebody asks for it and then remembered beside it.
//
//	DIR/ID/fs       the layer; what is there is complete, for it came by a rename
//	DIR/ID/meta     its diffID and size, once known (JSON)
//	DIR/diffid/HEX  a symbolic link whose target is the ID of a layer with that diffID
//	DIR/tmp/NAME    what is being written or removed; locked (flock) while its process lives
//	DIR/lock/KEY    locks (flock) of diffIDs that are being unpacked
//	DIR/trees/KEY   without overlayfs: layers stacked by hard links, and a list of them; only read
//	DIR/copies/KEY  without overlayfs: layers copied, for the next step that writes over them
//	DIR/empty       empty directories, because overlayfs wants at least one or two
//	DIR/unsynced    marks of layers that Sync did not see yet; see there
//
// Nothing is synced to the disk but by Sync, once for a build. What it did not see is gone after a power failure.
package snapshot

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/lease"
)

// ErrNotFound is returned for a layer that the store does not hold.
var ErrNotFound = errors.New("layer not found")

// ID names an unpacked layer in one store. It is opaque; it is not a digest.
type ID string

// idLength is the number of characters of an ID: 80 random bits.
const idLength = 16

// newID makes up a name: of a layer, or of something temporary.
func newID() ID {
	var b [idLength * 5 / 8]byte
	_, _ = rand.Read(b[:]) // never fails
	return ID(strings.ToLower(base32.StdEncoding.EncodeToString(b[:])))
}

// valid says whether newID can have made id: others come from damaged records and must not become paths.
func (id ID) valid() bool {
	if len(id) != idLength {
		return false
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

// Store is a directory of layers. It is safe for concurrent use, also by several processes.
type Store struct {
	dir          string
	userXattr    bool
	recordOwners bool
	copies       bool
	boot         string
	locks        locks
	lease        *lease.Lease
	driver       driver
	known        known
	disposing    sync.WaitGroup // what is removed while others go on
}

// Options configures a store.
type Options struct {
	UserXattr bool // the process is in a user namespace of its own
	// RecordOwners: the process cannot give files away; see layer.Options.
	RecordOwners bool
	// Copy: overlayfs cannot be mounted. Layers have the form layer.Marked, and file systems are copies of them.
	Copy bool
	// Boot tells this boot of the machine from others (/proc/sys/kernel/random/boot_id): layers of another one that no Sync
	// followed may be torn, and Open removes them. Empty if that is not known: they stay, and no copies are kept.
	Boot string
	// Lease holds every layer that is found or made through the store, by its ID; nil for a store that nobody else uses.
	Lease *lease.Lease
}

// Open opens or makes the store in dir, and removes what crashed processes left in it.
func Open(dir string, opt Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the layers: %w", err)
	}
	s := &Store{dir: dir, userXattr: opt.UserXattr, recordOwners: opt.RecordOwners, copies: opt.Copy, boot: opt.Boot, locks: newLocks(filepath.Join(dir, "lock"))}
	folders := []string{s.temp(), s.index(), s.locks.dir, s.unsynced()}
	if opt.Copy {
		s.driver = &copies{s: s}
		folders = append(folders, s.trees(), s.copiesDir())
	} else {
		s.driver = &overlays{s}
	}
	for _, d := range folders {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("opening the layers: %w", err)
		}
	}
	for i := range 2 {
		// Its mode is that of the root directory where no layer is.
		if err := os.MkdirAll(s.empty(i), 0o755); err != nil { //nolint:gosec // see above; what is private is the store's folder
			return nil, fmt.Errorf("opening the layers: %w", err)
		}
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("opening the layers: %w", err)
	}
	if err := s.recover(opt.Boot); err != nil {
		return nil, fmt.Errorf("opening the layers: dropping what an earlier boot left unsynced: %w", err)
	}
	if opt.Copy {
		if err := errors.Join(s.sweepViews(), s.sweepCopies()); err != nil {
			return nil, fmt.Errorf("opening the layers: %w", err)
		}
	}
	s.lease = opt.Lease // what was only looked at until now is not in use
	return s, nil
}

// Close keeps or removes what the store has for this process alone. What could not be removed, or is not because nobody calls
// it, a later Open of the store removes.
func (s *Store) Close() {
	s.driver.close()
	s.disposing.Wait()
}

func (s *Store) path(id ID) string { return filepath.Join(s.dir, string(id)) }

// fs is the directory of the layer's files.
func (s *Store) fs(id ID) string { return filepath.Join(s.dir, string(id), "fs") }
func (s *Store) temp() string    { return filepath.Join(s.dir, "tmp") }
func (s *Store) index() string   { return filepath.Join(s.dir, "diffid") }

// empty is the i-th (0 or 1) empty directory.
func (s *Store) empty(i int) string {
	return filepath.Join(s.dir, "empty", string(rune('a'+i)))
}

// options says how layers are applied and written.
func (s *Store) options() layer.Options {
	form := layer.Overlay
	if s.copies {
		form = layer.Marked
	}
	return layer.Options{Form: form, UserXattr: s.userXattr, RecordOwners: s.recordOwners}
}

// Has says whether the store holds the complete layer id.
func (s *Store) Has(id ID) bool { return s.check(id) == nil }

// check is Has with an error.
func (s *Store) check(id ID) error {
	missing := fmt.Errorf("layer %q: %w", string(id), ErrNotFound)
	if !id.valid() {
		return missing
	}
	return s.lease.Hold(func() error {
		if !exists(s.fs(id)) {
			return missing
		}
		return nil
	}, string(id))
}

// ByDiffID finds an unpacked layer by the digest of its tar, or returns ErrNotFound.
func (s *Store) ByDiffID(diffID v1.Hash) (ID, error) {
	link, err := s.indexEntry(diffID)
	if err != nil {
		return "", err
	}
	target, err := os.Readlink(link)
	if err == nil && s.Has(ID(target)) {
		return ID(target), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("looking for layer %s: %w", diffID, err)
	}
	return "", fmt.Errorf("layer %s: %w", diffID, ErrNotFound)
}

// indexEntry is the path of the index entry of diffID.
func (s *Store) indexEntry(diffID v1.Hash) (string, error) {
	return filepath.Join(s.index(), diffID.Hex), blob.CheckDigest(diffID)
}

// Remove deletes a layer, whoever uses it; one that is not there is no error.
func (s *Store) Remove(id ID) error {
	_, err := s.remove(id, func(detach func() error, _ ...string) (bool, error) { return true, detach() })
	return err
}

// Collect deletes a layer, but not, and it returns false, if somebody uses it or its diffID.
func (s *Store) Collect(c *lease.Collection, id ID) (bool, error) { return s.remove(id, c.Take) }

// remove deletes a layer. take calls what it is given, which makes that nobody finds the layer any more; or it returns false.
func (s *Store) remove(id ID, take func(detach func() error, names ...string) (bool, error)) (bool, error) {
	if !id.valid() {
		return true, nil
	}
	names := []string{string(id)}
	m, err := s.readMeta(id)
	if err == nil && m.DiffID != (v1.Hash{}) {
		names = append(names, m.DiffID.String())
	}
	var t *temporary
	taken, err := take(func() (err error) {
		t, err = s.detach(id, m.DiffID)
		return err
	}, names...)
	if err == nil && t != nil {
		s.known.looks.Delete(id)
		_ = os.Remove(s.mark(id)) // one without a layer means nothing
		err = errors.Join(s.driver.forget(id), t.remove())
	}
	if err != nil {
		return false, fmt.Errorf("removing layer %s: %w", id, err)
	}
	return taken, nil
}

// detach takes a layer out of the store. It returns nil if somebody else does, or did.
func (s *Store) detach(id ID, diffID v1.Hash) (*temporary, error) {
	if entry, err := s.indexEntry(diffID); err == nil {
		if target, err := os.Readlink(entry); err == nil && ID(target) == id {
			_ = os.Remove(entry)
		}
	}
	t, err := s.adopt(s.path(id))
	if taken(err) {
		return nil, nil //nolint:nilnil // there is nothing to do
	}
	return t, err
}

// Walk calls f for every layer, and stops at f's first error. f may remove layers.
func (s *Store) Walk(f func(id ID) error) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("listing layers: %w", err)
	}
	for _, e := range entries {
		if id := ID(e.Name()); s.Has(id) {
			if err := f(id); err != nil {
				return err
			}
		}
	}
	return nil
}
