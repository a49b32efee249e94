package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/builder/fetch"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/lease"
	"github.com/strake-build/strake/layer/rootfs"
	"github.com/strake-build/strake/layer/snapshot"
)

// ImagesError says that images cannot be read. Nothing is removed then: one that cannot be read may need anything.
type ImagesError struct{ Err error }

func (e *ImagesError) Error() string { return e.Err.Error() }

func (e *ImagesError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *ImagesError) Hint() string { return "\"strake fsck --repair\" drops what is damaged" }

// inventory is at work on a Usage.
type inventory struct {
	*Store
	collection *lease.Collection // removes what is found; nil where nothing is removed

	found  Usage
	counts map[string]bool                // paths that Holdings count
	layers map[v1.Hash][]string           // the images that need a diffID
	blobs  map[v1.Hash][]string           // the images that need a blob
	old    map[v1.Hash]bool               // the images that lost their names to others
	pinned map[v1.Hash]bool               // the diffIDs and blobs that other images need
	known  map[v1.Hash]bool               // the diffIDs of all layers here
	held   map[string]bool                // what running commands use
	noted  map[cache.Key]*Holding         // the layers that notes explain, by the notes' subjects
	byID   map[snapshot.ID][]*cache.Entry // records
}

// Usage lists everything in the store. What this process used is released: looking keeps nothing.
//
// Preconditions: OpenLayers opened the store.
func (s *Store) Usage(ctx context.Context) (*Usage, error) {
	s.lease.Release()
	return s.usage(ctx, nil)
}

// usage lists everything in the store. It can be removed by the collection, which began before.
//
// Preconditions: the lease was released.
func (s *Store) usage(ctx context.Context, c *lease.Collection) (*Usage, error) {
	inv := &inventory{
		Store: s, collection: c, counts: make(map[string]bool),
		layers: make(map[v1.Hash][]string), blobs: make(map[v1.Hash][]string),
		old: make(map[v1.Hash]bool), pinned: make(map[v1.Hash]bool), known: make(map[v1.Hash]bool), byID: make(map[snapshot.ID][]*cache.Entry),
		noted: make(map[cache.Key]*Holding),
	}
	for _, add := range []func(context.Context) error{
		inv.readLeases, inv.readImages, inv.readRecords, inv.addLayers, inv.addCopies, inv.addBlobs, inv.addCompressed, inv.addMounts, inv.addContexts, inv.addSources, inv.addNotes, inv.addOther,
	} {
		if err := add(ctx); err != nil {
			return nil, fmt.Errorf("reading the store %s: %w", s.Root, err)
		}
	}
	now := s.now()
	for _, h := range inv.found.Holdings {
		if h.LastUsed.After(now) { // the clock jumped
			h.LastUsed = now
		}
		h.Reclaimable = len(h.Images) == 0 && !h.InUse && (h.of == nil || h.of.Reclaimable) // layers come first
	}
	return &inv.found, nil
}

func (inv *inventory) add(h *Holding, paths ...string) {
	for _, p := range paths {
		inv.counts[p] = true
	}
	inv.found.Holdings = append(inv.found.Holdings, h)
}

func (inv *inventory) readLeases(context.Context) (err error) {
	inv.held, err = inv.lease.Held()
	return err
}

func (inv *inventory) readImages(context.Context) error {
	list, err := inv.Images.List()
	if err != nil {
		return &ImagesError{err}
	}
	old, err := inv.Images.Superseded()
	for _, id := range old {
		inv.old[id] = true
	}
	for _, n := range list {
		inv.needs(n)
	}
	return err
}

func (inv *inventory) needs(n image.Named) {
	names := n.Names
	if len(names) == 0 {
		names = []string{n.Image.ID.Hex[:min(12, len(n.Image.ID.Hex))]}
	}
	need := func(users map[v1.Hash][]string, h v1.Hash) {
		users[h] = append(users[h], names...)
		inv.pinned[h] = inv.pinned[h] || !inv.old[n.Image.ID]
	}
	need(inv.blobs, n.Image.ID)
	if m := n.Image.Manifest; m != (v1.Hash{}) {
		need(inv.blobs, m)
	}
	for _, l := range n.Image.Layers {
		need(inv.layers, l.DiffID)
		if l.Blob != nil {
			need(inv.blobs, l.Blob.Digest)
		}
	}
}

