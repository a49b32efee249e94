package dockerfile_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/strake-build/strake/dockerfile"
)

func mustParse(t testing.TB, text string) *dockerfile.File {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustGraph(t testing.TB, f *dockerfile.File, s dockerfile.Settings) *dockerfile.Graph {
	t.Helper()
	g, err := f.Graph(s)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestExcerpt(t *testing.T) {
	e := &dockerfile.Error{
		File: "a/Dockerfile", Source: []byte("1\n2\n\n4\t\r\n5\n6\n7\n"),
		Range: dockerfile.Range{Start: 4, End: 5}, Hint: "did you mean X?", Err: errors.New("two\nlines"),
	}
	want := "   2 |     2\n   3 |\n   4 | >>> 4\n   5 | >>> 5\n   6 |     6\n   7 |     7\n"
	if got := e.Excerpt(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := e.Error(), "a/Dockerfile:4: two lines (did you mean X?)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, r := range []dockerfile.Range{{}, {Start: 9, End: 9}, {Start: -1, End: 1}} {
		e.Range = r
		if got := e.Excerpt(); got != "" {
			t.Errorf("%v: %q", r, got)
		}
	}
	e.Range = dockerfile.Range{Start: 7, End: 1 << 40}
	if got := e.Excerpt(); !strings.HasSuffix(got, ">>> 7\n") {
		t.Errorf("got %q", got)
	}
}

// What a flag asks for is either done or refused before anything is built, whatever its value, and never refused by a check.
func TestUnsupported(t *testing.T) {
	for _, line := range []string{
		"RUN --network=none", "RUN --network=host", "RUN --security=insecure", "RUN --device=x/y=z",
		"COPY --link", "COPY --parents", "COPY --exclude=x", "COPY --chmod=a+x",
		"ADD --link", "ADD --exclude=x", "ADD --keep-git-dir", "ADD --keep-git-dir=false", "ADD --unpack=true",
		"ADD https://example.org/a", "ADD https://example.org/a.git", "ADD git@example.org:a/b", "ADD ssh://example.org/x",
		"RUN --mount=type=bind,target=/x", "RUN --mount=type=cache,target=/x", "RUN --mount=type=secret,id=x",
		"RUN --mount=type=ssh", "RUN --mount=type=tmpfs,target=/x", "RUN --mount=type=${TYPE:-tmpfs},target=/x",
	} {
		f := mustParse(t, "FROM scratch\n\n"+line+" a b\n")
		s := dockerfile.Settings{Platform: amd64, Build: amd64}
		g, err := f.Graph(s)
		if err == nil {
			_, _, err = g.Expand(g.Target, dockerfile.State{})
		}
		if err != nil && (!strings.HasPrefix(err.Error(), "Dockerfile:3: ") || !strings.HasSuffix(err.Error(), " is not supported by this release")) {
			t.Errorf("%s: %v", line, err)
		}
		s.CheckOnly = true
		g = mustGraph(t, f, s)
		if _, _, err := g.Expand(g.Target, dockerfile.State{}); err != nil {
			t.Errorf("a check of %s: %v", line, err)
		}
	}
	for _, fine := range []string{"COPY --link=false", "COPY --parents=false", "ADD --link=false", "RUN --network=default", "RUN --security=sandbox"} {
		mustGraph(t, mustParse(t, "FROM scratch\n"+fine+" a b\n"), dockerfile.Settings{Platform: amd64, Build: amd64})
	}
}

// One File serves builds for several platforms, and one Graph several goroutines; none sees another's work.
func TestShared(t *testing.T) {
	f := mustParse(t, `FROM base AS one
ARG TARGETARCH
ENV ARCH=$TARGETARCH PATH=/x
LABEL l=$TARGETARCH
EXPOSE 80 $PORT
FROM one
COPY a$ARCH b
ENV PATH=/y
LABEL l=2
ENTRYPOINT x
`)
	config := v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: v1.Config{
		Env: []string{"PATH=/bin"}, Labels: map[string]string{"l": "0"}, ExposedPorts: map[string]struct{}{"1/tcp": {}},
		OnBuild: []string{"ENV PORT=81"}, Cmd: []string{"c"}, Healthcheck: &v1.HealthConfig{Test: []string{"NONE"}},
	}}
	before, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, arch := range []string{"amd64", "arm64", "s390x"} {
		g := mustGraph(t, f, dockerfile.Settings{Platform: v1.Platform{OS: "linux", Architecture: arch}, PlatformGiven: true, Build: amd64})
		_, one, err := g.Expand(g.Stages[0], dockerfile.BaseState(config))
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			wg.Go(func() {
				steps, after, err := g.Expand(g.Target, one)
				if err != nil {
					t.Error(err)
					return
				}
				if got := steps[0].Op.(*dockerfile.Copy).Sources[0]; got != "a"+arch {
					t.Errorf("%s: source %s", arch, got)
				}
				c := after.Config
				if c.Architecture != arch || c.Config.Labels["l"] != "2" || c.Config.Env[0] != "PATH=/y" || c.Config.Cmd != nil {
					t.Errorf("%s: %+v", arch, c)
				}
				if len(c.Config.ExposedPorts) != 3 || c.Config.Healthcheck == config.Config.Healthcheck {
					t.Errorf("%s: %+v", arch, c)
				}
				if l := one.Config.Config.Labels["l"]; l != arch || one.Config.Config.Env[0] != "PATH=/x" {
					t.Errorf("%s: the base stage has changed: %+v", arch, one.Config.Config)
				}
			})
		}
	}
	wg.Wait()
	if after, err := json.Marshal(config); err != nil || string(after) != string(before) {
		t.Errorf("the base has changed:\n%s\n%s", before, after)
	}
	if f.Stages[1].Base.Stage != nil || f.Stages[0].Base.Image != "" {
		t.Error("the File has changed")
	}
}

