package builder_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

const twoStages = `FROM scratch AS build
COPY src /src
RUN ["write", "out", "built"]
FROM scratch AS unused
RUN ["fail"]
FROM scratch
ENV A=b
COPY --from=build /out /app
WORKDIR /w
CMD ["/app"]
`

func TestBuildTwiceGivesTheSameImageFromTheCache(t *testing.T) {
	w := newWorld(t)
	w.write("src/a", "1")
	first, err := w.build(twoStages)
	must(t, err)
	if got := w.read(first, "/app"); got != "built" {
		t.Errorf("/app is %q", got)
	}
	if !slices.Equal(w.ran, []string{"write out built"}) {
		t.Errorf("ran %q", w.ran)
	}
	w.now = w.now.Add(time.Hour)
	second, err := w.build(twoStages)
	must(t, err)
	if len(w.ran) != 0 || w.cached() != 4 {
		t.Errorf("second build ran %q, %d cached", w.ran, w.cached())
	}
	if first.ID != second.ID {
		t.Errorf("IDs differ:\n%s\n%s", first.RawConfig, second.RawConfig)
	}
	if len(first.Layers) != 2 || len(first.Config.RootFS.DiffIDs) != 2 {
		t.Errorf("%d layers", len(first.Layers))
	}
}

func TestChangedContextRunsOnlyWhatReadsIt(t *testing.T) {
	w := newWorld(t)
	w.write("src/a", "1")
	w.write("other", "1")
	const text = "FROM scratch\nRUN [\"write\",\"one\",\"1\"]\nCOPY src /src\nRUN [\"write\",\"two\",\"2\"]\n"
	_, err := w.build(text)
	must(t, err)
	w.write("other", "2")
	_, err = w.build(text)
	must(t, err)
	if len(w.ran) != 0 {
		t.Errorf("an unrelated file: ran %q", w.ran)
	}
	w.write("src/a", "2")
	img, err := w.build(text)
	must(t, err)
	if !slices.Equal(w.ran, []string{"write two 2"}) {
		t.Errorf("a copied file: ran %q", w.ran)
	}
	if got := w.read(img, "/src/a"); got != "2" {
		t.Errorf("/src/a is %q", got)
	}
}

// A stage that is built again and has the same files to copy does not run again what is above the copy.
func TestStageWithTheSameFilesCutsOff(t *testing.T) {
	w := newWorld(t)
	w.write("src", "1")
	const text = "FROM scratch AS b\nCOPY src /src\nRUN [\"write\",\"out\",\"same\"]\nFROM scratch\nCOPY --from=b /out /\nRUN [\"write\",\"top\",\"t\"]\n"
	first, err := w.build(text)
	must(t, err)
	w.write("src", "2")
	second, err := w.build(text)
	must(t, err)
	if !slices.Equal(w.ran, []string{"write out same"}) || first.ID != second.ID {
		t.Errorf("ran %q", w.ran)
	}
	_, err = w.build(text)
	must(t, err)
	if len(w.ran) != 0 {
		t.Errorf("then ran %q", w.ran)
	}
}

func TestNoCacheRunsEverythingAndKeepsIt(t *testing.T) {
	w := newWorld(t)
	const text = "FROM scratch\nRUN [\"write\",\"one\",\"1\"]\n"
	_, err := w.build(text)
	must(t, err)
	w.Cache = cache.NoHits{Store: w.store}
	_, err = w.build(text)
	must(t, err)
	if len(w.ran) != 1 {
		t.Errorf("ran %q", w.ran)
	}
	w.Cache = w.store
	_, err = w.build(text)
	must(t, err)
	if len(w.ran) != 0 {
		t.Errorf("then ran %q", w.ran)
	}
}

