package remote

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/cache"
)

// ConfigKey is where entries are in the configuration of an image, which may be an image of its own (inline) or one that
// is there for the cache alone. Programs that do not know it pass over it.
const ConfigKey = "build.strake.cache.v1"

// cachePlatform is that of images which are there for the cache alone: nothing can run them.
const cachePlatform = "unknown"

// Step is an entry in an image: its layer is one of the image's.
type Step struct {
	Layer   int // index in the image, from the bottom
	Keys    []cache.Key
	Created time.Time
	Name    string

	below      string    // Entry.Below; empty is the layers before it in the image
	used       time.Time // by a build, to the day
	signatures [][]byte  // of Keys; none for no signature
}

// listed is a Step as it is stored.
type listed struct {
	Layer   int       `json:"layer"`
	Keys    []string  `json:"keys"`
	Below   string    `json:"below,omitempty"`
	Created time.Time `json:"created"`
	Used    time.Time `json:"used,omitzero"`
	Name    string    `json:"name"`
	// Signatures are those of the entries of Keys.
	Signatures [][]byte `json:"signatures,omitempty"`
}

// EncodeSteps gives the value of ConfigKey.
func EncodeSteps(steps []Step) (json.RawMessage, error) {
	doc := document{Version: version, Entries: []json.RawMessage{}}
	for _, s := range steps {
		l := listed{s.Layer, nil, s.below, s.Created.UTC(), s.used, cut(s.Name, maxName), s.signatures}
		if !slices.ContainsFunc(s.signatures, func(b []byte) bool { return len(b) > 0 }) {
			l.Signatures = nil
		}
		for _, k := range s.Keys {
			l.Keys = append(l.Keys, k.String())
		}
		raw, err := marshal(l)
		if err != nil {
			return nil, fmt.Errorf("encoding a cache entry: %w", err)
		}
		doc.Entries = append(doc.Entries, raw)
	}
	return marshal(doc)
}

// errNoCache says that an image has no entries.
var errNoCache = errors.New("the image carries no cache of strake's")

// decodeImage reads the entries of an image: its configuration, and the layers of its manifest. Broken ones are left out.
func decodeImage(rawConfig []byte, layers []v1.Descriptor) ([]Held, error) {
	var config struct {
		RootFS v1.RootFS `json:"rootfs"`
		Cache  *document `json:"build.strake.cache.v1"`
	}
	if err := json.Unmarshal(rawConfig, &config); err != nil {
		return nil, fmt.Errorf("reading cache entries: %w", err)
	}
	switch doc := config.Cache; {
	case doc == nil:
		return nil, errNoCache
	case doc.Version != version:
		return nil, fmt.Errorf("cache entries of version %d are of another strake", doc.Version)
	case len(doc.Entries) > MaxEntries:
		return nil, fmt.Errorf("%d cache entries are more than %d", len(doc.Entries), MaxEntries)
	case len(config.RootFS.DiffIDs) != len(layers):
		return nil, errors.New("the layers of manifest and configuration are not the same")
	}
	var out []Held
	for _, raw := range config.Cache.Entries {
		out = append(out, decodeListed(raw, config.RootFS.DiffIDs, layers)...)
		if len(out) > MaxEntries {
			return nil, fmt.Errorf("cache entries are more than %d", MaxEntries)
		}
	}
	return out, nil
}

// decodeListed gives an entry for each key.
func decodeListed(raw []byte, diffIDs []v1.Hash, layers []v1.Descriptor) []Held {
	var l listed
	if err := json.Unmarshal(raw, &l); err != nil || l.Layer < 0 || l.Layer >= len(layers) || len(l.Keys) > maxKeys {
		return nil
	}
	d := layers[l.Layer]
	e := Entry{
		DiffID: diffIDs[l.Layer], Blob: v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size},
		Created: l.Created, Name: l.Name,
	}
	var err error
	if l.Below == "" {
		e.Below = Chain(diffIDs[:l.Layer])
	} else if e.Below, err = v1.NewHash(l.Below); err != nil {
		return nil
	}
	var out []Held
	for i, k := range l.Keys {
		e.Signature = nil
		if i < len(l.Signatures) && len(l.Signatures[i]) > 0 {
			e.Signature = l.Signatures[i]
		}
		var ok bool
		if e.Key, ok = cache.ParseKey(k); ok && e.Check() == nil {
			out = append(out, Held{e, l.Used})
		}
	}
	return out
}

// encodeImage makes the image that is there for entries alone: its configuration and its manifest.
func encodeImage(entries []Held) (config, manifest []byte, err error) {
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{}}
	rootfs := v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}}
	type layer struct{ diffID, blob v1.Hash }
	type made struct {
		layer layer
		below v1.Hash
	}
	layers, steps := map[layer]int{}, map[made]int{}
	var list []Step
	for _, e := range entries {
		l := layer{e.DiffID, e.Blob.Digest}
		n, ok := layers[l]
		if !ok {
			n = len(m.Layers)
			layers[l] = n
			m.Layers, rootfs.DiffIDs = append(m.Layers, e.Blob), append(rootfs.DiffIDs, e.DiffID)
		}
		if i, ok := steps[made{l, e.Below}]; ok && list[i].takes(e) {
			list[i].Keys, list[i].signatures = append(list[i].Keys, e.Key), append(list[i].signatures, e.Signature)
			continue
		}
		steps[made{l, e.Below}] = len(list)
		list = append(list, Step{
			Layer: n, Keys: []cache.Key{e.Key}, Created: e.Created, Name: e.Name,
			below: e.Below.String(), used: e.Used, signatures: [][]byte{e.Signature},
		})
	}
	raw, err := EncodeSteps(list)
	if err != nil {
		return nil, nil, err
	}
	config, err = marshal(struct {
		Architecture string          `json:"architecture"`
		OS           string          `json:"os"`
		Config       struct{}        `json:"config"`
		RootFS       v1.RootFS       `json:"rootfs"`
		Cache        json.RawMessage `json:"build.strake.cache.v1"`
	}{cachePlatform, cachePlatform, struct{}{}, rootfs, raw})
	if err != nil {
		return nil, nil, err
	}
	digest, size, err := v1.SHA256(bytes.NewReader(config))
	if err != nil {
		return nil, nil, err
	}
	m.Config = v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: digest, Size: size}
	manifest, err = marshal(m)
	return config, manifest, err
}

// maxKeys bounds the keys of a step: that by how it was made, that by content, and those of other builds that came to the same layer.
const maxKeys = 8

// takes says whether an entry of the same layer differs in its key alone.
func (s Step) takes(e Held) bool {
	return len(s.Keys) < maxKeys && s.used.Equal(e.Used) && s.Created.Equal(e.Created) && s.Name == e.Name
}

// isCache says whether a configuration is of an image that is there for the cache alone.
func isCache(rawConfig []byte) bool {
	var config struct {
		Architecture string           `json:"architecture"`
		Cache        *json.RawMessage `json:"build.strake.cache.v1"`
	}
	return json.Unmarshal(rawConfig, &config) == nil && config.Cache != nil && config.Architecture == cachePlatform
}

// cut shortens text to at most n bytes, between characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return string(bytes.ToValidUTF8([]byte(s[:n]), nil))
}

// readAll reads a document of a known size.
func readAll(r io.Reader, size int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, size+1))
	if err == nil && int64(len(b)) != size {
		err = fmt.Errorf("it has %d bytes, not %d", len(b), size)
	}
	return b, err
}
