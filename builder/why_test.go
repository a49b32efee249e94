package builder_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/snapshot"
)

// misses are the reasons that the last build told.
func (w *world) misses() []string {
	var all []string
	for _, e := range w.events {
		if e.Kind == progress.Missed {
			all = append(all, string(e.Data))
		}
	}
	return all
}

func arg(k, v string) change {
	return func(o *builder.Options) {
		if o.Settings.BuildArgs == nil {
			o.Settings.BuildArgs = map[string]string{}
		}
		o.Settings.BuildArgs[k] = v
	}
}

// Each case builds one Dockerfile, changes a thing, builds another and wants to be told why.
func TestMissesAreExplained(t *testing.T) {
	const copied = "FROM scratch\nCOPY src/ /src/\nRUN [\"write\",\"out\",\"1\"]\n"
	cases := []struct {
		name, before, after string
		edit                func(w *world)
		first, second       []change
		want                []string
	}{
		{
			name: "a file", before: copied, edit: func(w *world) { w.write("src/a.go", "2") },
			want: []string{"COPY src/: src/a.go changed", "RUN: the step before it ran again: [1/2] COPY src/ /src/"},
		},
		{
			name: "files", before: copied, edit: func(w *world) { w.write("src/a.go", "2"); w.write("src/b.go", "2"); w.write("src/d/n.go", "") },
			want: []string{"COPY src/: src/a.go changed (+2 more)", "RUN: the step before it ran again: [1/2] COPY src/ /src/"},
		},
		{name: "a new file", before: "FROM scratch\nCOPY . /\n", edit: func(w *world) { w.write("n", "2") }, want: []string{"COPY .: n added"}},
		{
			name: "a file less", before: copied, edit: func(w *world) { must(w.t, os.Remove(filepath.Join(w.context, "src/b.go"))) },
			want: []string{"COPY src/: src/b.go removed", "RUN: the step before it ran again: [1/2] COPY src/ /src/"},
		},
		{
			name: "a mode", before: "FROM scratch\nCOPY src/a.go /\n", edit: func(w *world) { must(w.t, os.Chmod(filepath.Join(w.context, "src/a.go"), 0o755)) },
			want: []string{"COPY src/a.go: src/a.go changed"},
		},
		{
			name: "a command", before: "FROM scratch\nRUN [\"write\",\"a\",\"1\"]\n", after: "FROM scratch\nRUN [\"write\",\"a\",\"2\"]\n",
			want: []string{`RUN: command changed: "1" → "2"`},
		},
		{
			name: "an argument", before: "FROM scratch\nARG GIT_SHA\nRUN [\"write\",\"a\",\"$GIT_SHA\"]\n", first: []change{arg("GIT_SHA", "1")}, second: []change{arg("GIT_SHA", "2")},
			want: []string{"RUN: ARG GIT_SHA changed"},
		},
		{
			name: "an argument that is not used", before: "FROM scratch\nARG GIT_SHA\nRUN [\"write\",\"a\",\"1\"]\n", first: []change{arg("GIT_SHA", "1")}, second: []change{arg("GIT_SHA", "2")},
			want: []string{"RUN: ARG GIT_SHA changed (the command does not name it: unless a program reads it, move ARG GIT_SHA below this step)"},
		},
		{name: "a variable more", before: "FROM scratch\nRUN [\"write\",\"a\",\"1\"]\n", after: "FROM scratch\nENV X=1\nRUN [\"write\",\"a\",\"1\"]\n", want: []string{"RUN: ENV X added"}},
		{name: "a user", before: "FROM scratch\nRUN [\"write\",\"a\",\"1\"]\n", after: "FROM scratch\nUSER 5\nRUN [\"write\",\"a\",\"1\"]\n", want: []string{"RUN: USER changed"}},
		{
			name: "a secret more", before: "FROM scratch\nRUN [\"write\",\"a\",\"1\"]\n", after: "FROM scratch\nRUN --mount=type=secret,id=s [\"write\",\"a\",\"1\"]\n",
			want: []string{"RUN: --mount changed"},
		},
		{
			name: "a secret's variable", before: "FROM scratch\nRUN --mount=type=secret,id=s,env=A [\"write\",\"a\",\"1\"]\n", after: "FROM scratch\nRUN --mount=type=secret,id=s,env=B [\"write\",\"a\",\"1\"]\n",
			want: []string{"RUN: --mount changed"},
		},
		{
			name: "the size of shared memory", before: "FROM scratch\nRUN [\"write\",\"a\",\"1\"]\n",
			second: option(func(o *builder.Options) { o.Sandbox.ShmSize = 1 << 20 }), want: []string{"RUN: --shm-size changed"},
		},
		{
			name: "another base", before: "FROM base\nRUN [\"write\",\"a\",\"1\"]\n", edit: func(w *world) { w.images["base"] = w.testImage("2") },
			want: []string{"FROM: base moved sha256:111111111111… → sha256:222222222222…"},
		},
		{
			name: "a base of another name", before: "FROM base\nRUN [\"write\",\"a\",\"1\"]\n", after: "FROM other\nRUN [\"write\",\"a\",\"1\"]\n",
			edit: func(w *world) { w.images["other"] = w.testImage("2") }, want: []string{"FROM: other, before it was base"},
		},
		{
			name: "a step more", before: "FROM scratch\nRUN [\"write\",\"a\",\"1\"]\n", after: "FROM scratch\nRUN [\"write\",\"n\",\"1\"]\nRUN [\"write\",\"a\",\"1\"]\n",
			want: []string{"never built here", "RUN: the step before it ran again: [1/2] RUN [\"write\",\"n\",\"1\"]"},
		},
		{
			name: "another stage's file", before: "FROM scratch AS b\nCOPY src/ /out/\nFROM scratch\nCOPY --from=b /out /o\n", edit: func(w *world) { w.write("src/a.go", "2") },
			want: []string{"COPY src/: src/a.go changed", "COPY --from=b: /out/a.go changed"},
		},
		{name: "--no-cache", before: "FROM scratch\nRUN [\"write\",\"a\",\"1\"]\n", edit: func(w *world) { w.Cache = cache.NoHits{Store: w.store} }, want: []string{"--no-cache"}},
		{name: "a layer is gone", before: "FROM scratch\nRUN [\"write\",\"a\",\"1\"]\n", edit: func(w *world) { w.removeLayers() }, want: []string{"RUN: the layer is gone (pruned)"}},
		{name: "a damaged record", before: "FROM scratch\nRUN [\"write\",\"a\",\"1\"]\n", edit: func(w *world) { w.damageRecords() }, want: []string{"RUN: the record is damaged"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.images["base"] = w.testImage("1")
			w.write("src/a.go", "1")
			w.write("src/b.go", "1")
			_, err := w.build(c.before, c.first...)
			must(t, err)
			if got := w.misses(); !slices.Equal(slices.Compact(got), []string{"never built here"}) {
				t.Errorf("the first build said %q", got)
			}
			if c.edit != nil {
				c.edit(w)
			}
			after := c.after
			if after == "" {
				after = c.before
			}
			_, err = w.build(after, c.second...)
			must(t, err)
			if got := w.misses(); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// testImage is an image of the files of w.base whose ID is of one digit.
func (w *world) testImage(digit string) *image.Image {
	img := *w.base
	img.ID, img.RawConfig = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(digit, 64)}, []byte("{}")
	img.Config.OS, img.Config.Architecture, img.Config.Config.Env = "linux", "amd64", []string{"BASE=" + digit}
	return &img
}

func (w *world) removeLayers() {
	w.t.Helper()
	must(w.t, w.store.Walk(w.t.Context(), func(_ cache.Key, r cache.Record) error { return w.Snapshots.Remove(snapshot.ID(r.Layer)) }))
}

func (w *world) damageRecords() {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.dir, "cache", "records", "*", "*"))
	must(w.t, err)
	for _, f := range found {
		must(w.t, os.WriteFile(f, []byte("torn"), 0o600))
	}
}

// A step that runs again and makes the same does not run again what follows it, and the layers stay bit by bit what they were.
func TestStepThatMakesTheSameCutsOff(t *testing.T) {
	w := newWorld(t)
	w.write("src", "1")
	const text = "FROM scratch\nUSER 1\nRUN [\"write\",\"out\",\"same\"]\nUSER 0\nCOPY src /src\nRUN [\"write\",\"top\",\"2\"]\n"
	first, err := w.build(text)
	must(t, err)
	w.now = w.now.Add(time.Hour)
	second, err := w.build(strings.Replace(text, "USER 1", "USER 2", 1))
	must(t, err)
	if !slices.Equal(w.ran, []string{"write out same"}) || w.cached() != 2 {
		t.Errorf("ran %q, %d cached: %q", w.ran, w.cached(), w.misses())
	}
	for i := range first.Layers {
		if first.Layers[i].DiffID != second.Layers[i].DiffID {
			t.Errorf("layer %d differs", i)
		}
	}
	if a, b := first.Config.Created, second.Config.Created; !a.Equal(b.Time) {
		t.Errorf("made at %v, then at %v", a, b)
	}
	third, err := w.build(strings.Replace(text, "same", "other", 1))
	must(t, err)
	if len(w.ran) != 2 || third.Layers[0].DiffID == first.Layers[0].DiffID {
		t.Errorf("another content: ran %q", w.ran)
	}
}

// What is told of times must hold: an earlier layer of a build that bound them otherwise is not taken.
func TestCutoffMindsTheEpoch(t *testing.T) {
	w := newWorld(t)
	text := "FROM scratch\nARG V\nRUN [\"write\",\"out\",\"same\"]\n"
	epoch := func(sec string, v string) []change {
		return []change{arg("SOURCE_DATE_EPOCH", sec), arg("V", v), func(o *builder.Options) { o.RewriteTimestamps = true }}
	}
	first, err := w.build(text, epoch("1000", "1")...)
	must(t, err)
	same, err := w.build(text, epoch("1000", "2")...)
	must(t, err)
	if len(w.ran) != 1 || first.Layers[0].DiffID != same.Layers[0].DiffID {
		t.Errorf("ran %q", w.ran)
	}
	other, err := w.build(text, epoch("2000", "3")...)
	must(t, err)
	if first.Layers[0].DiffID == other.Layers[0].DiffID {
		t.Error("a layer of another epoch was taken")
	}
}
