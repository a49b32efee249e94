package remote

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache"
)

// Limits of a cache that keeps all its entries in one document.
const (
	maxLayers = 5_000
	day       = 24 * time.Hour
	keptFor   = 30 * day // what no build has used for so long is dropped
	// roomFor is what merged entries may take, of MaxDocument: what a document says beside them is less than the rest. They
	// are fewer than MaxEntries then, as each has four digests.
	roomFor = 7 << 20
)

// Held is an entry of such a cache.
type Held struct {
	Entry
	Used time.Time // by a build, to the day; zero if that is not known
}

// Merge adds entries that are used now to what a cache holds, those used last first, and drops what is too old or too much.
func Merge(have []Held, entries []Entry, now time.Time) []Held {
	today := now.UTC().Truncate(day)
	at := map[cache.Key]int{}
	var all []Held
	for _, e := range entries {
		if i, dup := at[e.Key]; dup {
			all[i] = Held{e, today}
			continue
		}
		at[e.Key] = len(all)
		all = append(all, Held{e, today})
	}
	for _, h := range have {
		if h.Used.After(today) { // a clock was wrong, or who wrote it wants to stay
			h.Used = today
		}
		if _, replaced := at[h.Key]; !replaced && now.Sub(h.Used) < keptFor {
			at[h.Key] = len(all)
			all = append(all, h)
		}
	}
	slices.SortStableFunc(all, func(a, b Held) int { return b.Used.Compare(a.Used) })
	return all[:fitting(all)]
}

// fitting says how many of the first entries are within the limits.
func fitting(all []Held) int {
	blobs, size := map[v1.Hash]bool{}, 0
	for i, h := range all {
		raw, err := marshal(h.stored())
		size += len(raw) + 1
		if blobs[h.Blob.Digest] = true; err != nil || size > roomFor || len(blobs) > maxLayers {
			return i
		}
	}
	return len(all)
}

// Holds says whether a cache has all of entries, as used today.
func Holds(have []Held, entries []Entry, now time.Time) bool {
	today := now.UTC().Truncate(day)
	used := make(map[cache.Key]v1.Hash, len(have))
	for _, h := range have {
		if h.Used.Equal(today) {
			used[h.Key] = h.DiffID
		}
	}
	return !slices.ContainsFunc(entries, func(e Entry) bool { return used[e.Key] != e.DiffID })
}

// Entries are those of a list for some keys.
func Entries(list []Held, keys []cache.Key) []Entry {
	wanted := make(map[cache.Key]bool, len(keys))
	for _, k := range keys {
		wanted[k] = true
	}
	var out []Entry
	for _, h := range list {
		if wanted[h.Key] {
			out = append(out, h.Entry)
		}
	}
	return out
}

// maxUnpacked bounds the bytes of what UnmarshalGzip reads, unpacked.
const maxUnpacked = 3 * MaxDocument

// MarshalGzip writes v as JSON, compressed.
func MarshalGzip(v any) ([]byte, error) {
	raw, err := marshal(v)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err = z.Write(raw)
	err = errors.Join(err, z.Close())
	return b.Bytes(), err
}

// UnmarshalGzip reads what MarshalGzip wrote. What was changed on its way is an error.
func UnmarshalGzip(packed []byte, v any) error {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return fmt.Errorf("unpacking a document of the cache: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(z, maxUnpacked+1))
	if err != nil {
		return fmt.Errorf("unpacking a document of the cache: %w", err)
	}
	if len(raw) > maxUnpacked {
		return fmt.Errorf("a document of the cache has more than %d bytes", maxUnpacked)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("reading a document of the cache: %w", err)
	}
	return nil
}