// A trigger of an image can copy from a stage that the text says nobody needs.
func TestTriggerNeedsStage(t *testing.T) {
	f := mustParse(t, "FROM a AS x\nFROM x AS y\nCOPY --from=other:1 a b\nFROM b AS unused\nFROM c\n")
	g := mustGraph(t, f, dockerfile.Settings{Platform: amd64, Build: amd64})
	if len(g.Stages) != 1 {
		t.Fatal(g.Stages)
	}
	steps, _, err := g.Expand(g.Target, dockerfile.BaseState(v1.ConfigFile{Config: v1.Config{OnBuild: []string{"COPY --from=Y a b"}}}))
	if err != nil {
		t.Fatal(err)
	}
	from := steps[0].Op.(*dockerfile.Copy).From.Stage
	if from.Name != "y" {
		t.Error(from)
	}
	if _, _, err := g.Expand(from, dockerfile.State{}); err != nil {
		t.Error(err)
	}
}

// The arguments before the first FROM: defaults, what the build gives, and those that are there without an ARG.
func TestArgsOfFrom(t *testing.T) {
	for key, want := range map[string]string{"A": "1", "B": "", "C": "none", "D": "none", "E": "none", "TARGETARCH": "amd64", "TARGETSTAGE": "default"} {
		f := mustParse(t, "ARG A=1 B=$A C\nFROM x${"+key+"-none}\nARG D=4\n")
		g := mustGraph(t, f, dockerfile.Settings{Platform: amd64, Build: amd64, BuildArgs: map[string]string{"B": "", "E": "5"}})
		if got := g.Target.Base.Image; got != "x"+want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

func TestPlatforms(t *testing.T) {
	tests := map[string]string{
		"linux/amd64": "linux/amd64", "linux/x86_64": "linux/amd64", "linux/arm64": "linux/arm64", "linux/arm64/v8": "linux/arm64/v8", "linux/aarch64": "linux/arm64",
		"linux/arm": "linux/arm", "linux/arm/v7": "linux/arm/v7", "linux/arm/6": "linux/arm/v6", "linux/armhf": "linux/arm", "linux/armel": "linux/arm/v6",
		"arm64": "linux/arm64", "i386": "linux/386", "LINUX/AMD64": "linux/amd64", "linux/amd64/v1": "linux/amd64", "linux/amd64/v2": "linux/amd64/v2",
		"windows(10.0.17763)/amd64": "windows/amd64:10.0.17763", "nonsense": "", "linux/": "", "linux/a/b/c": "", "li nux/amd64": "",
	}
	for text, want := range tests {
		f := mustParse(t, "ARG P\nFROM --platform=$P scratch AS s\nFROM --platform=$P x\n")
		g, err := f.Graph(dockerfile.Settings{Platform: amd64, Build: amd64, BuildArgs: map[string]string{"P": text}})
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if got := g.Target.Platform.String(); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
}

func TestParseLimits(t *testing.T) {
	_, err := dockerfile.Parse("D", []byte("FROM scratch\n\nRUN "+strings.Repeat("x", 1<<16)+"\n"))
	var e *dockerfile.Error
	if !errors.As(err, &e) || e.Range.Start != 3 || !strings.Contains(err.Error(), "dockerfile line greater than max allowed size of 65535") {
		t.Fatal(err)
	}
	if got := e.Excerpt(); len(got) > 1000 || !strings.Contains(got, "xx…\n") {
		t.Errorf("%d bytes: %.2000q", len(got), got)
	}
}

// What an excerpt leaves out it counts.
func TestExcerptOfManyLines(t *testing.T) {
	e := &dockerfile.Error{Source: []byte(strings.Repeat("x\n", 1000)), Range: dockerfile.Range{Start: 100, End: 199}}
	got := e.Excerpt()
	for _, want := range []string{"  99 |     x\n 100 | >>> x\n", " 119 | >>> x\n     | … 60 lines\n 180 | >>> x\n", " 199 | >>> x\n 200 |     x\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	e.Range.End = 139
	if got := e.Excerpt(); strings.Contains(got, "…") || strings.Count(got, ">>>") != 40 {
		t.Errorf("got\n%s", got)
	}
}

// A text of a few lines cannot ask for all memory there is.
func TestExpansionLimit(t *testing.T) {
	double := func(keyword string) string { return strings.Repeat(keyword+" A=$A$A\n", 40) }
	for _, text := range []string{
		"FROM scratch\nENV A=1234567890\n" + double("ENV"),
		"FROM scratch\nARG A=1234567890\n" + double("ARG"),
		"ARG A=1234567890\n" + double("ARG") + "FROM scratch\n",
		"FROM scratch\nENV A=" + strings.Repeat("x", 60000) + "\nLABEL a=" + strings.Repeat("$A", 30000) + "\n",
		"FROM scratch\nENV A=" + strings.Repeat("1", 60000) + "\nEXPOSE " + strings.Repeat("$A", 30000) + "\n",
		"FROM scratch\n" + strings.Repeat("EXPOSE 1-65535\n", 30),
	} {
		g, err := mustParse(t, text).Graph(dockerfile.Settings{Platform: amd64, Build: amd64})
		if err == nil {
			_, _, err = g.Expand(g.Target, dockerfile.State{})
		}
		if err == nil || !strings.Contains(err.Error(), "variables expand to more than 16 MiB") {
			t.Errorf("%.60q: %.200v", text, err)
		}
	}
}

// Nor can many stages with the variables of the first.
func TestListedVariablesOfAllStages(t *testing.T) {
	var text strings.Builder
	text.WriteString("FROM scratch AS s0\n")
	for i := range 4000 {
		fmt.Fprintf(&text, "ENV V%d=1\n", i)
	}
	for i := range 1200 {
		fmt.Fprintf(&text, "FROM s%d AS s%d\n", i, i+1)
	}
	g := mustGraph(t, mustParse(t, text.String()), dockerfile.Settings{Platform: amd64, Build: amd64})
	var state dockerfile.State
	var err error
	n := 0
	for ; n < len(g.Stages) && err == nil; n++ {
		_, state, err = g.Expand(g.Stages[n], state)
	}
	if err == nil || n < 1000 || !strings.Contains(err.Error(), "the variables of all stages expand to more than 64 MiB") {
		t.Errorf("after %d stages: %v", n, err)
	}
}

// The lists of many variables for many RUNs are bounded too, far above what a Dockerfile needs.
func TestListedVariables(t *testing.T) {
	for _, c := range []struct {
		instruction     string
		variables, runs int
		refused         bool
	}{
		{"ENV", 500, 500, false},
		{"ENV", 2000, 1000, true},
		{"ARG", 300, 300, false},
		{"ARG", 1000, 1000, true},
	} {
		var text strings.Builder
		text.WriteString("FROM scratch\n")
		for i := range c.variables {
			fmt.Fprintf(&text, "%s V%d=1\n", c.instruction, i)
		}
		text.WriteString(strings.Repeat("RUN true\n", c.runs))
		g := mustGraph(t, mustParse(t, text.String()), dockerfile.Settings{Platform: amd64, Build: amd64})
		_, _, err := g.Expand(g.Target, dockerfile.State{})
		if refused := err != nil && strings.Contains(err.Error(), "variables expand to more than 16 MiB"); refused != c.refused || err != nil && !refused {
			t.Errorf("%d %s for %d RUN: %v", c.variables, c.instruction, c.runs, err)
		}
	}
}

// Nor can many stages that each ask for what one may have.
func TestExpansionLimitOfAllStages(t *testing.T) {
	var text strings.Builder
	for i := range 8 {
		fmt.Fprintf(&text, "FROM scratch AS s%d\n%s", i, strings.Repeat("EXPOSE 1-65535\n", 20))
	}
	g := mustGraph(t, mustParse(t, text.String()), dockerfile.Settings{Platform: amd64, Build: amd64, AllStages: true})
	for i, s := range g.Stages {
		_, _, err := g.Expand(s, dockerfile.State{})
		if err != nil && (i == 0 || !strings.Contains(err.Error(), "the variables of all stages expand to more than 64 MiB")) {
			t.Errorf("stage %d: %.200v", i, err)
		}
		if err != nil {
			return
		}
	}
	t.Error("there is no limit")
}

// big is a Dockerfile of 200 stages and 1,000 instructions.
func big() string {
	var b strings.Builder
	b.WriteString("ARG V=1\n")
	for i := range 200 {
		fmt.Fprintf(&b, "FROM base:${V} AS s%d\nENV PATH=/opt/s%[1]d:$PATH A%[1]d=\"${V:-x} $PATH\"\nRUN make -j4 $A%[1]d && install -d /x\n", i)
		if i == 0 {
			b.WriteString("COPY . .\n")
		} else {
			fmt.Fprintf(&b, "COPY --from=s%d --chown=1:$A%d /x /y\n", i-1, i)
		}
		b.WriteString("LABEL stage=$PATH\n")
	}
	return b.String()
}

// BenchmarkPlan is parsing and planning: at most 50 ms.
func BenchmarkPlan(b *testing.B) {
	text := []byte(big())
	config := v1.ConfigFile{OS: "linux", Architecture: "amd64"}
	for b.Loop() {
		f, err := dockerfile.Parse("Dockerfile", text)
		if err != nil {
			b.Fatal(err)
		}
		g := mustGraph(b, f, dockerfile.Settings{Platform: amd64, Build: amd64})
		if len(g.Stages) != 200 {
			b.Fatal(len(g.Stages))
		}
		for _, s := range g.Stages {
			if _, _, err := g.Expand(s, dockerfile.BaseState(config)); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// seeds are the Dockerfiles of the golden tests.
func seeds(f *testing.F) [][]byte {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatal("no testdata", err)
	}
	var list [][]byte
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		list = append(list, archiveFile(a, "Dockerfile").Data)
	}
	return append(list, []byte(big()[:2000]))
}

// checkError wants an *Error that can be printed.
func checkError(t *testing.T, err error) {
	if err == nil {
		return
	}
	e, ok := errors.AsType[*dockerfile.Error](err)
	if !ok {
		t.Fatalf("%T is not an *Error: %v", err, err)
	}
	if strings.Contains(e.Error(), "\n") || e.Err == nil || e.Range.Start < 0 {
		t.Fatalf("%+v", e)
	}
	if e.Range.Start > 0 && e.Excerpt() == "" {
		t.Fatalf("no excerpt at %v", e.Range)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := dockerfile.Parse("Dockerfile", text)
		checkError(t, err)
		if err == nil && len(file.Stages) == 0 {
			t.Fatal("no stages and no error")
		}
	})
}

func FuzzGraph(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s, "final", "V", "2")
	}
	f.Fuzz(func(t *testing.T, text []byte, target, key, value string) {
		file, err := dockerfile.Parse("Dockerfile", text)
		if err != nil {
			return
		}
		g, err := file.Graph(dockerfile.Settings{Target: target, BuildArgs: map[string]string{key: value}, Platform: amd64, Build: amd64})
		checkError(t, err)
		if err != nil {
			return
		}
		seen := map[*dockerfile.Stage]bool{}
		for _, s := range g.Stages {
			if s.Base.Stage != nil && !seen[s.Base.Stage] {
				t.Fatalf("stage %v comes before its base", s)
			}
			seen[s] = true
		}
		if !seen[g.Target] {
			t.Fatal("the target is not in the graph")
		}
	})
}

func FuzzExpand(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s, "A", "x y", "RUN echo $A", "/home")
	}
	f.Fuzz(func(t *testing.T, text []byte, key, value, trigger, dir string) {
		file, err := dockerfile.Parse("Dockerfile", text)
		if err != nil {
			return
		}
		g, err := file.Graph(dockerfile.Settings{
			BuildArgs: map[string]string{key: value}, Platform: amd64, Build: amd64, Contexts: []string{value}, CheckOnly: true,
		})
		if err != nil {
			return
		}
		if _, err := g.Outline(nil); err != nil {
			checkError(t, err)
		}
		states := map[*dockerfile.Stage]dockerfile.State{}
		for _, s := range g.Stages {
			base := states[s.Base.Stage]
			if s.Base.Stage == nil {
				base = dockerfile.BaseState(v1.ConfigFile{Config: v1.Config{Env: []string{value, "A=1"}, WorkingDir: dir, OnBuild: []string{trigger}}})
			}
			steps, after, err := g.Expand(s, base)
			checkError(t, err)
			if err != nil {
				return
			}
			states[s] = after
			for _, step := range steps {
				checkStep(t, step)
			}
		}
	})
}

