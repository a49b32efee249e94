package dockerfile_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/dockerfile"
)

const outlined = `ARG box=busy
ARG two=x
# unused is
ARG unused=${two}
# name is that of the base
ARG name="${box}box"
FROM ${name} AS first
# nothing of the sort
ARG FOO=123
# BAR is a number
ARG BAR=456
ARG name
RUN --mount=type=secret,id=s$BAR,required --mount=type=ssh true

FROM alpine${unused} AS second
RUN --mount=type=secret,id=other true

FROM scratch AS third
ARG EMPTY
RUN --mount=type=ssh,id=agent,required --mount=type=secret,id=s678 --mount=type=secret,target=/x/t true

# target is what is wanted
FROM third AS target
COPY --from=first /a /

FROM second
`

func TestOutline(t *testing.T) {
	f := mustParse(t, outlined)
	g := mustGraph(t, f, dockerfile.Settings{
		Target: "target", BuildArgs: map[string]string{"BAR": "678"}, Platform: amd64, Build: amd64, CheckOnly: true,
	})
	o, err := g.Outline(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := `TARGET:      target
DESCRIPTION: is what is wanted

BUILD ARG   VALUE     DESCRIPTION
box         busy      
name        busybox   is that of the base
FOO         123       
BAR         678       is a number
EMPTY                 

SECRET   REQUIRED
s678     
t        

SSH       REQUIRED
default   
agent     true

`
	if got := o.Text(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	o.Sources = nil
	o.Args = o.Args[1:2]
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	wantJSON := `{"name":"target","description":"is what is wanted",` +
		`"args":[{"name":"name","description":"is that of the base","value":"busybox","location":{"ranges":[{"start":{"line":6},"end":{"line":6}}]}}],` +
		`"secrets":[{"name":"s678","location":{"ranges":[{"start":{"line":20},"end":{"line":20}}]}},{"name":"t","location":{"ranges":[{"start":{"line":20},"end":{"line":20}}]}}],` +
		`"ssh":[{"name":"default","location":{"ranges":[{"start":{"line":13},"end":{"line":13}}]}},{"name":"agent","required":true,"location":{"ranges":[{"start":{"line":20},"end":{"line":20}}]}}]}`
	if string(text) != wantJSON {
		t.Errorf("got\n%s\nwant\n%s", text, wantJSON)
	}
	// What a base says is asked for once, and its error ends the outline.
	asked := 0
	broken := errors.New("no such image")
	_, err = g.Outline(func(s *dockerfile.Stage) (dockerfile.State, error) {
		asked++
		return dockerfile.State{}, broken
	})
	if !errors.Is(err, broken) || asked != 1 {
		t.Errorf("asked %d times, %v", asked, err)
	}
	_, err = g.Outline(func(s *dockerfile.Stage) (dockerfile.State, error) {
		return dockerfile.BaseState(v1.ConfigFile{OS: "linux", Config: v1.Config{OnBuild: []string{"COPY --from=first /b /"}}}), nil
	})
	if err == nil || !strings.Contains(err.Error(), "cannot copy from stage") {
		t.Errorf("a trigger of the first stage copies from it: %v", err)
	}
}

func TestTargets(t *testing.T) {
	l := mustParse(t, "# one is first\nFROM --platform=linux/amd64 a AS one\nFROM one\n").Targets()
	if got, want := l.Text(), "TARGET    DESCRIPTION\none       is first\n(default) \n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	l.Sources = nil
	text, err := json.Marshal(l)
	want := `{"targets":[{"name":"one","description":"is first","base":"a","platform":"linux/amd64","location":{"ranges":[{"start":{"line":2},"end":{"line":2}}]}},` +
		`{"default":true,"base":"one","location":{"ranges":[{"start":{"line":3},"end":{"line":3}}]}}],"sources":null}`
	if err != nil || string(text) != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

// check is what a caller of --check does.
func check(text string) dockerfile.LintResults {
	source := []byte(text)
	f, err := dockerfile.Parse("Dockerfile", source)
	if err != nil {
		return dockerfile.Lint("Dockerfile", source, nil, err)
	}
	g, err := f.Graph(dockerfile.Settings{Platform: amd64, Build: amd64, AllStages: true, CheckOnly: true})
	if err != nil {
		return dockerfile.Lint("Dockerfile", source, nil, err)
	}
	found := g.Warnings
	for _, s := range g.Stages {
		_, after, err := g.Expand(s, dockerfile.State{})
		if err != nil {
			return dockerfile.Lint("Dockerfile", source, found, err)
		}
		found = append(found, after.Warnings...)
	}
	return dockerfile.Lint("Dockerfile", source, found, g.Violation(found))
}

func TestLint(t *testing.T) {
	clean := check("FROM scratch\nCOPY a b\n")
	if got := clean.Text() + clean.ErrorText(); got != "Check complete, no warnings found.\n" || clean.Failed() {
		t.Errorf("got %s", got)
	}
	r := check("FROM scratch as a\nWORKDIR x\nCOPY --from=no#such \\\n a b\n")
	want := `Check complete, 2 warnings have been found!

WARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/
'as' and 'FROM' keywords' casing do not match
Dockerfile:1
--------------------
   1 | >>> FROM scratch as a
   2 |     WORKDIR x
   3 |     COPY --from=no#such \
--------------------
`
	wantError := `failed to parse stage name "no#such": invalid reference format
Dockerfile:3
--------------------
   2 |     WORKDIR x
   3 | >>> COPY --from=no#such \
   4 | >>>  a b
   5 |     
--------------------
`
	r.Warnings = append(r.Warnings, r.Warnings[0])[:1]
	want = strings.Replace(want, "2 warnings have", "1 warning has", 1)
	if got := r.Text(); got != want || !r.Failed() {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := r.ErrorText(); got != wantError {
		t.Errorf("got\n%s\nwant\n%s", got, wantError)
	}
	text, err := json.Marshal(check("FROM scratch as a\n\nBADCMD\n"))
	wantJSON := `{"warnings":[{"ruleName":"FromAsCasing","description":"The 'as' keyword should match the case of the 'from' keyword",` +
		`"url":"https://docs.docker.com/go/dockerfile/rule/from-as-casing/","detail":"'as' and 'FROM' keywords' casing do not match",` +
		`"location":{"ranges":[{"start":{"line":1},"end":{"line":1}}]}}],` +
		`"sources":[{"filename":"Dockerfile","data":"RlJPTSBzY3JhdGNoIGFzIGEKCkJBRENNRAo=","language":"Dockerfile"}],` +
		`"buildError":{"message":"dockerfile parse error on line 3: unknown instruction: BADCMD","location":{"ranges":[{"start":{"line":3},"end":{"line":3}}]}}}`
	if err != nil || string(text) != wantJSON {
		t.Errorf("got\n%s\nwant\n%s", text, wantJSON)
	}
	violation := check("# check=error=true\nFROM scratch as a\n")
	if got := violation.ErrorText(); got != "lint violation found for rules: FromAsCasing\n" {
		t.Errorf("got %s", got)
	}
}