// readRecords sorts the records by their layers. Those without one are things themselves.
func (inv *inventory) readRecords(ctx context.Context) error {
	return inv.Cache.Entries(ctx, func(e cache.Entry) error {
		inv.counts[e.Path] = true
		id := snapshot.ID(e.Record.Layer)
		if e.Err == nil && inv.Snapshots.Has(id) {
			inv.byID[id] = append(inv.byID[id], &e)
			return nil
		}
		h := &Holding{Kind: Record, ID: filepath.Base(e.Path), Size: e.Disk, LastUsed: e.Used, created: e.Used, remove: removeFile(e.Path)}
		if e.Err == nil {
			h.Steps = []string{e.Record.Name}
		}
		inv.add(h, e.Path)
		return nil
	})
}

// addLayers adds the unpacked layers, each with the images and the records that need it.
func (inv *inventory) addLayers(ctx context.Context) error {
	return inv.Snapshots.Walk(func(id snapshot.ID) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		info, err := inv.Snapshots.Info(id)
		if err != nil && !inv.Snapshots.Has(id) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		h := &Holding{
			Kind: Layer, ID: string(id), Size: info.Disk, LastUsed: info.Made, created: info.Made,
			InUse: inv.held[string(id)] || inv.held[info.DiffID.String()],
		}
		if info.DiffID != (v1.Hash{}) {
			inv.known[info.DiffID] = true
			// Of two layers with the same content the images use one.
			if found, err := inv.Snapshots.ByDiffID(info.DiffID); err == nil && found == id {
				h.Images = unique(inv.layers[info.DiffID])
				h.superseded = len(h.Images) > 0 && !inv.pinned[info.DiffID]
			}
		}
		var records []string
		for _, e := range inv.byID[id] {
			records = append(records, e.Path)
			h.Size += e.Disk
			h.Steps = append(h.Steps, e.Record.Name)
			if e.Used.After(h.LastUsed) {
				h.LastUsed = e.Used
			}
		}
		h.Steps = unique(h.Steps)
		for _, e := range inv.byID[id] {
			for _, k := range append(cache.ListKeys(e.Record.Parts), e.Key) {
				if other := inv.noted[k]; other == nil || other.LastUsed.Before(h.LastUsed) {
					inv.noted[k] = h
				}
			}
		}
		h.remove = func() (bool, error) {
			if gone, err := inv.Snapshots.Collect(inv.collection, id); err != nil || !gone {
				return false, err
			}
			// Without the layer they are misses. That somebody may have saved a new one meanwhile costs a miss, too.
			for _, r := range records {
				if _, err := removeFile(r)(); err != nil {
					return false, err
				}
			}
			return true, nil
		}
		inv.add(h, inv.Snapshots.Dir(id))
		return nil
	})
}

// addCopies adds the file systems that wait for the next step, where there is no overlayfs.
func (inv *inventory) addCopies(context.Context) error {
	for _, c := range inv.Snapshots.Copies() {
		inv.add(&Holding{
			Kind: Copy, ID: c.ID, Size: c.Disk, LastUsed: c.Kept, created: c.Kept,
			remove: func() (bool, error) { return inv.Snapshots.RemoveCopy(c.ID) },
		}, c.Dir)
	}
	return nil
}

func (inv *inventory) addBlobs(context.Context) error {
	return inv.Blobs.Walk(func(d v1.Hash, _ int64) error {
		return inv.addFile(Blob, inv.Path("blobs", "sha256", d.Hex), func(h *Holding) {
			h.ID, h.Images, h.InUse = d.String(), unique(inv.blobs[d]), inv.held[d.String()]
			h.superseded = len(h.Images) > 0 && !inv.pinned[d]
			h.remove = func() (bool, error) { return inv.Blobs.Collect(inv.collection, d) }
		})
	})
}

// addFile adds a file. What set does not set is taken from the file.
func (inv *inventory) addFile(kind Kind, path string, set func(h *Holding)) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	h := &Holding{Kind: kind, ID: filepath.Base(path), LastUsed: fi.ModTime(), created: fi.ModTime(), remove: removeFile(path)}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		h.Size = st.Blocks * 512
	}
	if set != nil {
		set(h)
	}
	inv.add(h, path)
	return nil
}