// checkStep wants what callers count on.
func checkStep(t *testing.T, s dockerfile.Step) {
	if s.Name == "" || s.History.CreatedBy == "" || s.Range.Start < 1 {
		t.Fatalf("%+v", s)
	}
	switch op := s.Op.(type) {
	case *dockerfile.Copy:
		if !strings.HasPrefix(op.Dest, "/") || !strings.HasPrefix(op.Dir, "/") {
			t.Fatalf("%+v", op)
		}
		if _, err := dockerfile.ParseMode(op.Chmod); op.Chmod != "" && err != nil {
			t.Fatalf("%+v: %v", op, err)
		}
		for _, f := range op.Inline {
			if f.Name == "" || strings.Contains(f.Name, "/") || f.Name == ".." {
				t.Fatalf("%+v", op)
			}
		}
	case *dockerfile.Workdir:
		if !strings.HasPrefix(op.Dir, "/") {
			t.Fatalf("%+v", op)
		}
	case *dockerfile.Run:
		if !strings.HasPrefix(op.Dir, "/") || op.Script != nil && strings.Contains(op.Script.Name, "/") {
			t.Fatalf("%+v", op)
		}
		for _, m := range op.Mounts {
			placed := strings.HasPrefix(m.Target, "/") && path.Clean(m.Target) != "/"
			if !placed && (m.Type != dockerfile.MountSecret || m.Env == "") || m.Source != "" && m.Source[0] != '/' || strings.Contains(m.Source, "..") && path.Clean(m.Source) != m.Source {
				t.Fatalf("%+v", m)
			}
		}
	}
}
