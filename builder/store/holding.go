package store

import (
	"cmp"
	"slices"
	"time"
)

// Kind says what a Holding is.
type Kind string

// The kinds of things that a store holds.
const (
	Layer      Kind = "layer"      // an unpacked layer, with the cache's records of it
	Copy       Kind = "copy"       // a file system that waits for the next step, where there is no overlayfs
	Blob       Kind = "blob"       // a configuration, a manifest or a compressed layer
	Compressed Kind = "compressed" // what compressing a layer gave
	Mount      Kind = "mount"      // a directory of RUN --mount=type=cache
	Context    Kind = "context"    // digests of the files of a build context
	Source     Kind = "source"     // a file or a repository that was fetched
	Record     Kind = "record"     // a record of the cache whose layer is gone
	Note       Kind = "note"       // what the cache keeps only to explain misses
)

// Kinds are all of them, in the order in which people see them.
func Kinds() []Kind {
	return []Kind{Layer, Copy, Blob, Mount, Source, Context, Compressed, Record, Note}
}

// Holding is one thing that the store holds.
type Holding struct {
	Kind     Kind
	ID       string
	Size     int64 // on the disk, in bytes
	LastUsed time.Time
	// Images are the names (or, for lack of one, short IDs) of the images that need it.
	Images []string
	// Steps are the names of the build steps that the cache keeps it for.
	Steps []string
	InUse bool // by a running command
	// Reclaimable: no image needs it.
	Reclaimable bool

	superseded bool     // all Images lost their names to others
	of         *Holding // a note is kept as long as this is; nil for one of what is gone, and for all else
	created    time.Time
	remove     func() (bool, error) // false: somebody uses it
}

// Holdings are things that a store holds.
type Holdings []*Holding

// Size is what they take of the disk, in bytes.
func (h Holdings) Size() int64 { return h.sizeOf(func(*Holding) bool { return true }) }

// sizeOf sums up those that which says yes of.
func (h Holdings) sizeOf(which func(*Holding) bool) (sum int64) {
	for _, i := range h {
		if which(i) {
			sum += i.Size
		}
	}
	return sum
}

// oldest returns all, what was not used for longest first; of what was used at the same time what was made last, for layers are of
// no use without those that they were made on.
func (h Holdings) oldest() Holdings {
	return slices.SortedStableFunc(slices.Values(h), func(a, b *Holding) int {
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), b.created.Compare(a.created))
	})
}

// Usage is what a store takes of the disk.
type Usage struct {
	Holdings Holdings
	Other    int64 // bytes of all else: folders, temporary files, what keeps the rest in order
}
