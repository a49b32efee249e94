package builder_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	edit    func(w *world)
	// first and second are what is said to the two builds.
	first, second []change
	// want are the steps that must run again, by the letters of steps, and no others.
	want string
	// cut says that what must run is fewer steps where what steps made earlier is at hand.
	cut bool
	// inline is what must run where a cache has only the image's own layers, by how they were made, if that does not follow from want.
	inline string
}

// usual has a stage that another copies from, and every kind of step.
const usual = `FROM base AS build
ARG V
ENV E=1 F=1
WORKDIR /w
COPY src/ /src/
RUN ["write","built","x"]
RUN --mount=type=bind,source=conf,target=/c ["write","conf","y"]
FROM base
COPY --from=build /built /app
COPY top /top
RUN ["write","last","z"]
LABEL a=b
CMD ["x"]
`

// letters name the steps of usual and of other texts: the first word that is in a step's name counts.
var letters = [][2]string{
	{"load ", "C"}, {"WORKDIR", "W"}, {"src/", "S"}, {"--from=", "A"}, {"top", "T"}, {`"built"`, "B"}, {`"conf"`, "M"}, {`"last"`, "L"}, {`"new"`, "N"}, {"<<", "H"},
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
	w.images["base"], w.images["same"], w.images["other"] = testImage("1"), testImage("1"), testImage("2")
	for _, f := range []string{"src/a.go", "src/b.txt", "src/d/c.go", "src/h", "top", "conf/x", "unused"} {
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

func option(f func(o *builder.Options)) []change { return []change{f} }

// scenarios are changes and what they must run again.
func scenarios() []scenario {
	return slices.Concat(fileScenarios(), metadataScenarios(), stepScenarios(), argumentScenarios(), otherScenarios())
}

func fileScenarios() []scenario {
	return []scenario{
		{name: "nothing"},
		{name: "a copied file is touched", edit: touch("src/a.go")},
		{name: "a copied file", edit: file("src/a.go", "22"), want: "BMS"},
		{name: "a copied file of the same size", edit: file("src/a.go", "2"), want: "BMS"},
		{name: "a copied file of the same size and time", want: "BMS", edit: do(func(w *world) error {
			w.write("src/a.go", "2")
			past := time.Unix(1_600_000_000, 0)
			return os.Chtimes(w.path("src/a.go"), past, past)
		})},
		{name: "a copied file is written again as it was", edit: file("src/a.go", "1")},
		{name: "a copied file's mode", edit: chmod("src/a.go", 0o755), want: "BMS"},
		{name: "the mode of the copied folder", edit: chmod("src", 0o700)},
		{name: "the mode of a folder in it", edit: chmod("src/d", 0o700), want: "BMS"},
		{name: "the time of a folder in it", edit: touch("src/d")},
		{name: "a new file", edit: file("src/n", ""), want: "BMS"},
		{name: "a new file, deep", edit: file("src/d/e/f/n", ""), want: "BMS"},
		{name: "a new folder", edit: do(func(w *world) error { return os.Mkdir(w.path("src/e"), 0o755) }), want: "BMS"},
		{name: "a file less", edit: do(func(w *world) error { return os.Remove(w.path("src/b.txt")) }), want: "BMS"},
		{name: "a file of another name", edit: do(func(w *world) error { return os.Rename(w.path("src/b.txt"), w.path("src/c.txt")) }), want: "BMS"},
		{name: "a file in another folder", edit: do(func(w *world) error { return os.Rename(w.path("src/b.txt"), w.path("src/d/b.txt")) }), want: "BMS"},
		{name: "a link for a file", want: "BMS", edit: do(func(w *world) error {
			must(w.t, os.Remove(w.path("src/b.txt")))
			return os.Symlink("a.go", w.path("src/b.txt"))
		})},
		{name: "a link's target", want: "BMS", edit: do(func(w *world) error {
			must(w.t, os.Remove(w.path("src/l")))
			return os.Symlink("h", w.path("src/l"))
		})},
		{name: "a second name for a file of the same content", edit: do(func(w *world) error {
			must(w.t, os.Remove(w.path("src/h")))
			must(w.t, os.Chtimes(w.path("src/a.go"), time.Unix(9, 0), time.Unix(9, 0)))
			return os.Link(w.path("src/a.go"), w.path("src/h"))
		})},
		{name: "an owner", edit: do(func(w *world) error {
			if err := os.Chown(w.path("src/a.go"), 5, 5); err != nil && !layersHere().RecordOwners { // who has one id cannot
				return err
			}
			return nil
		})},
		{name: "an attribute", want: "BMS", edit: do(func(w *world) error { return unix.Setxattr(w.path("src/a.go"), "user.x", []byte("1"), 0) })},
		{name: "a file that nothing reads", edit: file("unused", "2")},
		{name: "a new file that nothing reads", edit: file("other/n", "2")},
		{name: "the last copied file", edit: file("top", "2"), want: "LT"},
		{name: "the last copied file is touched", edit: touch("top")},
		{name: "a mounted file", edit: file("conf/x", "2"), want: "CM"},
		{name: "a mounted file is touched", edit: touch("conf/x")},
		{name: "a new mounted file", edit: file("conf/n", "2"), want: "CM"},
		{name: "two files of two steps", edit: func(w *world) { w.write("src/a.go", "2"); w.write("top", "2") }, want: "BLMST"},
	}
}

func metadataScenarios() []scenario {
	return []scenario{
		{name: "a comment", replace: []string{"WORKDIR", "# why\nWORKDIR"}},
		{name: "blank lines", replace: []string{"WORKDIR", "\n\nWORKDIR"}},
		{name: "small letters", replace: []string{"COPY top", "copy top", "FROM base\n", "from base\n"}},
		{name: "spaces", replace: []string{"COPY top /top", "COPY   top    /top"}},
		{name: "a label", replace: []string{"a=b", "a=c"}},
		{name: "a label amid steps", replace: []string{"WORKDIR", "LABEL x=y\nWORKDIR"}},
		{name: "a command", replace: []string{`CMD ["x"]`, `CMD ["y"]`}},
		{name: "an entry point", replace: []string{"CMD", "ENTRYPOINT [\"e\"]\nCMD"}},
		{name: "a port", replace: []string{"COPY top", "EXPOSE 80\nCOPY top"}},
		{name: "a volume", replace: []string{"CMD", "VOLUME /v\nCMD"}},
		{name: "a signal", replace: []string{"CMD", "STOPSIGNAL 9\nCMD"}},
		{name: "a check", replace: []string{"CMD", "HEALTHCHECK NONE\nCMD"}},
		{name: "a trigger", replace: []string{"CMD", "ONBUILD RUN x\nCMD"}},
		{name: "a shell, of steps without one", replace: []string{"WORKDIR", "SHELL [\"/bin/x\"]\nWORKDIR"}},
		{name: "a stage's name", replace: []string{"AS build", "AS maker", "--from=build", "--from=maker"}},
		{name: "a stage by its number", replace: []string{"--from=build", "--from=0"}},
		{name: "an unused stage", replace: []string{"FROM base\n", "FROM base AS unused\nRUN [\"fail\"]\nFROM base\n"}},
		{name: "a stage before", replace: []string{"FROM base AS build", "FROM base AS unused\nRUN [\"fail\"]\nFROM base AS build"}},
		{name: "a label of the build", second: option(func(o *builder.Options) { o.Labels = map[string]string{"x": "y"} })},
		{name: "a target that has what is there", inline: "BMSW", second: option(func(o *builder.Options) { o.Settings.Target = "build" })},
		{name: "more at once", second: option(func(o *builder.Options) { o.Jobs = 1 })},
		{name: "the last step less", replace: []string{"RUN [\"write\",\"last\",\"z\"]\n", ""}},
	}
}

func stepScenarios() []scenario {
	return []scenario{
		{name: "a command that makes another file", replace: []string{`"built","x"`, `"built","xx"`}, want: "ABLMT"},
		{name: "a command that makes the same", replace: []string{`"built","x"`, `"built","x","y"`}, want: "B", cut: true},
		{name: "a command of which another stage reads nothing", replace: []string{`"conf","y"`, `"conf","yy"`}, want: "M"},
		{name: "the last command", replace: []string{`"last","z"`, `"last","zz"`}, want: "L"},
		{name: "a step more, at the end", replace: []string{"LABEL", "RUN [\"write\",\"new\",\"n\"]\nLABEL"}, want: "N"},
		{name: "a step more, at the start", replace: []string{"COPY src", "RUN [\"write\",\"new\",\"n\"]\nCOPY src"}, want: "BMNS"},
		{name: "a step more that makes nothing", replace: []string{"COPY src", "RUN [\"nothing\",\"new\"]\nCOPY src"}, want: "BMNS"},
		{name: "a step less", replace: []string{"COPY top /top\n", ""}, want: "L"},
		{name: "two steps in another order", replace: []string{"COPY top /top\nRUN [\"write\",\"last\",\"z\"]", "RUN [\"write\",\"last\",\"z\"]\nCOPY top /top"}, want: "LT"},
		{name: "another folder of work", replace: []string{"/w", "/v"}, want: "BMSW"},
		{name: "a destination", replace: []string{"top /top", "top /top2"}, want: "LT"},
		{name: "an owner of a copy", replace: []string{"COPY top", "COPY --chown=1:1 top"}, want: "LT"},
		{name: "a mode of a copy", replace: []string{"COPY top", "COPY --chmod=600 top"}, want: "LT"},
		{name: "another copied file of the same content", replace: []string{"COPY top /top", "COPY unused /top"}, want: "T", cut: true},
		{name: "ADD for COPY", replace: []string{"COPY top", "ADD top"}, want: "T", cut: true},
		{name: "another file of a stage", replace: []string{"/built /app", "/conf /app"}, want: "ALT"},
		{name: "a file of a stage to another place", replace: []string{"/built /app", "/built /app2"}, want: "ALT"},
		{name: "a mount's target", replace: []string{"target=/c", "target=/d"}, want: "M"},
		{name: "a mount that can be written to", replace: []string{"target=/c", "target=/c,rw"}, want: "M"},
		{name: "a mount of another folder", replace: []string{"source=conf", "source=src"}, want: "CM"},
		{name: "a mount more", replace: []string{`RUN ["write","built"`, `RUN --mount=type=tmpfs,target=/t ["write","built"`}, want: "B", cut: true},
		{name: "a mount's size", text: strings.Replace(usual, `RUN ["write","built"`, `RUN --mount=type=tmpfs,target=/t,size=1m ["write","built"`, 1), replace: []string{"size=1m", "size=2m"}, want: "B", cut: true},
		{name: "a secret more", replace: []string{`RUN ["write","built"`, `RUN --mount=type=secret,id=s ["write","built"`}, want: "B", cut: true},
		{name: "a network", replace: []string{`RUN ["write","built"`, `RUN --network=none ["write","built"`}, want: "B", cut: true},
		{name: "a user", replace: []string{`RUN ["write","built"`, `USER 5` + "\n" + `RUN ["write","built"`}, want: "BM", cut: true},
		{name: "a document", text: "FROM base\nCOPY <<E /h\n1\nE\n", replace: []string{"\n1\n", "\n2\n"}, want: "H"},
		{name: "a document's name", text: "FROM base\nCOPY <<E /h\n1\nE\n", replace: []string{"E", "F", "FROM bASF", "FROM base", "COPY <<F", "COPY <<F"}, want: "H"},
		{name: "a pattern that matches a new file", text: "FROM base\nCOPY src/*.go /s/\n", edit: file("src/n.go", ""), want: "S"},
		{name: "a pattern that does not", text: "FROM base\nCOPY src/*.go /s/\n", edit: file("src/n.txt", "")},
		{name: "a file left out", text: "FROM base\nCOPY --exclude=*.txt src/ /s/\n", edit: file("src/b.txt", "2")},
		{name: "a file not left out", text: "FROM base\nCOPY --exclude=*.txt src/ /s/\n", edit: file("src/a.go", "2"), want: "S"},
		{name: "a linked copy on another base", inline: "S", text: "FROM base\nCOPY --link src/ /s/\n", replace: []string{"FROM base", "FROM other"}},
	}
}

func argumentScenarios() []scenario {
	return []scenario{
		{name: "an argument", second: []change{arg("V", "1")}, want: "BM", cut: true},
		{name: "an argument's value", first: []change{arg("V", "1")}, second: []change{arg("V", "2")}, want: "BM", cut: true},
		{name: "an argument given as its default", replace: []string{"ARG V\n", "ARG V=1\n"}, first: []change{arg("V", "1")}},
		{name: "an argument nobody declared", second: []change{arg("U", "1")}},
		{name: "an argument declared after all steps", replace: []string{"CMD", "ARG U=1\nCMD"}},
		{name: "an argument of the other stage", replace: []string{"RUN [\"write\",\"last\"", "ARG V\nRUN [\"write\",\"last\""}},
		{name: "a default of an argument", replace: []string{"ARG V\n", "ARG V=1\n"}, want: "BM", cut: true},
		{name: "a proxy", second: []change{arg("http_proxy", "http://localhost:1")}},
		{name: "a variable", replace: []string{"E=1", "E=2"}, want: "BM", cut: true},
		{name: "a variable more", replace: []string{"F=1", "F=1 G=1"}, want: "BM", cut: true},
		{name: "a variable less", replace: []string{" F=1", ""}, want: "BM", cut: true},
		{name: "a variable of the last step alone", replace: []string{"RUN [\"write\",\"last\"", "ENV X=1\nRUN [\"write\",\"last\""}, want: "L"},
		{name: "a variable after all steps", replace: []string{"CMD", "ENV X=1\nCMD"}},
		{name: "a variable in two lines", replace: []string{"ENV E=1 F=1", "ENV E=1\nENV F=1"}},
		{name: "an argument for a variable of the same value", replace: []string{"ENV E=1 F=1", "ENV E=1\nARG F=1"}},
	}
}

func otherScenarios() []scenario {
	return []scenario{
		{name: "a base of the same files with other variables", edit: func(w *world) { w.images["base"] = testImage("2") }, want: "BLM", cut: true},
		{name: "the same base by another name", replace: []string{"FROM base AS", "FROM same AS", "FROM base\n", "FROM same\n"}},
		{name: "another base of one stage", replace: []string{"FROM base\n", "FROM other\n"}, want: "L", cut: true},
		{name: "a base with another configuration of what steps do not see", inline: "ABLMSTW", edit: func(w *world) {
			img := *testImage("1")
			img.ID.Hex, img.Config.Author = strings.Repeat("3", 64), "x"
			w.images["base"] = &img
		}},
		{name: "a time for all files", second: []change{arg("SOURCE_DATE_EPOCH", "5")}, want: "BMSW"},
		{name: "a host", second: option(func(o *builder.Options) { o.Sandbox.ExtraHosts = []string{"1.2.3.4\tn"} }), want: "BLM", cut: true},
		{
			name: "a host's address", first: option(func(o *builder.Options) { o.Sandbox.ExtraHosts = []string{"1.2.3.4\tn"} }),
			second: option(func(o *builder.Options) { o.Sandbox.ExtraHosts = []string{"1.2.3.5\tn"} }),
		},
		{name: "a host name", second: option(func(o *builder.Options) { o.Sandbox.Hostname = "h" }), want: "BLM", cut: true},
		{name: "a limit of the kernel's", second: option(func(o *builder.Options) { o.Sandbox.Ulimits = []runner.Ulimit{{Name: "nofile", Soft: 9, Hard: 9}} }), want: "BLM", cut: true},
		{name: "a limit of memory", second: option(func(o *builder.Options) { o.Sandbox.Limits.Memory = 1 << 30 })},
		{name: "a stage run anew", second: option(func(o *builder.Options) { o.FreshStages = []string{"build"} }), want: "BMSW", cut: true},
		{name: "a network for all", second: option(func(o *builder.Options) { o.Sandbox.Network = "none" }), want: "BLM", cut: true},
	}
}

// texts are the Dockerfiles of the two builds.
func (s scenario) texts() (before, after string) {
	before = s.text
	if before == "" {
		before = usual
	}
	after = before
	for pairs := s.replace; len(pairs) > 1; pairs = pairs[2:] {
		after = strings.ReplaceAll(after, pairs[0], pairs[1])
	}
	return before, after
}

// sorted are letters in the order of the alphabet, without some.
func sorted(text, without string) string {
	list := slices.DeleteFunc(strings.Split(text, ""), func(l string) bool { return strings.Contains(without, l) })
	slices.Sort(list)
	return strings.Join(slices.Compact(list), "")
}

// A change runs again what reads it, and nothing else.
func TestScenarios(t *testing.T) {
	all := scenarios()
	if len(all) < 60 {
		t.Errorf("only %d scenarios", len(all))
	}
	for _, s := range all {
		t.Run(strings.ReplaceAll(s.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			text, changed := s.texts()
			w.usualContext()
			before, err := w.build(text, s.first...)
			must(t, err)
			if s.edit != nil {
				s.edit(w)
			}
			after, err := w.build(changed, s.second...)
			must(t, err)
			if got := w.steps(); got != sorted(s.want, "") {
				t.Errorf("ran %q, not %q: %q", got, s.want, w.misses())
			}
			checkSameLayers(t, s, before, after)
			w.checkNothingRuns(s, changed)
		})
	}
}

// checkNothingRuns: what was just built is found.
func (w *world) checkNothingRuns(s scenario, text string) {
	w.t.Helper()
	_, err := w.build(text, s.second...)
	must(w.t, err)
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