func TestFailedRunSaysWhereAndLeavesNothing(t *testing.T) {
	w := newWorld(t)
	_, err := w.build("FROM scratch\nRUN [\"write\",\"one\",\"1\"]\nRUN [\"fail\", \"now\"]\n")
	var located *dockerfile.Error
	if !errors.As(err, &located) || located.Range.Start != 3 {
		t.Fatalf("got %v", err)
	}
	var exit *runner.ExitError
	if !errors.As(err, &exit) || exit.Code != 3 {
		t.Errorf("no exit code in %v", err)
	}
	if want := `process "fail now" did not complete successfully: exit code: 3`; !strings.Contains(err.Error(), want) {
		t.Errorf("%v does not say %q", err, want)
	}
	n := 0
	must(t, w.Snapshots.Walk(func(snapshot.ID) error { n++; return nil }))
	if n != 1 {
		t.Errorf("%d layers in the store, want the one that finished", n)
	}
}

func TestLostLayerIsAMissForAllAbove(t *testing.T) {
	w := newWorld(t)
	const text = "FROM scratch\nRUN [\"write\",\"one\",\"1\"]\nRUN [\"write\",\"two\",\"2\"]\n"
	_, err := w.build(text)
	must(t, err)
	must(t, w.store.Walk(t.Context(), func(_ cache.Key, r cache.Record) error {
		if strings.Contains(r.Name, "1/2") {
			return w.Snapshots.Remove(snapshot.ID(r.Layer))
		}
		return nil
	}))
	img, err := w.build(text)
	must(t, err)
	if len(w.ran) != 2 || w.read(img, "/one") != "1" || w.read(img, "/two") != "2" {
		t.Errorf("ran %q", w.ran)
	}
}

func TestHistoryAndLabels(t *testing.T) {
	w := newWorld(t)
	img, err := w.build("FROM scratch\nLABEL a=1 b=2\nRUN [\"write\",\"one\",\"1\"]\nENV X=y\n", func(o *builder.Options) {
		o.Labels = map[string]string{"b": "3", "c": "4"}
	})
	must(t, err)
	h := img.Config.History
	if len(h) != 3 || !h[0].EmptyLayer || h[1].EmptyLayer || !h[2].EmptyLayer {
		t.Fatalf("history %+v", h)
	}
	for i := range h {
		if !h[i].Created.Equal(w.now) {
			t.Errorf("entry %d created %v", i, h[i].Created)
		}
	}
	if l := img.Config.Config.Labels; l["a"] != "1" || l["b"] != "3" || l["c"] != "4" {
		t.Errorf("labels %v", l)
	}
	if strings.Contains(string(img.RawConfig), `\u003c`) {
		t.Error("configuration is escaped for HTML")
	}
}

func TestStageOnAnImageKeepsItsLayersAndHistory(t *testing.T) {
	w := newWorld(t)
	base, err := w.build("FROM scratch\nRUN [\"write\",\"base\",\"b\"]\nENV FROM_BASE=1\n")
	must(t, err)
	w.images["base"] = base
	img, err := w.build("FROM base\nRUN [\"write\",\"top\",\"t\"]\n")
	must(t, err)
	if len(img.Layers) != 2 || img.Layers[0].DiffID != base.Layers[0].DiffID || len(img.Config.History) != 3 {
		t.Errorf("%d layers, %d history entries", len(img.Layers), len(img.Config.History))
	}
	if !slices.Contains(img.Config.Config.Env, "FROM_BASE=1") {
		t.Errorf("environment %q", img.Config.Config.Env)
	}
	if w.read(img, "/base") != "b" || w.read(img, "/top") != "t" {
		t.Error("files are missing")
	}
	if _, err := w.build("FROM nothere\nRUN [\"fail\"]\n"); !errors.Is(err, image.ErrNotFound) || !strings.Contains(err.Error(), "Dockerfile:1") {
		t.Errorf("missing base: %v", err)
	}
}

func TestMissingSourceNamesTheLine(t *testing.T) {
	w := newWorld(t)
	w.write("src/a", "1")
	_, err := w.build("FROM scratch\nCOPY sr /x\n")
	var located *dockerfile.Error
	if !errors.As(err, &located) || located.Range.Start != 2 || !strings.Contains(err.Error(), "not found") {
		t.Errorf("got %v", err)
	}
}

