package main

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
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/builder/fetch"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/lease"
	"github.com/strake-build/strake/layer/rootfs"
	"github.com/strake-build/strake/layer/snapshot"
)

// The kinds of things that a store holds.
const (
	kindLayer      = "layer"
	kindCopy       = "copy"
	kindBlob       = "blob"
	kindCompressed = "compressed"
	kindMount      = "mount"
	kindContext    = "context"
	kindSource     = "source"
	kindRecord     = "record"
	kindNote       = "note"
)

// kinds are all of them, in the order in which people see them.
var kinds = [...]string{kindLayer, kindCopy, kindBlob, kindMount, kindSource, kindContext, kindCompressed, kindRecord, kindNote}

// holding is one thing that the store holds.
type holding struct {
	Kind     string    `json:"type"`
	ID       string    `json:"id"`
	Size     int64     `json:"size"` // on the disk, in bytes
	LastUsed time.Time `json:"lastUsed"`
	// Images are the names (or, for lack of one, IDs) of the images that need it.
	Images []string `json:"images,omitempty"`
	// Steps are the names of the build steps that the cache keeps it for.
	Steps []string `json:"steps,omitempty"`
	InUse bool     `json:"inUse,omitempty"` // by a running command
	// Reclaimable: no image needs it.
	Reclaimable bool `json:"reclaimable"`

	superseded bool     // all Images lost their names to others
	of         *holding // a note is kept as long as this is; nil for one of what is gone, and for all else
	created    time.Time
	remove     func() (bool, error) // false: somebody uses it
}

// holdings is what a store holds.
type holdings struct {
	Root  string
	Items []*holding
	Other int64 // bytes of all else: folders, temporary files, what keeps the rest in order
}

// size sums up the things that which says yes of; nil says yes of all.
func (h *holdings) size(which func(*holding) bool) (sum int64) {
	for _, i := range h.Items {
		if which == nil || which(i) {
			sum += i.Size
		}
	}
	return sum
}

// inventory is at work on holdings.
type inventory struct {
	*store
	collection *lease.Collection // removes what is found; nil where nothing is removed

	found  holdings
	counts map[string]bool                // paths that Items count
	layers map[v1.Hash][]string           // the images that need a diffID
	blobs  map[v1.Hash][]string           // the images that need a blob
	old    map[v1.Hash]bool               // the images that lost their names to others
	pinned map[v1.Hash]bool               // the diffIDs and blobs that other images need
	known  map[v1.Hash]bool               // the diffIDs of all layers here
	held   map[string]bool                // what running commands use
	noted  map[cache.Key]*holding         // the layers that notes explain, by the notes' subjects
	byID   map[snapshot.ID][]*cache.Entry // records
}

// holdings lists everything in the store. It can be removed by the collection, which began before.
//
// Preconditions: openLayers opened the store, and its lease was released.
func (s *store) holdings(ctx context.Context, c *lease.Collection) (*holdings, error) {
	inv := &inventory{
		store: s, collection: c, found: holdings{Root: s.root}, counts: make(map[string]bool),
		layers: make(map[v1.Hash][]string), blobs: make(map[v1.Hash][]string),
		old: make(map[v1.Hash]bool), pinned: make(map[v1.Hash]bool), known: make(map[v1.Hash]bool), byID: make(map[snapshot.ID][]*cache.Entry),
		noted: make(map[cache.Key]*holding),
	}
	for _, add := range []func(context.Context) error{
		inv.readLeases, inv.readImages, inv.readRecords, inv.addLayers, inv.addCopies, inv.addBlobs, inv.addCompressed, inv.addMounts, inv.addContexts, inv.addSources, inv.addNotes, inv.addOther,
	} {
		if err := add(ctx); err != nil {
			return nil, fmt.Errorf("reading the store %s: %w", s.root, err)
		}
	}
	now := s.env.now()
	for _, h := range inv.found.Items {
		if h.LastUsed.After(now) { // the clock jumped
			h.LastUsed = now
		}
		h.Reclaimable = len(h.Images) == 0 && !h.InUse && (h.of == nil || h.of.Reclaimable) // layers come first
	}
	return &inv.found, nil
}

func (inv *inventory) add(h *holding, paths ...string) {
	for _, p := range paths {
		inv.counts[p] = true
	}
	inv.found.Items = append(inv.found.Items, h)
}

func (inv *inventory) readLeases(context.Context) (err error) {
	inv.held, err = inv.lease.Held()
	return err
}

