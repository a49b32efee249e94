package store

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strake-build/strake/cache"
)

// TestPruneOrder removes from a store of which some things are needed, in use, or young.
func TestPruneOrder(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	day := func(n int) time.Time { return now.Add(-time.Duration(n) * 24 * time.Hour) }
	for name, c := range map[string]struct {
		opt  PruneOptions
		want string
	}{
		"all":              {PruneOptions{}, "old,above,below,mount,young"},
		"limit":            {PruneOptions{Limit: Limit{MaxUsed: 25}}, "old,above,below"},
		"exact limit":      {PruneOptions{Limit: Limit{MaxUsed: 50}}, ""},
		"reserved":         {PruneOptions{Limit: Limit{MaxUsed: 1, Reserved: 35}}, "old,above"},
		"until":            {PruneOptions{UnusedFor: 48 * time.Hour}, "old,above,below"},
		"type":             {PruneOptions{Kinds: []Kind{Mount}}, "mount"},
		"id":               {PruneOptions{IDs: []string{"o", "y"}}, "old,young"},
		"types and ids":    {PruneOptions{Kinds: []Kind{Mount}, IDs: []string{"old"}}, ""},
		"keep of a type":   {PruneOptions{Kinds: []Kind{Layer}, Limit: Limit{MaxUsed: 25}}, "old,above"},
		"enough of a type": {PruneOptions{Kinds: []Kind{Mount}, Limit: Limit{MaxUsed: 10}}, ""},
		"keep of an id":    {PruneOptions{IDs: []string{"mount"}, Limit: Limit{MaxUsed: 9}}, "mount"},
		"limit and young":  {PruneOptions{Kinds: []Kind{Layer}, UnusedFor: 24 * 2 * time.Hour, Limit: Limit{MaxUsed: 11}}, "old,above,below"},
		"limit and until":  {PruneOptions{UnusedFor: 24 * 4 * time.Hour, Limit: Limit{MaxUsed: 1}}, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			var gone []string
			item := func(kind Kind, id string, used, created time.Time, reclaimable bool) *Holding {
				return &Holding{Kind: kind, ID: id, Size: 10, LastUsed: used, created: created, Reclaimable: reclaimable, remove: func() (bool, error) {
					gone = append(gone, id)
					return true, nil
				}}
			}
			h := Holdings{
				item(Layer, "young", day(0), day(0), true),
				item(Mount, "mount", day(1), day(1), true),
				item(Layer, "below", day(3), day(9), true),
				item(Layer, "above", day(3), day(8), true),
				item(Layer, "needed", day(99), day(99), false),
				item(Layer, "old", day(5), day(5), true),
			}
			removed, err := h.prune(context.Background(), c.opt, now)
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
	s := &Store{Cache: records}
	for name, layer := range map[string]*Holding{
		"needed by an image": {Kind: Layer, Images: []string{"app"}},
		"used by the build":  {Kind: Layer, LastUsed: time.Unix(200, 0), Reclaimable: true},
	} {
		note := &Holding{Kind: Note, of: layer, Reclaimable: true}
		s.protect(Holdings{layer, note}, time.Unix(100, 0))
		if note.Reclaimable {
			t.Errorf("%s: the note of its layer may go", name)
		}
	}
	old := &Holding{Kind: Layer, LastUsed: time.Unix(10, 0), created: time.Unix(5, 0), Reclaimable: true}
	note := &Holding{Kind: Note, of: old, LastUsed: old.LastUsed, created: old.created, Reclaimable: true}
	h := Holdings{old, note}
	if s.protect(h, time.Unix(100, 0)); !note.Reclaimable {
		t.Error("the note of a layer that may go may not")
	}
	if h.oldest()[0] != old {
		t.Error("the note goes before what it explains")
	}
}

func TestPruneStops(t *testing.T) {
	broken := errors.New("broken")
	h := Holdings{
		{ID: "a", Reclaimable: true, remove: func() (bool, error) { return true, nil }},
		{ID: "b", Reclaimable: true, remove: func() (bool, error) { return false, broken }},
	}
	slices.SortFunc(h, func(a, b *Holding) int { return strings.Compare(a.ID, b.ID) })
	if removed, err := h.prune(context.Background(), PruneOptions{}, time.Now()); len(removed) != 1 || !errors.Is(err, broken) {
		t.Errorf("%d removed, %v", len(removed), err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(broken)
	if removed, err := h.prune(ctx, PruneOptions{}, time.Now()); len(removed) != 0 || !errors.Is(err, broken) {
		t.Errorf("canceled: %d removed, %v", len(removed), err)
	}
}

// TestPruneInUse goes on with what is next where somebody uses what is to go.
func TestPruneInUse(t *testing.T) {
	h := Holdings{
		{ID: "a", Size: 10, Reclaimable: true, remove: func() (bool, error) { return false, nil }},
		{ID: "b", Size: 10, Reclaimable: true, remove: func() (bool, error) { return true, nil }},
		{ID: "c", Size: 10, Reclaimable: true, remove: func() (bool, error) { return true, nil }},
	}
	removed, err := h.prune(t.Context(), PruneOptions{Limit: Limit{MaxUsed: 20}}, time.Now())
	if err != nil || len(removed) != 1 || removed[0].ID != "b" {
		t.Errorf("removed %v, %v; want b", removed, err)
	}
}

func TestMayExceed(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &Store{Root: t.TempDir(), now: func() time.Time { return now }}
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
	if err := os.WriteFile(s.Path("usage"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !s.mayExceed(100, 1000) {
		t.Error("a torn note")
	}
	if b, err := json.Marshal(measured{1, 2, now}); err != nil || !strings.Contains(string(b), `"reclaimable":1`) {
		t.Errorf("%s, %v", b, err)
	}
}
