package dockerfile_test

import (
	"strings"
	"testing"

	"github.com/strake-build/strake/dockerfile"
)

func TestEpoch(t *testing.T) {
	const text = `ARG SOURCE_DATE_EPOCH=src
ARG V=1
FROM scratch AS src
ARG V
ARG HOST=example.org
ADD --checksum=sha256:` + "0123456789012345678901234567890123456789012345678901234567890123" + ` https://$HOST/$V.tar /
FROM scratch AS git
ADD https://example.org/r.git#main /
FROM base AS image
FROM scratch AS run
RUN x
FROM scratch AS twice
ADD https://a/b /
ADD https://a/b /
FROM scratch AS local
ADD a /
FROM scratch AS none
ARG X
FROM scratch
ARG SOURCE_DATE_EPOCH=d
ENV T=$SOURCE_DATE_EPOCH
`
	f := mustParse(t, text)
	graph := func(given string) (*dockerfile.Graph, error) {
		s := dockerfile.Settings{Platform: amd64, Build: amd64, CheckOnly: true, Contexts: []string{"named", "git"}, BuildArgs: map[string]string{}}
		if given != "-" {
			s.BuildArgs["SOURCE_DATE_EPOCH"] = given
		}
		return f.Graph(s)
	}
	for given, want := range map[string]string{
		"image": "SOURCE_DATE_EPOCH stage must use FROM scratch",
		"run":   "unsupported RUN instruction",
		"twice": "must contain exactly one remote ADD",
		"none":  "must contain exactly one remote ADD",
		"local": "must be a single HTTP(S) or Git ADD",
		"what":  "invalid SOURCE_DATE_EPOCH: what",
		"1.5":   "invalid SOURCE_DATE_EPOCH: 1.5",
		"A B":   "invalid context name A B",
	} {
		if _, err := graph(given); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", given, err, want)
		}
	}
	for given, want := range map[string]dockerfile.Epoch{
		"": {}, "12": {Known: true, Seconds: 12}, "-3": {Known: true, Seconds: -3},
		"context": {Context: "context"}, "named": {Context: "named"}, "git": {Context: "git"},
	} {
		g, err := graph(given)
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		if got := g.Epoch(); got != want {
			t.Errorf("%s: got %+v, want %+v", given, got, want)
		}
	}
	g, err := graph("-")
	if err != nil {
		t.Fatal(err)
	}
	if r := g.Epoch().Remote; r == nil || r.URL != "https://example.org/1.tar" || r.Name != "1.tar" || !strings.HasPrefix(g.Epoch().Checksum, "sha256:") {
		t.Errorf("got %+v", g.Epoch())
	}
	// A time that the builder has found is what ARG sees; without one the stage's own default is.
	for want, seconds := range map[string]*int64{"T=d": nil, "T=77": new(int64)} {
		if seconds != nil {
			*seconds = 77
		}
		later, err := g.WithEpoch(seconds)
		if err != nil {
			t.Fatal(err)
		}
		_, state, err := later.Expand(later.Target, dockerfile.State{})
		if err != nil {
			t.Fatal(err)
		}
		if env := state.Config.Config.Env; env[len(env)-1] != want || later.Epoch().Known != (seconds != nil) {
			t.Errorf("got %q, %+v, want %s", env, later.Epoch(), want)
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := dockerfile.Settings{BuildArgs: map[string]string{
		"BUILDKIT_SANDBOX_HOSTNAME": "h", "BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1", "BUILDKIT_MULTI_PLATFORM": "false", "BUILDKIT_INLINE_CACHE": "true",
	}}.Options()
	if err != nil || o.Hostname != "h" || o.KeepGitDir == nil || !*o.KeepGitDir || o.MultiPlatform == nil || *o.MultiPlatform || !o.InlineCache {
		t.Errorf("got %+v, %v", o, err)
	}
	if o, err := (dockerfile.Settings{}).Options(); err != nil || o != (dockerfile.Options{}) {
		t.Errorf("got %+v, %v", o, err)
	}
	if _, err := (dockerfile.Settings{BuildArgs: map[string]string{"BUILDKIT_MULTI_PLATFORM": "perhaps"}}).Options(); err == nil {
		t.Error("no error")
	}
}
