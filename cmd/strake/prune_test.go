package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/cache"
)

// TestPruneOrder removes from a store of which some things are needed, in use, or young.
func TestPruneOrder(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	day := func(n int) time.Time { return now.Add(-time.Duration(n) * 24 * time.Hour) }
	for name, c := range map[string]struct {
		opts pruneOptions
		want string
	}{
		"all":              {pruneOptions{}, "old,above,below,mount,young"},
		"limit":            {pruneOptions{limit: pruneLimit{maxUsed: 25}}, "old,above,below"},
		"exact limit":      {pruneOptions{limit: pruneLimit{maxUsed: 50}}, ""},
		"reserved":         {pruneOptions{limit: pruneLimit{maxUsed: 1, reserved: 35}}, "old,above"},
		"until":            {pruneOptions{until: 48 * time.Hour}, "old,above,below"},
		"type":             {pruneOptions{types: []string{kindMount}}, "mount"},
		"id":               {pruneOptions{ids: []string{"o", "y"}}, "old,young"},
		"types and ids":    {pruneOptions{types: []string{kindMount}, ids: []string{"old"}}, ""},
		"keep of a type":   {pruneOptions{types: []string{kindLayer}, limit: pruneLimit{maxUsed: 25}}, "old,above"},
		"enough of a type": {pruneOptions{types: []string{kindMount}, limit: pruneLimit{maxUsed: 10}}, ""},
		"keep of an id":    {pruneOptions{ids: []string{"mount"}, limit: pruneLimit{maxUsed: 9}}, "mount"},
		"limit and young":  {pruneOptions{types: []string{kindLayer}, until: 24 * 2 * time.Hour, limit: pruneLimit{maxUsed: 11}}, "old,above,below"},
		"limit and until":  {pruneOptions{until: 24 * 4 * time.Hour, limit: pruneLimit{maxUsed: 1}}, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			var gone []string
			item := func(kind, id string, used, created time.Time, reclaimable bool) *holding {
				return &holding{Kind: kind, ID: id, Size: 10, LastUsed: used, created: created, Reclaimable: reclaimable, remove: func() (bool, error) {
					gone = append(gone, id)
					return true, nil
				}}
			}
			h := &holdings{Items: []*holding{
				item(kindLayer, "young", day(0), day(0), true),
				item(kindMount, "mount", day(1), day(1), true),
				item(kindLayer, "below", day(3), day(9), true),
				item(kindLayer, "above", day(3), day(8), true),
				item(kindLayer, "needed", day(99), day(99), false),
				item(kindLayer, "old", day(5), day(5), true),
			}}
			removed, err := h.prune(context.Background(), c.opts, now)
			if got := strings.Join(gone, ","); got != c.want || err != nil || len(removed) != len(gone) {
				t.Errorf("removed %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

// TestPruneNotes keeps what explains a layer as long as the layer.
func TestPruneNotes(t *testing.T) {
	records, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &store{cache: records}
	for name, layer := range map[string]*holding{
		"needed by an image": {Kind: kindLayer, Images: []string{"app"}},
		"used by the build":  {Kind: kindLayer, LastUsed: time.Unix(200, 0), Reclaimable: true},
	} {
		note := &holding{Kind: kindNote, of: layer, Reclaimable: true}
		s.protect(&holdings{Items: []*holding{layer, note}}, time.Unix(100, 0))
		if note.Reclaimable {
			t.Errorf("%s: the note of its layer may go", name)
		}
	}
	old := &holding{Kind: kindLayer, LastUsed: time.Unix(10, 0), created: time.Unix(5, 0), Reclaimable: true}
	note := &holding{Kind: kindNote, of: old, LastUsed: old.LastUsed, created: old.created, Reclaimable: true}
	h := &holdings{Items: []*holding{old, note}}
	if s.protect(h, time.Unix(100, 0)); !note.Reclaimable {
		t.Error("the note of a layer that may go may not")
	}
	if h.oldest()[0] != old {
		t.Error("the note goes before what it explains")
	}
}

func TestPruneStops(t *testing.T) {
	broken := errors.New("broken")
	h := &holdings{Items: []*holding{
		{ID: "a", Reclaimable: true, remove: func() (bool, error) { return true, nil }},
		{ID: "b", Reclaimable: true, remove: func() (bool, error) { return false, broken }},
	}}
	slices.SortFunc(h.Items, func(a, b *holding) int { return strings.Compare(a.ID, b.ID) })
	if removed, err := h.prune(context.Background(), pruneOptions{}, time.Now()); len(removed) != 1 || !errors.Is(err, broken) {
		t.Errorf("%d removed, %v", len(removed), err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(broken)
	if removed, err := h.prune(ctx, pruneOptions{}, time.Now()); len(removed) != 0 || !errors.Is(err, broken) {
		t.Errorf("canceled: %d removed, %v", len(removed), err)
	}
}

// TestPruneInUse goes on with what is next where somebody uses what is to go.
func TestPruneInUse(t *testing.T) {
	h := &holdings{Items: []*holding{
		{ID: "a", Size: 10, Reclaimable: true, remove: func() (bool, error) { return false, nil }},
		{ID: "b", Size: 10, Reclaimable: true, remove: func() (bool, error) { return true, nil }},
		{ID: "c", Size: 10, Reclaimable: true, remove: func() (bool, error) { return true, nil }},
	}}
	removed, err := h.prune(t.Context(), pruneOptions{limit: pruneLimit{maxUsed: 20}}, time.Now())
	if err != nil || len(removed) != 1 || removed[0].ID != "b" {
		t.Errorf("removed %v, %v; want b", removed, err)
	}
}

func TestParseCap(t *testing.T) {
	disk := unix.Statfs_t{Blocks: 1000, Bsize: 4096}
	for in, want := range map[string]int64{"10%": 409_600, "0.5%": 20_480, "0%": 0, "0": 0, "1g": 1 << 30, "20MB": 20 << 20} {
		c, err := parseCap("cache-max-size", in)
		if got := c.in(disk); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"-1%", "101%", "%", "NaN%", "much", "-1g", "10 %x"} {
		if c, err := parseCap("cache-max-size", in); exitCode(err) != codeUsage {
			t.Errorf("%s: %+v, %v", in, c, err)
		}
	}
}

func TestStoreMayExceed(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	env := newEnvironment()
	env.now = func() time.Time { return now }
	s := &store{env: env, root: t.TempDir()}
	if !s.mayExceed(100, 1000) {
		t.Error("a store that was never measured")
	}
	for name, c := range map[string]struct {
		m           measured
		limit, used int64
		want        bool
	}{
		"nothing changed": {measured{50, 1000, now}, 100, 1000, false},
		"grew a little":   {measured{50, 1000, now}, 100, 1050, false},
		"grew":            {measured{50, 1000, now}, 100, 1051, true},
		"smaller limit":   {measured{50, 1000, now}, 40, 900, true},
		"long ago":        {measured{50, 1000, now.Add(-2 * time.Hour)}, 100, 1000, true},
		"in the future":   {measured{50, 1000, now.Add(2 * time.Hour)}, 100, 1000, true},
	} {
		s.noteSize(c.m)
		if got := s.mayExceed(c.limit, c.used); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if err := os.WriteFile(s.path("usage"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !s.mayExceed(100, 1000) {
		t.Error("a torn note")
	}
	if b, err := json.Marshal(measured{1, 2, now}); err != nil || !strings.Contains(string(b), `"reclaimable":1`) {
		t.Errorf("%s, %v", b, err)
	}
}
