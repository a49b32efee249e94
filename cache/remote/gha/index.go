package gha

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"regexp"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
)

const (
	indexVersion = 1
	maxIndex     = 24 << 20 // bytes, unpacked
	maxPacked    = 32 << 20 // bytes of a blob in a pack
	maxKept      = 4000     // entries of an index
)

// place says where a small blob is.
type place struct {
	Pack   string `json:"pack"` // the key of the pack
	Offset int64  `json:"offset"`
}

// index is what a job finds: the entries, the oldest first, and which of their blobs are in packs. Other blobs are
// entries of the service by themselves.
type index struct {
	entries []remote.Entry
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
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the index of the cache: %w", err)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(raw); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// decodeIndex reads an index that others wrote.
func decodeIndex(packed []byte) (index, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return index{}, fmt.Errorf("unpacking the index of the cache: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(z, maxIndex+1))
	if err != nil {
		return index{}, fmt.Errorf("unpacking the index of the cache: %w", err)
	}
	if len(raw) > maxIndex {
		return index{}, fmt.Errorf("the index of the cache has more than %d bytes", maxIndex)
	}
	var s storedIndex
	if err := json.Unmarshal(raw, &s); err != nil {
		return index{}, fmt.Errorf("reading the index of the cache: %w", err)
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

// merge returns x with other entries, which replace those of the same keys, and become the newest.
func (x index) merge(entries []remote.Entry, packed map[v1.Hash]place) index {
	replaced := map[cache.Key]bool{}
	for _, e := range entries {
		replaced[e.Key] = true
	}
	out := index{packed: map[v1.Hash]place{}}
	for _, e := range x.entries {
		if !replaced[e.Key] {
			out.entries = append(out.entries, e)
		}
	}
	out.entries = append(out.entries, entries...)
	out.entries = out.entries[max(0, len(out.entries)-maxKept):]
	for _, e := range out.entries {
		for _, m := range []map[v1.Hash]place{x.packed, packed} {
			if p, ok := m[e.Blob.Digest]; ok {
				out.packed[e.Blob.Digest] = p
			}
		}
	}
	return out
}
