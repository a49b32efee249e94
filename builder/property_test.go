package builder_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/runner"
)

var (
	propertyTime = flag.Duration("property", 10*time.Second, "how long TestCachedBuildIsAClean builds random Dockerfiles")
	propertySeed = flag.Uint64("seed", 1, "what TestCachedBuildIsAClean begins with; 0 is the time")
)

// content is an image but for times: its configuration without them.
func content(t testing.TB, img *image.Image) string {
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
	l := newLab(t)
	seed := *propertySeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	built, all := 0, 0
	for end := time.Now().Add(*propertyTime); time.Now().Before(end); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := l.world(t)
			r := newRandom(seed, w)
			var log []string
			for range 8 {
				w.now = w.now.Add(time.Minute)
				opt := r.options()
				cached, err := w.build(r.text(), opt...)
				if all++; err == nil {
					built++
				}
				log = append(log, fmt.Sprintf("%v, %d steps cached", err, w.cached()))
				w.compareClean(r.text(), cached, err, opt...)
				if t.Failed() {
					t.Fatalf("after %q, which ran again for %q:\n%s", log, w.misses(), r.text())
				}
				log = append(log, r.edit())
			}
			t.Logf("%q", log)
		})
	}
	if t.Logf("%d of %d Dockerfiles could be built", built, all); built < all/2 {
		t.Error("too few Dockerfiles could be built")
	}
}

// compareClean compares an image, or that it could not be built, with what an empty cache gives, and so the stage build, if there is one.
func (w *world) compareClean(text string, cached *image.Image, failed error, changes ...change) {
	w.t.Helper()
	records, err := cache.Open(w.t.TempDir())
	must(w.t, err)
	clean := &world{Builder: new(*w.Builder), t: w.t, dir: w.dir, context: w.context, images: w.images, box: w.box}
	clean.Cache, clean.Records, clean.Others, clean.Uploads, clean.Sandbox = records, nil, nil, nil, clean
	changes = append(slices.Clip(changes), func(o *builder.Options) { o.Jobs, o.Sandbox.Limits = 1, runner.Limits{} })
	img, err := clean.build(text, changes...)
	if (err == nil) != (failed == nil) {
		w.t.Errorf("built with a cache: %v; without: %v\n%s", failed, err, clean.output())
	}
	if err != nil || failed != nil {
		return
	}
	compare(w.t, w, cached, img)
	if strings.Contains(text, " AS build\n") {
		changes = append(changes, func(o *builder.Options) { o.Settings.Target = "build" })
		compare(w.t, w, w.must(text, changes...), clean.must(text, changes...))
	}
}

func compare(t testing.TB, w *world, a, b *image.Image) {
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
		// A layer has what differs from those below, by its time also, and below may be what an earlier time was kept of.
		if len(differ) > 0 && w.shows(a, i+1) != w.shows(b, i+1) {
			t.Errorf("layer %d differs at %q", i, differ)
		}
	}
}

// shows is the digest of the files that the lowest layers of an image show, but for times.
func (w *world) shows(img *image.Image, layers int) string {
	w.t.Helper()
	e := export.Exporter{Layers: w.Layers, Snapshots: w.Snapshots, UserXattr: w.UserXattr}
	h, never := sha256.New(), int64(0)
	must(w.t, e.Tar(w.t.Context(), h, &image.Image{Layers: img.Layers[:layers]}, &never))
	return hex.EncodeToString(h.Sum(nil))
}
