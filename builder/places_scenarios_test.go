package builder_test

import (
	"strings"
	"testing"

	"github.com/strake-build/strake/runner"
)

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
	first := newOrigins(t)
	for _, k := range append(kinds(), closed) {
		t.Run(string(k), func(t *testing.T) {
			p := realPlace(t, k)
			for i, s := range scenariosOn(runner.Root) {
				if s.here || k == closed && i%4 != 0 { // that is the registry once more, but for how it is reached
					continue
				}
				t.Run(strings.ReplaceAll(s.name, " ", "_"), func(t *testing.T) {
					t.Parallel()
					from := first.of(t, s)
					p.fillOnce(t, from, k)
					w := first.world(t)
					w.copyContext(from.world)
					if s.edit != nil {
						s.edit(w)
					}
					_, warnings := w.imports(p.open(k, from.at))
					after := w.must(s.after, s.second...)
					if len(*warnings) > 0 {
						t.Errorf("warned %q", *warnings)
					}
					got, want := sorted(w.steps(), "C"), s.expect(k)
					if s.cut { // no layer is here that a step could be seen to make again
						if missing := sorted(want, got); missing != "" {
							t.Errorf("ran %q and not %q: %q", got, missing, w.misses())
						}
						return
					}
					if got != want {
						t.Errorf("ran %q, not %q: %q", got, want, w.misses())
					}
					if k != inline {
						checkSameLayers(t, s, from.image, after)
					}
					w.checkNothingRuns(s)
				})
			}
		})
	}
}
