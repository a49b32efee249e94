package remote

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/blob"
)

// Limits of what is taken from a back end.
const (
	MaxDocument = 8 << 20  // bytes of a document of entries
	MaxEntries  = 20_000   // entries of a document
	maxLayer    = 64 << 30 // bytes of a blob
	maxName     = 4 << 10  // bytes of a step's name
)

// version is of the document. Documents of others are misses.
const version = 1

// Entry is a record of the cache for other machines.
type Entry struct {
	Key cache.Key
	// Below is the identity (Chain) of the layers that the layer was made on: it is laid on no others.
	Below   v1.Hash
	DiffID  v1.Hash
	Blob    v1.Descriptor // media type, digest and size; nothing else travels
	Created time.Time     // when the step ended
	Name    string        // the step as people read it, at most 4 KiB
	// Signature is over all of the above, see Sign; empty if there is none.
	Signature []byte
}

// Chain identifies layers stacked on each other, bottom first, by their diffIDs.
func Chain(diffIDs []v1.Hash) v1.Hash {
	h := sha256.New()
	for _, d := range diffIDs {
		_, _ = io.WriteString(h, d.String()+"\n") // never fails
	}
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// document is a list of entries as it is stored.
type document struct {
	Version int               `json:"version"`
	Entries []json.RawMessage `json:"entries"`
}

// stored is an entry in a document.
type stored struct {
	Key     string    `json:"key"`
	Below   string    `json:"below"`
	DiffID  string    `json:"diffID"`
	Type    string    `json:"mediaType"`
	Digest  string    `json:"digest"`
	Size    int64     `json:"size"`
	Created time.Time `json:"created"`
	Used    time.Time `json:"used,omitzero"` // see Held
	Name    string    `json:"name"`
	Sig     []byte    `json:"signature,omitempty"`
}

// stored returns the form of an entry in a document.
func (e Entry) stored() stored {
	return stored{
		Key: e.Key.String(), Below: e.Below.String(), DiffID: e.DiffID.String(),
		Type: string(e.Blob.MediaType), Digest: e.Blob.Digest.String(), Size: e.Blob.Size,
		Created: e.Created.UTC(), Name: e.Name, Sig: e.Signature,
	}
}

func (h Held) stored() stored {
	s := h.Entry.stored()
	s.Used = h.Used
	return s
}

// EncodeEntries writes a document. The same entries give the same bytes.
func EncodeEntries(entries []Held) ([]byte, error) {
	doc := document{Version: version, Entries: []json.RawMessage{}}
	for _, h := range entries {
		raw, err := marshal(h.stored())
		if err != nil {
			return nil, fmt.Errorf("encoding a cache entry: %w", err)
		}
		doc.Entries = append(doc.Entries, raw)
	}
	raw, err := marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encoding cache entries: %w", err)
	}
	return raw, nil
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// DecodeEntries reads a document. Entries that are not right are left out; a document that cannot be read, of another
// version, or beyond the limits is an error.
func DecodeEntries(raw []byte) ([]Held, error) {
	if len(raw) > MaxDocument {
		return nil, fmt.Errorf("cache entries of %d bytes are too many, more than %d", len(raw), MaxDocument)
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("reading cache entries: %w", err)
	}
	if doc.Version != version {
		return nil, fmt.Errorf("cache entries of version %d are of another strake", doc.Version)
	}
	if len(doc.Entries) > MaxEntries {
		return nil, fmt.Errorf("%d cache entries are more than %d", len(doc.Entries), MaxEntries)
	}
	entries := make([]Held, 0, len(doc.Entries))
	for _, raw := range doc.Entries {
		if e, err := decodeEntry(raw); err == nil {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

func decodeEntry(raw []byte) (Held, error) {
	var s stored
	if err := json.Unmarshal(raw, &s); err != nil {
		return Held{}, err
	}
	e := Entry{Created: s.Created, Name: s.Name, Signature: s.Sig}
	var ok bool
	if e.Key, ok = cache.ParseKey(s.Key); !ok {
		return Held{}, errors.New("a cache entry's key is broken")
	}
	for _, f := range []struct {
		to   *v1.Hash
		from string
	}{{&e.Below, s.Below}, {&e.DiffID, s.DiffID}, {&e.Blob.Digest, s.Digest}} {
		var err error
		if *f.to, err = v1.NewHash(f.from); err != nil {
			return Held{}, fmt.Errorf("a cache entry's digest is broken: %w", err)
		}
	}
	e.Blob.Size, e.Blob.MediaType = s.Size, types.MediaType(s.Type)
	return Held{e, s.Used}, e.Check()
}

// Check says what is wrong with an entry that others wrote.
func (e Entry) Check() error {
	for _, h := range []v1.Hash{e.Below, e.DiffID, e.Blob.Digest} {
		if blob.CheckDigest(h) != nil {
			return fmt.Errorf("the cache entry of %s has a broken digest", e.Key)
		}
	}
	if e.Blob.Size <= 0 || e.Blob.Size > maxLayer {
		return fmt.Errorf("the cache entry of %s has a layer of %d bytes", e.Key, e.Blob.Size)
	}
	switch e.Blob.MediaType {
	case types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer:
	default:
		return fmt.Errorf("the cache entry of %s has a layer of an unknown type", e.Key)
	}
	if y := e.Created.UTC().Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("the cache entry of %s is of the year %d", e.Key, y)
	}
	if len(e.Name) > maxName || !utf8.ValidString(e.Name) {
		return fmt.Errorf("the cache entry of %s has a name beyond the limits", e.Key)
	}
	if len(e.Signature) != 0 && len(e.Signature) != ed25519.SignatureSize {
		return fmt.Errorf("the cache entry of %s has a broken signature", e.Key)
	}
	return nil
}
