package builder

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/dockerfile"
)

func TestAmbiguousHistory(t *testing.T) {
	for text, want := range map[string]bool{
		"RUN /bin/sh -c make # buildkit":                false,
		"RUN |1 A=b /bin/sh -c make # buildkit":         false,
		"RUN |2 A=b C= /bin/sh -c make # buildkit":      false,
		"RUN |1 A=b c /bin/sh -c make # buildkit":       true,
		"RUN |2 A=b /bin/sh -c make # buildkit":         true,
		"RUN |1 A=b /bin/sh":                            true,
		"RUN |x A=b /bin/sh -c make":                    true,
		"RUN |99999999999999999999 A=b /bin/sh -c make": true,
		"RUN |":                           true,
		"RUN make all # buildkit":         true,
		"RUN /bin/bash -c make":           true,
		"ENV A=b":                         false,
		"ENV A=b c":                       true,
		"ENV A=b C=d":                     true,
		"ENV A=b=c":                       true,
		"COPY a b # buildkit":             false,
		`RUN |1 A="b /bin/sh -c" /bin/sh`: true,
	} {
		if got := ambiguous(v1.History{CreatedBy: text}); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestFromHistory(t *testing.T) {
	h := func(s string) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: s} }
	entry := func(s string) v1.History { return v1.History{CreatedBy: s} }
	empty := func(s string) v1.History { return v1.History{CreatedBy: s, EmptyLayer: true} }
	img := remote.Plain{Origin: "r/app", Layers: make([]v1.Descriptor, 3)}
	img.Config.RootFS.DiffIDs = []v1.Hash{h("0"), h("1"), h("2")}
	img.Config.History = []v1.History{entry("base"), empty("ENV A=b"), entry("RUN x"), entry("COPY a b"), empty("CMD")}
	r, ok := fromHistory(img, img.Config.History[:3])
	if !ok || r.DiffID != "sha256:1" || r.Away.Below != remote.Chain(img.Config.RootFS.DiffIDs[:1]) {
		t.Errorf("got %+v, %v", r, ok)
	}
	for name, prefix := range map[string][]v1.History{
		"another base":    {entry("other"), empty("ENV A=b"), entry("RUN x")},
		"another value":   {entry("base"), empty("ENV A=c"), entry("RUN x")},
		"a step less":     {entry("base"), entry("RUN x")},
		"longer":          append(img.Config.History[:5:5], entry("RUN y")),
		"another comment": {entry("base"), empty("ENV A=b"), {CreatedBy: "RUN x", Comment: "c"}},
		"no layer":        {},
	} {
		if _, ok := fromHistory(img, prefix); ok {
			t.Errorf("%s is found", name)
		}
	}
	img.Config.History[4].EmptyLayer = false
	if _, ok := fromHistory(img, img.Config.History[:3]); ok {
		t.Error("an image with a history of other layers is used")
	}
}

func TestFitHistory(t *testing.T) {
	full, empty := v1.History{CreatedBy: "full"}, v1.History{CreatedBy: "empty", EmptyLayer: true}
	for _, c := range []struct {
		name   string
		in     []v1.History
		layers int
		want   string
	}{
		{"right", []v1.History{full, empty, full}, 2, "full, empty -, full"},
		{"too much", []v1.History{full, empty, full, full}, 1, "full, empty -, full -, full -"},
		{"too little", []v1.History{empty, full}, 3, "empty -, full, a layer without history, a layer without history"},
		{"none", nil, 1, "a layer without history"},
		{"no layers", []v1.History{full}, 0, "full -"},
	} {
		var got []string
		for _, h := range fitHistory(slices.Clone(c.in), c.layers, v1.Time{}) {
			text := h.CreatedBy
			if h.EmptyLayer {
				text += " -"
			}
			got = append(got, text)
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: got %s, want %s", c.name, s, c.want)
		}
	}
}

// Whether a stage is ambiguous is noted entry by entry: a text with thousands of steps would have all of its entries read for each.
func TestPlannedNotesAmbiguity(t *testing.T) {
	pl := &planned{}
	for _, e := range []struct {
		text string
		want bool
	}{{"ENV A=b", false}, {"RUN /bin/sh -c make # buildkit", false}, {"ENV A=b C=d", true}, {"ENV D=e", true}} {
		if pl.note(v1.History{CreatedBy: e.text}); pl.vague != e.want {
			t.Errorf("after %s: %v", e.text, pl.vague)
		}
	}
	if len(pl.history()) != 4 {
		t.Error(pl.history())
	}
}

// A text may have thousands of stages, and planning them ends with the build.
func TestCancelledPlan(t *testing.T) {
	f, err := dockerfile.Parse("Dockerfile", []byte("FROM scratch AS a\nFROM a\nRUN true\n"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := f.Graph(dockerfile.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	want := errors.New("interrupted")
	cancel(want)
	if _, err := (&build{Builder: &Builder{}}).plan(ctx, g); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}
