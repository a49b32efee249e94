package builder_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/runner"
)

var propertyTime = flag.Duration("property", 10*time.Second, "how long TestCachedBuildIsAClean builds random Dockerfiles")

// random makes Dockerfiles, and changes them and their context.
type random struct {
	*rand.Rand
	w      *world
	stages [][]string
	value  string
}

func (r *random) pick(list ...string) string { return list[r.IntN(len(list))] }

// step is a random instruction of the stage n.
func (r *random) step(n int) string {
	file := r.pick("a", "b", "d/c")
	switch r.IntN(10) {
	case 0:
		return "ENV E=" + r.pick("1", "2")
	case 1:
		return "ARG V"
	case 2:
		return "WORKDIR /" + r.pick("w", "v")
	case 3:
		return "COPY src/ /" + r.pick("x", "y") + "/"
	case 4:
		return "COPY --chmod=" + r.pick("600", "644") + " src/" + file + " /f"
	case 5:
		return "COPY --link src/" + file + " /l"
	case 6:
		if n > 0 {
			return fmt.Sprintf("COPY --from=s%d /out /from%d", r.IntN(n), r.IntN(2))
		}
		return "USER " + r.pick("0", "1")
	case 7:
		return fmt.Sprintf("RUN --mount=type=bind,source=src,target=/m [\"env\",\"m%d\",\"E\"]", r.IntN(2))
	case 8:
		return fmt.Sprintf("RUN [\"env\",\"e%d\",\"V\"]", r.IntN(2))
	default:
		return fmt.Sprintf("RUN [\"write\",\"w%d\",\"%d\"]", r.IntN(2), r.IntN(3))
	}
}

func (r *random) text() string {
	var b strings.Builder
	for n, steps := range r.stages {
		fmt.Fprintf(&b, "FROM base AS s%d\nCOPY src/a /out\n%s\n", n, strings.Join(steps, "\n"))
	}
	return b.String()
}

// edit changes something.
func (r *random) edit() string {
	n := r.IntN(len(r.stages))
	steps := r.stages[n]
	switch r.IntN(7) {
	case 0, 1:
		name := "src/" + r.pick("a", "b", "d/c")
		r.w.write(name, fmt.Sprint(r.IntN(3)))
		return "wrote " + name
	case 2:
		r.value = fmt.Sprint(r.IntN(3))
		return "V is " + r.value
	case 3:
		at := r.IntN(len(steps) + 1)
		r.stages[n] = append(steps[:at:at], append([]string{r.step(n)}, steps[at:]...)...)
		return "a step more"
	case 4:
		if len(steps) > 1 {
			at := r.IntN(len(steps))
			r.stages[n] = append(steps[:at:at], steps[at+1:]...)
		}
		return "a step less"
	case 5:
		r.w.images["base"] = r.w.testImage(r.pick("1", "2"))
		return "another base"
	default:
		steps[r.IntN(len(steps))] = r.step(n)
		return "another step"
	}
}

// content is an image but for times: its configuration without them.
func content(t *testing.T, img *image.Image) string {
	t.Helper()
	c := *img.Config.DeepCopy()
	c.Created.Time = time.Time{}
	c.RootFS.DiffIDs = nil
	for i := range c.History {
		c.History[i].Created.Time = time.Time{}
	}
	raw, err := json.Marshal(c)
	must(t, err)
	return string(raw)
}

// A build with a cache, however it came about, is that of an empty cache, byte for byte but for times.
func TestCachedBuildIsAClean(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if !testing.Verbose() {
		seed = 1
	}
	end := time.Now().Add(*propertyTime)
	for ; time.Now().Before(end); seed++ {
		t.Logf("seed %d", seed)
		w := newWorld(t)
		r := &random{Rand: rand.New(rand.NewPCG(seed, 0)), w: w, value: "0"}
		w.images["base"] = w.testImage("1")
		for _, f := range []string{"src/a", "src/b", "src/d/c"} {
			w.write(f, "0")
		}
		for n := range 1 + r.IntN(3) {
			r.stages = append(r.stages, nil)
			for range 1 + r.IntN(5) {
				r.stages[n] = append(r.stages[n], r.step(n))
			}
		}
		var log []string
		for range 8 {
			w.now = w.now.Add(time.Minute)
			cached, err := w.build(r.text(), arg("V", r.value))
			must(t, err)
			clean := w.clean(r.text(), arg("V", r.value))
			compare(t, w, cached, clean)
			if t.Failed() {
				t.Fatalf("seed %d, after %q:\n%s", seed, log, r.text())
			}
			log = append(log, r.edit())
		}
	}
}

// clean builds with an empty cache, one step after the other.
func (w *world) clean(text string, changes ...change) *image.Image {
	w.t.Helper()
	records, err := cache.Open(w.t.TempDir())
	must(w.t, err)
	old := *w.Builder
	defer func() { *w.Builder = old }()
	w.Cache, w.Records = records, nil
	return w.must(text, append(changes[:len(changes):len(changes)], func(o *builder.Options) { o.Jobs, o.Sandbox.Limits = 1, runner.Limits{} })...)
}

func compare(t *testing.T, w *world, a, b *image.Image) {
	t.Helper()
	if x, y := content(t, a), content(t, b); x != y {
		t.Errorf("configurations differ:\n%s\n%s", x, y)
	}
	if len(a.Layers) != len(b.Layers) {
		t.Errorf("%d and %d layers", len(a.Layers), len(b.Layers))
		return
	}
	for i := range a.Layers {
		x, err := w.Layers.Unpacked(t.Context(), a.Layers[i], nil)
		must(t, err)
		y, err := w.Layers.Unpacked(t.Context(), b.Layers[i], nil)
		must(t, err)
		differ, err := w.Snapshots.Differences(t.Context(), x, y, 3)
		must(t, err)
		if len(differ) > 0 {
			t.Errorf("layer %d differs at %q", i, differ)
		}
	}
}
