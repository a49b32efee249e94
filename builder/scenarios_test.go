package builder_test

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/runner"
)

// scenario is one change: a Dockerfile, its context and options are built, something is changed, and it is built again.
type scenario struct {
	name string
	// text is the Dockerfile; empty is the usual one. from and to are replaced in it, in turns.
	text    string
	replace []string
	// begin is done before the first build, edit before the second.
	begin, edit func(w *world)
	// here says that only this machine's cache has it; program is one that the scenario needs.
	here    bool
	program string
	// first and second are what is said to the two builds.
	first, second []change
	// want are the steps that must run again, by the letters of steps, and no others.
	want string
	// cut says that what must run is fewer steps where what steps made earlier is at hand.
	cut bool
	// namespaces says that there must be some to run its commands in.
	namespaces bool
	// inline is what must run where a cache has only the image's own layers, by how they were made, if that does not follow from want.
	inline string

	before, after string // the Dockerfiles, from text and replace
}

// usual has a stage that another copies from, and every kind of step.
const usual = `FROM base AS build
ARG V
ENV E=1 F=1
WORKDIR /w
COPY src/ /src/
RUN echo x >/built
RUN --mount=type=bind,source=conf,target=/c grep -r . /c | sort >/conf
FROM base
COPY --from=build /built /app
COPY top /top
RUN echo z >/last
LABEL a=b
CMD ["x"]
`

// letters name the steps of usual and of other texts: the first word that is in a step's name counts.
var letters = [][2]string{
	{">/built", "B"}, {">/conf", "M"}, {">/last", "L"}, {">/new", "N"}, {"load ", "C"}, {"WORKDIR", "W"}, {"--from=", "A"}, {"src/", "S"}, {"top", "T"}, {"<<", "H"},
}

// steps are the letters of the steps that ran in the last build, in the order of the alphabet.
func (w *world) steps() string {
	names, ran := map[string]string{}, ""
	for _, e := range w.events {
		if e.Kind == progress.Declared {
			names[e.Vertex] = e.Name
		}
		if e.Kind != progress.Started || strings.Contains(names[e.Vertex], "FROM ") {
			continue
		}
		letter := "?" + names[e.Vertex]
		for _, l := range letters {
			if strings.Contains(names[e.Vertex], l[0]) {
				letter = l[1]
				break
			}
		}
		ran += letter
	}
	letters := strings.Split(ran, "")
	slices.Sort(letters)
	return strings.Join(letters, "")
}

func (w *world) path(name string) string { return filepath.Join(w.context, name) }

// usualContext is what usual reads.
func (w *world) usualContext() {
	w.images["base"], w.images["same"], w.images["other"] = w.testImage("1"), w.testImage("1"), w.testImage("2")
	for _, f := range []string{"src/a.go", "src/b.txt", "src/d/c.go", "src/h", "src/z", "top", "conf/x", "unused"} {
		w.write(f, "1")
	}
	must(w.t, os.Symlink("a.go", w.path("src/l")))
	past := time.Unix(1_600_000_000, 0)
	must(w.t, os.Chtimes(w.path("src/a.go"), past, past))
}

func file(name, text string) func(*world) { return func(w *world) { w.write(name, text) } }

func do(f func(w *world) error) func(*world) { return func(w *world) { must(w.t, f(w)) } }

func touch(name string) func(*world) {
	return do(func(w *world) error { return os.Chtimes(w.path(name), time.Unix(5, 0), time.Unix(7, 0)) })
}

func chmod(name string, mode os.FileMode) func(*world) {
	return do(func(w *world) error { return os.Chmod(w.path(name), mode) })
}

// instead makes something else where a file or a folder is.
func instead(name string, remake func(path string) error) func(*world) {
	return do(func(w *world) error {
		must(w.t, os.RemoveAll(w.path(name)))
		return remake(w.path(name))
	})
}

func option(f func(o *builder.Options)) []change { return []change{f} }

