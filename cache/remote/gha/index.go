package gha

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache/remote"
)

const (
	indexVersion = 1
	maxIndex     = 24 << 20 // bytes, as it is stored
	maxPacked    = 32 << 20 // bytes of a blob in a pack
)

// place says where a small blob is.
type place struct {
	Pack   string `json:"pack"` // the key of the pack
	Offset int64  `json:"offset"`
}

// index is what a job finds: the entries, and which of their blobs are in packs. Other blobs are
// entries of the service by themselves.
type index struct {
	entries []remote.Held
	packed  map[v1.Hash]place
}

// storedIndex is an index as it is stored, compressed by gzip.
type storedIndex struct {
	Version int              `json:"version"`
	Records json.RawMessage  `json:"records"` // a document of entries
	Packed  map[string]place `json:"packed"`
}

var packKey = regexp.MustCompile(`^strake-pack-[0-9a-f]{64}$`)

func encodeIndex(x index) ([]byte, error) {
	doc, err := remote.EncodeEntries(x.entries)
	if err != nil {
		return nil, err
	}
	s := storedIndex{Version: indexVersion, Records: doc, Packed: map[string]place{}}
	for _, e := range x.entries {
		if p, ok := x.packed[e.Blob.Digest]; ok {
			s.Packed[e.Blob.Digest.String()] = p
		}
	}
	raw, err := remote.MarshalGzip(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the index of the cache: %w", err)
	}
	return raw, nil
}

// decodeIndex reads an index that others wrote.
func decodeIndex(packed []byte) (index, error) {
	var s storedIndex
	if err := remote.UnmarshalGzip(packed, &s); err != nil {
		return index{}, err
	}
	if s.Version != indexVersion {
		return index{}, fmt.Errorf("the index of the cache has version %d, of another strake", s.Version)
	}
	entries, err := remote.DecodeEntries(s.Records)
	if err != nil {
		return index{}, err
	}
	x := index{entries: entries, packed: map[v1.Hash]place{}}
	for _, e := range entries {
		p, ok := s.Packed[e.Blob.Digest.String()]
		if ok && packKey.MatchString(p.Pack) && p.Offset >= 0 && p.Offset < packSize+maxPacked && e.Blob.Size <= maxPacked {
			x.packed[e.Blob.Digest] = p
		}
	}
	return x, nil
}

// over returns an index with what both have. Of entries of one key those of x come first, and merge takes these.
func (x index) over(older index) index {
	both := index{entries: slices.Concat(x.entries, older.entries), packed: map[v1.Hash]place{}}
	maps.Copy(both.packed, older.packed)
	maps.Copy(both.packed, x.packed)
	return both
}

// merge returns x with entries that are used now, which replace those of the same keys.
func (x index) merge(entries []remote.Entry, packed map[v1.Hash]place, now time.Time) index {
	out := index{entries: remote.Merge(x.entries, entries, now), packed: map[v1.Hash]place{}}
	for _, e := range out.entries {
		for _, m := range []map[v1.Hash]place{x.packed, packed} {
			if p, ok := m[e.Blob.Digest]; ok {
				out.packed[e.Blob.Digest] = p
			}
		}
	}
	return out
}
