package remote

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/cache"
)

func digest(t testing.TB, s string) v1.Hash {
	t.Helper()
	h, _, err := v1.SHA256(strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func sample(t testing.TB, name, layer string) Held {
	t.Helper()
	return Held{Entry{
		Key: cache.NewKey([]cache.Part{{Name: "name", Value: name}}), Below: Chain([]v1.Hash{digest(t, "base")}), DiffID: digest(t, "tar "+layer),
		Blob:    v1.Descriptor{MediaType: types.OCILayer, Digest: digest(t, layer), Size: 7},
		Created: time.Unix(1_700_000_000, 0).UTC(), Name: "RUN " + layer, Signature: []byte(strings.Repeat(name, 64)),
	}, time.Unix(1_699_920_000, 0).UTC()}
}

func samples(t testing.TB) []Held {
	t.Helper()
	list := []Held{sample(t, "a", "one"), sample(t, "b", "one"), sample(t, "c", "two"), sample(t, "d", "three")}
	list[2].Signature, list[3].Created = nil, time.Unix(1_650_000_000, 5).UTC()
	return list
}

func imageOf(t testing.TB, list []Held) ([]byte, []v1.Descriptor) {
	t.Helper()
	config, raw, err := encodeImage(list)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return config, m.Layers
}

// Entries come back from an image as they were, signatures and all; keys of one step are kept together.
func TestImageHoldsEntries(t *testing.T) {
	want := samples(t)
	config, layers := imageOf(t, want)
	if len(layers) != 3 || !isCache(config) {
		t.Errorf("%d layers, a cache: %v", len(layers), isCache(config))
	}
	got, err := decodeImage(config, layers)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if n := strings.Count(string(config), `"keys"`); n != 3 {
		t.Errorf("%d steps", n)
	}
	if again, _ := imageOf(t, want); string(again) != string(config) {
		t.Error("the same entries give other bytes")
	}
}

// An entry names the layers below by their place in the image, if it is the image's own.
func TestInlineEntries(t *testing.T) {
	raw, err := EncodeSteps([]Step{{Layer: 2, Keys: []cache.Key{{1}}, Created: time.Unix(5, 0), Name: strings.Repeat("é", maxName)}})
	if err != nil {
		t.Fatal(err)
	}
	ids := []v1.Hash{digest(t, "0"), digest(t, "1"), digest(t, "2")}
	config, err := json.Marshal(map[string]any{"rootfs": v1.RootFS{Type: "layers", DiffIDs: ids}, ConfigKey: raw})
	if err != nil {
		t.Fatal(err)
	}
	layer := v1.Descriptor{MediaType: types.DockerLayer, Digest: digest(t, "blob"), Size: 9}
	got, err := decodeImage(config, []v1.Descriptor{layer, layer, layer})
	if err != nil || len(got) != 1 || got[0].Below != Chain(ids[:2]) || got[0].DiffID != ids[2] || got[0].Blob.Digest != layer.Digest {
		t.Errorf("got %+v, %v", got, err)
	}
	if isCache(config) {
		t.Error("an image with entries is taken for one that is there for them alone")
	}
	if _, err := decodeImage(config, []v1.Descriptor{layer}); err == nil {
		t.Error("a manifest with other layers is taken")
	}
}

// However much builds add, the image can be read back whole, and registries take its manifest.
func TestMergeIsBounded(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for name, tt := range map[string]struct {
		entries int
		change  func(i int, h *Held)
		want    func(n int) bool
	}{
		"bytes": {3_000, func(_ int, h *Held) { h.Name = strings.Repeat("\x01", maxName) }, func(n int) bool { return n < 1_000 && n > 100 }},
		"layers": {maxLayers + 10, func(i int, h *Held) {
			h.Blob.Digest.Hex, h.DiffID.Hex = fmt.Sprintf("%064x", i), fmt.Sprintf("%064x", i)
		}, func(n int) bool { return n == maxLayers }},
	} {
		t.Run(name, func(t *testing.T) {
			var have []Held
			for i := range tt.entries {
				h := sample(t, "same", "one")
				h.Key = cache.Key{byte(i), byte(i >> 8), byte(i >> 16)}
				h.Signature = h.Signature[:64]
				tt.change(i, &h)
				have = append(have, h)
			}
			list := Merge(have, []Entry{sample(t, "n", "new").Entry}, now)
			if !tt.want(len(list)) || list[0].Name != "RUN new" {
				t.Errorf("%d entries, first %q", len(list), list[0].Name)
			}
			config, manifest, err := encodeImage(list)
			if err != nil || len(config) > MaxDocument || len(manifest) > 4<<20 {
				t.Fatalf("%d and %d bytes, %v", len(config), len(manifest), err)
			}
			var m v1.Manifest
			if err := json.Unmarshal(manifest, &m); err != nil {
				t.Fatal(err)
			}
			if again, err := decodeImage(config, m.Layers); err != nil || len(again) != len(list) {
				t.Errorf("%d of %d entries come back, %v", len(again), len(list), err)
			}
		})
	}
	old := sample(t, "a", "one")
	old.Used = now.Add(-keptFor)
	if list := Merge([]Held{old}, nil, now); len(list) != 0 {
		t.Error("what nobody used for long is kept")
	}
	old.Used = now.AddDate(50, 0, 0)
	if list := Merge([]Held{old}, nil, now); len(list) != 1 || list[0].Used.After(now) {
		t.Errorf("what was used in 50 years is kept until then: %+v", list)
	}
}

func FuzzDecodeImage(f *testing.F) {
	config, layers := imageOf(f, samples(f))
	f.Add(config, len(layers))
	f.Add([]byte(`{"rootfs":{"diff_ids":["sha256:x"]},"build.strake.cache.v1":{"version":1,"entries":[{"layer":0,"keys":["00"]}]}}`), 1)
	f.Fuzz(func(t *testing.T, raw []byte, n int) {
		list, err := decodeImage(raw, layers[:max(0, min(n, len(layers)))])
		if err != nil {
			return
		}
		for _, h := range list {
			if err := h.Check(); err != nil {
				t.Error(err)
			}
		}
		if _, _, err := encodeImage(Merge(list, nil, time.Unix(1_700_000_000, 0))); err != nil {
			t.Error(err)
		}
	})
}