// scenariosOn are the scenarios that a rung can have. Where no command can be run they have none.
func scenariosOn(r runner.Rung) []scenario {
	var all []scenario
	for _, s := range scenarios() {
		s.before = cmp.Or(s.text, usual)
		s.after = s.before
		for pairs := s.replace; len(pairs) > 1; pairs = pairs[2:] {
			s.after = strings.ReplaceAll(s.after, pairs[0], pairs[1])
		}
		if r == runner.None {
			s.before, s.after, s.want = withoutRuns(s.before), withoutRuns(s.after), sorted(s.want, "BCLMN")
		}
		same := s.before == s.after && s.edit == nil && len(s.first) == 0 && len(s.second) == 0
		if r == runner.None && (strings.Contains(s.text, "RUN <<") || strings.Contains(s.text, "RUN --mount")) {
			continue
		}
		if r == runner.Chroot && s.namespaces || r == runner.None && same && s.name != "nothing" {
			continue
		}
		all = append(all, s)
	}
	return all
}

// withoutRuns drops what runs commands, and takes for the files that they make others.
func withoutRuns(text string) string {
	text = strings.NewReplacer(" /built ", " /src/z ", " /conf ", " /src/d ").Replace(text)
	return regexp.MustCompile(`(?m)^(RUN|USER) .*\n`).ReplaceAllString(text, "")
}

// sorted are letters in the order of the alphabet, without some.
func sorted(text, without string) string {
	list := slices.DeleteFunc(strings.Split(text, ""), func(l string) bool { return strings.Contains(without, l) })
	slices.Sort(list)
	return strings.Join(slices.Compact(list), "")
}

// origins are first machines. Scenarios that begin alike share one.
type origins struct {
	*lab
	t    testing.TB
	mu   sync.Mutex
	made map[string]*origin
}

type origin struct {
	sync.Once
	*world
	at    string // what its caches are called
	text  string
	first []change
	image *image.Image
	err   error
}

func newOrigins(t testing.TB) *origins {
	return &origins{lab: newLab(t), t: t, made: map[string]*origin{}}
}

// of is the machine that the scenario of t begins on.
func (o *origins) of(t *testing.T, s scenario) *origin {
	t.Helper()
	if s.program != "" {
		needProgram(t, s.program)
	}
	begins := s.before
	if len(s.first) > 0 || s.begin != nil {
		begins = s.name
	}
	o.mu.Lock()
	m := o.made[begins]
	if m == nil {
		m = &origin{at: fmt.Sprint("c", len(o.made)), text: s.before, first: s.first}
		o.made[begins] = m
	}
	o.mu.Unlock()
	m.Do(func() {
		m.world = o.world(o.t)
		m.t = t
		m.usualContext()
		if s.begin != nil {
			s.begin(m.world)
		}
		m.image, m.err = m.build(s.before, s.first...)
	})
	if m.err != nil {
		t.Fatalf("the first build: %v\n%s", m.err, m.output())
	}
	return m
}

// A change runs again what reads it, and nothing else.
func TestScenarios(t *testing.T) {
	first := newOrigins(t)
	for _, s := range scenariosOn(rungHere().want) {
		t.Run(strings.ReplaceAll(s.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			from := first.of(t, s)
			w := from.fork(t)
			if s.edit != nil {
				s.edit(w)
			}
			after := w.must(s.after, s.second...)
			if got := w.steps(); got != sorted(s.want, "") {
				t.Errorf("ran %q, not %q: %q", got, s.want, w.misses())
			}
			checkSameLayers(t, s, from.image, after)
			if rungHere().want == runner.Root { // on others TestCachedBuildIsAClean does
				w.compareClean(s.after, after, nil, s.second...)
			}
			w.checkNothingRuns(s)
		})
	}
}

// must builds what has to succeed.
func (w *world) must(text string, changes ...change) *image.Image {
	w.t.Helper()
	img, err := w.build(text, changes...)
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.output())
	}
	return img
}

// copyContext gives w the context and the bases of another machine.
func (w *world) copyContext(from *world) {
	w.t.Helper()
	duplicate(w.t, from.context, w.context)
	w.images = maps.Clone(from.images)
}

// checkNothingRuns: what was just built is found.
func (w *world) checkNothingRuns(s scenario) {
	w.t.Helper()
	w.must(s.after, s.second...)
	if got := w.steps(); got != "" && len(s.second) == 0 {
		w.t.Errorf("ran %q when nothing was changed", got)
	}
}

// checkSameLayers: what ran nothing has the layers of before.
func checkSameLayers(t *testing.T, s scenario, before, after *image.Image) {
	t.Helper()
	if s.want != "" || len(before.Layers) != len(after.Layers) {
		return
	}
	for i := range before.Layers {
		if before.Layers[i].DiffID != after.Layers[i].DiffID && s.text == "" {
			t.Errorf("layer %d is another one", i)
		}
	}
}