func (inv *inventory) readImages(context.Context) error {
	list, err := inv.images.List()
	if err != nil {
		// One that cannot be read may need anything.
		return &hintError{err, "\"strake fsck --repair\" drops what is damaged"}
	}
	old, err := inv.images.Superseded()
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
		names = []string{shortID(n.Image.ID)}
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
	return inv.cache.Entries(ctx, func(e cache.Entry) error {
		inv.counts[e.Path] = true
		id := snapshot.ID(e.Record.Layer)
		if e.Err == nil && inv.snapshots.Has(id) {
			inv.byID[id] = append(inv.byID[id], &e)
			return nil
		}
		h := &holding{Kind: kindRecord, ID: filepath.Base(e.Path), Size: e.Disk, LastUsed: e.Used, created: e.Used, remove: removeFile(e.Path)}
		if e.Err == nil {
			h.Steps = []string{e.Record.Name}
		}
		inv.add(h, e.Path)
		return nil
	})
}

func (inv *inventory) addLayers(ctx context.Context) error {
	return inv.snapshots.Walk(func(id snapshot.ID) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		info, err := inv.snapshots.Info(id)
		if err != nil && !inv.snapshots.Has(id) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		h := &holding{
			Kind: kindLayer, ID: string(id), Size: info.Disk, LastUsed: info.Made, created: info.Made,
			InUse: inv.held[string(id)] || inv.held[info.DiffID.String()],
		}
		if info.DiffID != (v1.Hash{}) {
			inv.known[info.DiffID] = true
			// Of two layers with the same content the images use one.
			if found, err := inv.snapshots.ByDiffID(info.DiffID); err == nil && found == id {
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
			if gone, err := inv.snapshots.Collect(inv.collection, id); err != nil || !gone {
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
		inv.add(h, inv.snapshots.Dir(id))
		return nil
	})
}

// addCopies adds the file systems that wait for the next step, where there is no overlayfs.
func (inv *inventory) addCopies(context.Context) error {
	for _, c := range inv.snapshots.Copies() {
		inv.add(&holding{
			Kind: kindCopy, ID: c.ID, Size: c.Disk, LastUsed: c.Kept, created: c.Kept,
			remove: func() (bool, error) { return inv.snapshots.RemoveCopy(c.ID) },
		}, c.Dir)
	}
	return nil
}

func (inv *inventory) addBlobs(context.Context) error {
	return inv.store.blobs.Walk(func(d v1.Hash, _ int64) error {
		return inv.addFile(kindBlob, inv.path("blobs", "sha256", d.Hex), func(h *holding) {
			h.ID, h.Images, h.InUse = d.String(), unique(inv.blobs[d]), inv.held[d.String()]
			h.superseded = len(h.Images) > 0 && !inv.pinned[d]
			h.remove = func() (bool, error) { return inv.store.blobs.Collect(inv.collection, d) }
		})
	})
}

// addFile adds a file. What set does not set is taken from the file.
func (inv *inventory) addFile(kind, path string, set func(h *holding)) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	h := &holding{Kind: kind, ID: filepath.Base(path), LastUsed: fi.ModTime(), created: fi.ModTime(), remove: removeFile(path)}
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
	entries, err := os.ReadDir(inv.path(elem...))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var paths []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !strings.Contains(e.Name(), ".tmp-") {
			paths = append(paths, filepath.Join(inv.path(elem...), e.Name()))
		}
	}
	return paths, err
}

func (inv *inventory) addCompressed(context.Context) error {
	paths, err := inv.files("compressed")
	for _, p := range paths {
		err = errors.Join(err, inv.addFile(kindCompressed, p, func(h *holding) {
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
		err = errors.Join(err, inv.addFile(kindContext, p, nil))
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
			err = errors.Join(err, inv.addFile(kindNote, p, func(h *holding) {
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
	mounts := &cachemount.Store{Dir: inv.path("mounts")}
	list, err := mounts.List()
	for _, m := range list {
		inv.add(&holding{
			Kind: kindMount, ID: mountName(m.ID),
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
			inv.add(&holding{
				Kind: kindSource, ID: by + "/" + filepath.Base(p), Size: size, LastUsed: fi.ModTime(), created: fi.ModTime(),
				remove: func() (bool, error) { return fetch.Remove(p) },
			}, p)
		}
	}
	return nil
}

func (inv *inventory) addOther(context.Context) error {
	views := inv.snapshots.Views()
	inv.counts[views] = true
	size, err := inv.snapshots.ViewsUsage()
	if err != nil {
		return err
	}
	inv.found.Other = size
	// What running commands write may come and go, and an ordinary user may not read all of it.
	size, _ = (&rootfs.DiskUsage{Skip: func(p string) bool { return inv.counts[p] }}).Of(inv.root)
	inv.found.Other += size
	return nil
}

func unique(names []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

// removeFile is for holding.remove: who uses such a file can do without.
func removeFile(path string) func() (bool, error) {
	return func() (bool, error) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return true, nil
	}
}
