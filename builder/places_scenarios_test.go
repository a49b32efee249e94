package builder_test

import (
	"fmt"
	"maps"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/strake-build/strake/layer/image"
)

// origins are first machines, each of which filled caches of all kinds. Scenarios that begin alike share one.
type origins struct {
	*places
	mu   sync.Mutex
	made map[string]*origin
}

type origin struct {
	sync.Once
	*world
	at    string
	image *image.Image
}

// of is the machine that a scenario begins on.
func (o *origins) of(s scenario) *origin {
	text, _ := s.texts()
	begins := text
	if len(s.first) > 0 {
		begins = s.name
	}
	o.mu.Lock()
	m := o.made[begins]
	if m == nil {
		m = &origin{at: fmt.Sprint("c", len(o.made))}
		o.made[begins] = m
	}
	o.mu.Unlock()
	m.Do(func() {
		m.world = newWorld(o.t)
		m.usualContext()
		m.image = o.fill(m.world, m.at, text, s.first...)
	})
	return m
}

// copyContext gives w the context and the bases of another machine.
func (w *world) copyContext(from *world) {
	w.t.Helper()
	out, err := exec.Command("cp", "-a", from.context+"/.", w.context).CombinedOutput()
	if err != nil {
		w.t.Fatalf("copying the context: %v: %s", err, out)
	}
	w.images = maps.Clone(from.images)
}

// expect is what must run where there is only a cache of a kind. Layers of other stages are not in an image, nor are keys by
// content: once something of the first stage must run, all of it must, and what copies from it.
func (s scenario) expect(k kind) string {
	want := s.want
	switch {
	case k != inline:
	case s.inline != "":
		want = s.inline
	case s.text == "" && strings.ContainsAny(s.want, "ABMSW"):
		want += "ABLMSTW"
	}
	return sorted(want, "C") // the parts of contexts that steps mount do not travel
}

// A second machine with nothing but a cache that the first one wrote runs what the first one would run again, wherever the cache is.
func TestScenariosInEveryPlace(t *testing.T) {
	needRoot(t)
	o := &origins{places: newPlaces(t), made: map[string]*origin{}}
	for _, s := range scenarios() {
		t.Run(strings.ReplaceAll(s.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			from := o.of(s)
			_, text := s.texts()
			changed := &world{t: t, context: t.TempDir()}
			changed.copyContext(from.world)
			if s.edit != nil {
				s.edit(changed)
			}
			for _, k := range kinds() {
				w := newWorld(t)
				w.context, w.images = changed.context, changed.images
				_, warnings := w.imports(o.open(k, from.at))
				after, err := w.build(text, s.second...)
				must(t, err)
				got, want := sorted(w.steps(), "C"), s.expect(k)
				if len(*warnings) > 0 {
					t.Errorf("%s: warned %q", k, *warnings)
				}
				if s.cut { // no layer is here that a step could be seen to make again
					if missing := sorted(want, got); missing != "" {
						t.Errorf("%s: ran %q and not %q: %q", k, got, missing, w.misses())
					}
					continue
				}
				if got != want {
					t.Errorf("%s: ran %q, not %q: %q", k, got, want, w.misses())
				}
				if k != inline {
					checkSameLayers(t, s, from.image, after)
				}
				w.checkNothingRuns(s, text)
			}
		})
	}
}