func TestHealthcheckStartIntervalSurvives(t *testing.T) {
	w := newWorld(t)
	base, err := w.build("FROM scratch\nHEALTHCHECK --interval=5s --start-interval=2s CMD [\"x\"]\n")
	must(t, err)
	w.images["base"] = base
	img, err := w.build("FROM base\nLABEL a=<b>\n")
	must(t, err)
	for _, want := range []string{`"StartInterval":2000000000`, `"Interval":5000000000`, `"Test":["CMD","x"]`, `"a":"<b>"`, `"rootfs":{`} {
		if !strings.Contains(string(img.RawConfig), want) {
			t.Errorf("no %s in %s", want, img.RawConfig)
		}
	}
	if n := strings.Count(string(img.RawConfig), `"Healthcheck"`); n != 1 {
		t.Errorf("%d Healthchecks in %s", n, img.RawConfig)
	}
}

func TestCopyFromScratchFindsNothing(t *testing.T) {
	w := newWorld(t)
	if _, err := w.build("FROM scratch\nCOPY --from=scratch a /\n"); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("got %v", err)
	}
}

func TestCheckErrorFailsBeforeAnythingRuns(t *testing.T) {
	w := newWorld(t)
	_, err := w.build("# check=error=true\nFROM scratch as x\nRUN [\"write\",\"a\",\"b\"]\n")
	if err == nil || !strings.Contains(err.Error(), "lint violation found for rules: FromAsCasing") || len(w.ran) != 0 {
		t.Errorf("got %v; ran %q", err, w.ran)
	}
}

func TestContextThatIsAStage(t *testing.T) {
	w := newWorld(t)
	w.images["base"] = &image.Image{}
	const text = `FROM scratch AS mine
RUN ["write", "from", "mine"]
ENV MINE=1
FROM base
COPY --from=other /from /copied
`
	img, err := w.build(text, func(o *builder.Options) {
		o.Settings.Contexts = []string{"base", "other"}
		o.ContextStages = map[string]string{"base": "mine", "other": "mine"}
	})
	must(t, err)
	if w.read(img, "/from") != "mine" || w.read(img, "/copied") != "mine" || !slices.Contains(img.Config.Config.Env, "MINE=1") {
		t.Errorf("ran %q; environment %q", w.ran, img.Config.Config.Env)
	}
	if len(w.ran) != 1 {
		t.Errorf("ran %q", w.ran)
	}
	_, err = w.build(text, func(o *builder.Options) {
		o.Settings.Contexts = []string{"base"}
		o.ContextStages = map[string]string{"base": "mime"}
	})
	if err == nil || !strings.Contains(err.Error(), "did you mean mine") {
		t.Errorf("got %v", err)
	}
}

func TestPlatformsShareWhatDoesNotDependOnThem(t *testing.T) {
	w := newWorld(t)
	f, err := dockerfile.Parse("Dockerfile", []byte(`FROM --platform=$BUILDPLATFORM scratch AS tools
RUN ["write", "tool", "x"]
FROM scratch
ARG TARGETARCH
COPY --from=tools /tool /
ENV ARCH=$TARGETARCH
RUN ["write", "arch", "y"]
`))
	must(t, err)
	tree, err := source.Open(w.context, source.Options{ResetOwner: true, Now: w.Now})
	must(t, err)
	defer tree.Close()
	names := map[string]bool{}
	opt := builder.Options{File: f, Context: tree, Settings: dockerfile.Settings{Build: v1.Platform{OS: "linux", Architecture: "amd64"}}, Jobs: 4, Progress: func(e progress.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if e.Name != "" {
			names[e.Name] = true
		}
	}}
	res, err := w.BuildPlatforms(t.Context(), opt, []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}})
	must(t, err)
	slices.Sort(w.ran)
	if !slices.Equal(w.ran, []string{"write arch y", "write arch y", "write tool x"}) {
		t.Errorf("ran %q", w.ran)
	}
	for i, arch := range []string{"amd64", "arm64"} {
		if c := res[i].Image.Config; c.Architecture != arch || !slices.Contains(c.Config.Env, "ARCH="+arch) {
			t.Errorf("image %d is for %s with %q", i, c.Architecture, c.Config.Env)
		}
	}
	if !names["[linux/arm64 tools 1/1] RUN [\"write\", \"tool\", \"x\"]"] && !names["[linux/arm64 tools 1/1] RUN [\"write\",\"tool\",\"x\"]"] {
		t.Errorf("names %v", names)
	}
}
