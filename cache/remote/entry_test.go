package remote_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
)

func hashOf(t testing.TB, s string) v1.Hash {
	t.Helper()
	h, _, err := v1.SHA256(strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func entryOf(t testing.TB, name string) remote.Entry {
	t.Helper()
	parts := []cache.Part{{Name: "instruction", Value: "RUN"}, {Name: "arg", Value: name}}
	return remote.Entry{
		Key: cache.NewKey(parts), Below: remote.Chain(nil), DiffID: hashOf(t, "tar of "+name),
		Blob:    v1.Descriptor{MediaType: types.OCILayer, Digest: hashOf(t, "blob of "+name), Size: int64(len("blob of " + name))},
		Created: time.Unix(1_700_000_000, 0).UTC(), Name: "RUN " + name,
	}
}

// held are entries as a document has them.
func held(entries []remote.Entry) []remote.Held {
	return remote.Merge(nil, entries, time.Unix(1_700_000_000, 0))
}

func TestEntriesComeBack(t *testing.T) {
	want := held([]remote.Entry{entryOf(t, "a <b> && c"), entryOf(t, "d")})
	raw, err := remote.EncodeEntries(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.DecodeEntries(raw)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if bytes.Contains(raw, []byte(`"arg","value"`)) || strings.Contains(string(raw), `"sum":"a <b>`) {
		t.Error("a value of a part travels")
	}
}

// An entry that is not right is left out, and those beside it are not.
func TestBrokenEntriesAreLeftOut(t *testing.T) {
	good := entryOf(t, "good")
	for name, change := range map[string]func(*remote.Entry){
		"no digest":        func(e *remote.Entry) { e.Blob.Digest = v1.Hash{} },
		"digest is a path": func(e *remote.Entry) { e.DiffID = v1.Hash{Algorithm: "sha256", Hex: "../../../../etc/passwd"} },
		"other algorithm":  func(e *remote.Entry) { e.Below = v1.Hash{Algorithm: "sha512", Hex: strings.Repeat("a", 128)} },
		"negative size":    func(e *remote.Entry) { e.Blob.Size = -1 },
		"huge":             func(e *remote.Entry) { e.Blob.Size = 1 << 50 },
		"foreign layer":    func(e *remote.Entry) { e.Blob.MediaType = types.DockerForeignLayer },
		"no layer":         func(e *remote.Entry) { e.Blob.MediaType = types.OCIConfigJSON },
		"name":             func(e *remote.Entry) { e.Name = strings.Repeat("x", 5000) },
		"year":             func(e *remote.Entry) { e.Created = time.Unix(-1<<35, 0) },
		"year of a zone":   func(e *remote.Entry) { e.Created = time.Date(1970, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600)) },
	} {
		t.Run(name, func(t *testing.T) {
			bad := entryOf(t, "bad")
			change(&bad)
			raw, err := remote.EncodeEntries(held([]remote.Entry{bad, good}))
			if err != nil {
				t.Fatal(err)
			}
			got, err := remote.DecodeEntries(raw)
			if err != nil || len(got) != 1 || got[0].Key != good.Key {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestDocumentsThatAreMisses(t *testing.T) {
	for name, raw := range map[string]string{
		"empty":     "",
		"cut":       `{"version":1,"entries":[{`,
		"version":   `{"version":2,"entries":[]}`,
		"too large": `{"version":1,"entries":[]}` + strings.Repeat(" ", remote.MaxDocument),
		"too many":  `{"version":1,"entries":[` + strings.Repeat("{},", remote.MaxEntries) + `{}]}`,
	} {
		if got, err := remote.DecodeEntries([]byte(raw)); err == nil {
			t.Errorf("%s: got %d entries", name, len(got))
		}
	}
}

func FuzzDecodeEntries(f *testing.F) {
	raw, err := remote.EncodeEntries(held([]remote.Entry{entryOf(f, "a"), entryOf(f, "b")}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"version":1,"entries":[null,{"key":5},[]]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, err := remote.DecodeEntries(raw)
		if err != nil {
			return
		}
		for _, e := range entries {
			if err := e.Check(); err != nil {
				t.Error(err)
			}
		}
		again, err := remote.EncodeEntries(entries)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := remote.DecodeEntries(again); err != nil || len(got) != len(entries) {
			t.Errorf("%d of %d entries come back: %v", len(got), len(entries), err)
		}
	})
}