// files lists a folder of the store, without temporary files.
func (inv *inventory) files(elem ...string) ([]string, error) {
	entries, err := os.ReadDir(inv.Path(elem...))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var paths []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !strings.Contains(e.Name(), ".tmp-") {
			paths = append(paths, filepath.Join(inv.Path(elem...), e.Name()))
		}
	}
	return paths, err
}

func (inv *inventory) addCompressed(context.Context) error {
	paths, err := inv.files("compressed")
	for _, p := range paths {
		err = errors.Join(err, inv.addFile(Compressed, p, func(h *Holding) {
			hex, _, _ := strings.Cut(filepath.Base(p), ".")
			d := v1.Hash{Algorithm: "sha256", Hex: hex}
			if h.Images = unique(inv.layers[d]); len(h.Images) == 0 && inv.known[d] {
				h.Steps = []string{d.String()}
			}
		}))
	}
	return err
}

func (inv *inventory) addContexts(context.Context) error {
	paths, err := inv.files("contexts")
	for _, p := range paths {
		err = errors.Join(err, inv.addFile(Context, p, nil))
	}
	return err
}

// addNotes adds what the cache keeps only to explain misses: lists of files, and which record a step had last.
func (inv *inventory) addNotes(context.Context) error {
	return errors.Join(
		inv.addNotesIn("files", filepath.Base),
		inv.addNotesIn("steps", func(path string) string {
			text, _ := os.ReadFile(path) // one that cannot be read is of nothing
			return strings.TrimSuffix(string(text), "\n")
		}),
	)
}

// addNotesIn adds the notes of a folder. subject is the key of what a note is of.
func (inv *inventory) addNotesIn(dir string, subject func(path string) string) error {
	folders, err := inv.files("cache", dir)
	if err != nil {
		return err
	}
	for _, folder := range folders {
		paths, err := inv.files("cache", dir, filepath.Base(folder))
		for _, p := range paths {
			err = errors.Join(err, inv.addFile(Note, p, func(h *Holding) {
				k, _ := cache.ParseKey(subject(p)) // nothing has the zero key
				if h.of = inv.noted[k]; h.of != nil {
					h.LastUsed, h.created = h.of.LastUsed, h.of.created
				}
			}))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (inv *inventory) addMounts(context.Context) error {
	mounts := inv.CacheMounts()
	list, err := mounts.List()
	for _, m := range list {
		inv.add(&Holding{
			Kind: Mount, ID: cachemount.Name(m.ID),
			Size: m.Disk, LastUsed: m.Used, created: m.Used, InUse: m.InUse,
			remove: func() (bool, error) { return mounts.Remove(m) },
		}, m.Dir)
	}
	return err
}

func (inv *inventory) addSources(context.Context) error {
	for _, by := range []string{"http", "git"} {
		paths, err := inv.files("remote", by)
		if err != nil {
			return err
		}
		for _, p := range paths {
			fi, err := os.Lstat(p)
			if err != nil {
				continue // removed meanwhile
			}
			size, err := (&rootfs.DiskUsage{}).Of(p)
			if err != nil {
				return err
			}
			inv.add(&Holding{
				Kind: Source, ID: by + "/" + filepath.Base(p), Size: size, LastUsed: fi.ModTime(), created: fi.ModTime(),
				remove: func() (bool, error) { return fetch.Remove(p) },
			}, p)
		}
	}
	return nil
}

func (inv *inventory) addOther(context.Context) error {
	views := inv.Snapshots.Views()
	inv.counts[views] = true
	size, err := inv.Snapshots.ViewsUsage()
	if err != nil {
		return err
	}
	inv.found.Other = size
	// What running commands write may come and go, and an ordinary user may not read all of it.
	size, _ = (&rootfs.DiskUsage{Skip: func(p string) bool { return inv.counts[p] }}).Of(inv.Root)
	inv.found.Other += size
	return nil
}

func unique(names []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

// removeFile is for Holding.remove: who uses such a file can do without.
func removeFile(path string) func() (bool, error) {
	return func() (bool, error) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return true, nil
	}
}
