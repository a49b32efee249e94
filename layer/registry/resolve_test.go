package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // the registry wants a logger, to be quiet
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// inProcess runs go-containerregistry's registry and returns its host.
func inProcess(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestResolveIndex(t *testing.T) {
	c := client(t, Options{})
	host := inProcess(t)
	ref := reference(t, c, host+"/app:1")
	platform := func(s string) v1.Platform {
		p, err := v1.ParsePlatform(s)
		if err != nil {
			t.Fatal(err)
		}
		return *p
	}
	push := func(s string) v1.Descriptor {
		return pushImage(t, c, reference(t, c, host+"/app:"+strings.ReplaceAll(s, "/", "-")), platform(s), []byte(s))
	}
	attestation := push("linux/mips")
	attestation.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	unnamed := push("linux/riscv64")
	unnamed.Platform = nil
	inner := pushIndex(t, c, reference(t, c, host+"/app:inner"), push("linux/ppc64le"))
	nested := v1.Descriptor{MediaType: types.OCIImageIndex, Size: int64(len(inner)), Digest: sum(inner)}
	raw := pushIndex(t, c, ref, attestation, unnamed, nested, push("linux/arm/v6"), push("linux/arm64/v8"), push("linux/amd64"), push("linux/amd64/v3"))

	for want, got := range map[string]string{
		"linux/amd64": "linux/amd64", "linux/amd64/v1": "linux/amd64", "linux/amd64/v2": "linux/amd64", "linux/amd64/v4": "linux/amd64/v3",
		"linux/arm64": "linux/arm64/v8", "linux/arm/v7": "linux/arm/v6", "linux/riscv64": "linux/riscv64", "linux/ppc64le": "linux/ppc64le",
	} {
		m, err := c.Resolve(t.Context(), ref, platform(want))
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		if s := m.Config.Platform().String(); s != got || m.RefDigest != sum(raw) || m.Digest == m.RefDigest {
			t.Errorf("%s: got %s, want %s; %s %s", want, s, got, m.Digest, m.RefDigest)
		}
	}
	_, err := c.Resolve(t.Context(), ref, platform("linux/s390x"))
	wantError(t, err, "no image for linux/s390x, only for", "linux/amd64", "linux/arm64/v8", "linux/riscv64", "linux/ppc64le")
	if strings.Contains(err.Error(), "unknown") || strings.Contains(err.Error(), "mips") {
		t.Errorf("an attestation is listed: %v", err)
	}
	// An image outside an index is what it is.
	m, err := c.Resolve(t.Context(), reference(t, c, host+"/app:linux-arm-v6"), amd64)
	if err != nil || m.Config.Platform().String() != "linux/arm/v6" {
		t.Errorf("%v", err)
	}
	d, err := c.ResolveDigest(t.Context(), ref)
	if err != nil || d.Digest != sum(raw) || d.MediaType != types.OCIImageIndex {
		t.Errorf("%+v, %v", d, err)
	}
	got, d, err := c.FetchManifest(t.Context(), ref)
	if err != nil || string(got) != string(raw) || d.Digest != sum(raw) {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestResolveHostile(t *testing.T) {
	conf := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}`)
	image := func(conf v1.Descriptor, layers ...v1.Descriptor) string {
		b, err := json.Marshal(v1.Manifest{SchemaVersion: 2, Config: conf, Layers: layers})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	good := v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(conf)), Digest: sum(conf)}
	self := `{"schemaVersion":2,"manifests":[{"mediaType":"` + string(types.OCIImageIndex) + `","size":0,"digest":"` + sum(nil).String() + `"}]}`
	oci, index, docker := string(types.OCIManifestSchema1), string(types.OCIImageIndex), string(types.DockerManifestSchema2)
	for _, tt := range []struct{ name, mediaType, body, digest, want string }{
		{"good", oci, image(good), "", ""},
		{"good docker", docker, image(good), "", ""},
		{"no content type", "", image(good), "", ""},
		{"plain content type", "application/json; charset=utf-8", image(good), "", ""},
		{"not JSON", oci, "<html>", "", "reading the manifest"},
		{"too large", oci, image(good) + strings.Repeat(" ", maxManifest), "", "more than 4194304 bytes"},
		{"wrong digest", oci, image(good), sum(nil).String(), "should be " + sum(nil).String()},
		{"schema 1", string(types.DockerManifestSchema1Signed), `{"schemaVersion":1}`, "", "schema 1"},
		{"schema 1, unnamed", "application/json", `{"schemaVersion":1,"fsLayers":[]}`, "", "schema 1"},
		{"two kinds", oci, `{"manifests":[],"layers":[],"config":{}}`, "", "ambiguous"},
		{"two types", oci, `{"mediaType":"` + index + `","manifests":[]}`, "", "calls itself"},
		{"index as image", oci, `{"manifests":[]}`, "", "does not fit"},
		{"empty index", index, `{"manifests":[]}`, "", "nor for any other platform"},
		{"index of itself", index, self, "", "should be"},
		{"no config", oci, `{"layers":[]}`, "", "no configuration"},
		{"huge config", oci, image(v1.Descriptor{Size: maxConfig + 1, Digest: sum(conf)}), "", "more than 8388608"},
		{"negative config", oci, image(v1.Descriptor{Size: -1, Digest: sum(conf)}), "", "broken digest or size"},
		{"negative layer", oci, image(good, v1.Descriptor{Size: -1, Digest: sum(conf)}), "", "broken digest or size"},
		{"config of another size", oci, image(v1.Descriptor{Size: 3, Digest: sum(conf)}), "", "the manifest says 3"},
		{"config of another digest", oci, image(v1.Descriptor{Size: good.Size, Digest: sum([]byte("x"))}), "", "should be " + sum([]byte("x")).String()},
		{"layers without diff IDs", oci, image(good, v1.Descriptor{Size: 1, Digest: sum(conf)}), "", "1 layers"},
		{"other manifest", "application/vnd.example+json", `{}`, "", "not of an image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host := fake(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/blobs/") {
					_, _ = w.Write(conf)
					return
				}
				w.Header().Set("Content-Type", tt.mediaType)
				if tt.digest != "" {
					w.Header().Set("Docker-Content-Digest", tt.digest)
				}
				_, _ = io.WriteString(w, tt.body)
			})
			c := client(t, Options{})
			m, err := c.Resolve(t.Context(), reference(t, c, host+"/r:1"), amd64)
			if tt.want != "" {
				wantError(t, err, tt.want, host+"/r:1")
			} else if err != nil || m.Config.OS != "linux" {
				t.Fatalf("%+v, %v", m, err)
			}
			if tt.name == "good" {
				_, err := c.Resolve(t.Context(), reference(t, c, host+"/r@"+sum(nil).String()), amd64)
				wantError(t, err, "should be "+sum(nil).String())
			}
		})
	}
}

func TestResolveDigestFallback(t *testing.T) {
	body := `{"schemaVersion":2,"manifests":[]}`
	for name, head := range map[string]http.HandlerFunc{
		"no HEAD": status(http.StatusMethodNotAllowed), "no digest": status(http.StatusOK), "broken digest": status(http.StatusOK, "Docker-Content-Digest", "sha256:x"),
	} {
		host := fake(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				head(w, r)
				return
			}
			_, _ = io.WriteString(w, body)
		})
		c := client(t, Options{})
		d, err := c.ResolveDigest(t.Context(), reference(t, c, host+"/r:1"))
		if err != nil || d.Digest != sum([]byte(body)) || d.MediaType != types.OCIImageIndex {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

func TestVector(t *testing.T) {
	for _, tt := range []struct{ platform, want string }{
		{"linux/amd64", "[linux/amd64 linux/386]"},
		{"linux/amd64/v3", "[linux/amd64/v3 linux/amd64/v2 linux/amd64 linux/386]"},
		{"linux/arm64/v8", "[linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5]"},
		{"Linux/aarch64", "[linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5]"},
		{"linux/arm", "[linux/arm/v7 linux/arm/v6 linux/arm/v5]"},
		{"linux/arm/6", "[linux/arm/v6 linux/arm/v5]"},
		{"linux/386", "[linux/386]"},
		{"windows/amd64", "[windows/amd64 windows/386]"},
	} {
		p, err := v1.ParsePlatform(tt.platform)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(vector(*p)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.platform, got, tt.want)
		}
	}
}

func TestParseReference(t *testing.T) {
	c := New(Options{Insecure: []string{"plain.example"}})
	for in, want := range map[string]string{
		"busybox":                            "index.docker.io/library/busybox:latest",
		"team/app:1":                         "index.docker.io/team/app:1",
		"docker.io/busybox":                  "index.docker.io/library/busybox:latest",
		"localhost:5000/a/b":                 "localhost:5000/a/b:latest",
		"plain.example/a":                    "plain.example/a:latest",
		"ghcr.io/a/b:1@" + sum(nil).String(): "ghcr.io/a/b@" + sum(nil).String(),
	} {
		ref, err := c.ParseReference(in)
		if err != nil || ref.Name() != want {
			t.Errorf("%s: %v, %v; want %s", in, ref, err, want)
		}
	}
	for in, want := range map[string]string{
		"": "it is empty", "https://ghcr.io/a": "scheme", "ghcr.io/Team/app": "lower case", "App": "lower case", "a b": "white space",
		"a@sha256:12": "want [HOST", "a:" + strings.Repeat("x", 200): "want [HOST",
	} {
		_, err := c.ParseReference(in)
		wantError(t, err, want, "is not an image name")
	}
}

func TestChallenges(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`Bearer realm="https://auth.example/token",service="r",scope="repository:a:pull,push"`, "bearer map[realm:https://auth.example/token scope:repository:a:pull,push service:r]"},
		{`bearer realm=https://auth.example/token , service=x`, "bearer map[realm:https://auth.example/token service:x]"},
		{`Basic realm="a \"quoted\" name"`, `basic map[realm:a "quoted" name]`},
		{`Negotiate, Basic realm="x", Bearer realm="y"`, "bearer map[realm:y]"},
		{`Negotiate YII==, Basic`, "basic map[]"},
		{`Bearer`, " map[]"},
		{`Bearer realm="unfinished`, "bearer map[realm:unfinished]"},
		{`"`, " map[]"},
		{``, " map[]"},
	} {
		ch := bestChallenge(http.Header{"Www-Authenticate": {tt.in}})
		if got := fmt.Sprint(ch.scheme, " ", ch.params); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.in, got, tt.want)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://auth.example/token",service="r",scope="repository:a:pull,push"`)
	f.Add(`Negotiate YII==, Basic realm="\"", Bearer realm=y`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, ch := range parseChallenges(s) {
			if ch.scheme == "" || strings.ContainsAny(ch.scheme, " ,\"") {
				t.Errorf("scheme %q", ch.scheme)
			}
		}
	})
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 1-2/3")
	f.Add("bytes */3")
	f.Fuzz(func(t *testing.T, s string) {
		first, total, err := contentRange(s)
		if err == nil && (first < 0 || total < -1) {
			t.Errorf("%q: %d, %d", s, first, total)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"`+sum(nil).String()+`","platform":{"os":"linux","architecture":"arm"}}]}`), "linux/arm64/v8")
	f.Fuzz(func(t *testing.T, raw []byte, platform string) {
		a := answer{header: http.Header{}, body: raw}
		if _, err := mediaTypeOf(a); err != nil {
			return
		}
		p, err := v1.ParsePlatform(platform)
		var index v1.IndexManifest
		if err != nil || json.Unmarshal(raw, &index) != nil {
			return
		}
		order, have := choose(index.Manifests, *p)
		if len(order)+len(have) > len(index.Manifests) {
			t.Errorf("%d and %d of %d", len(order), len(have), len(index.Manifests))
		}
		for _, d := range order {
			if d.Platform != nil && rank(*d.Platform, vector(*p)) < 0 {
				t.Errorf("%s for %s", d.Platform, p)
			}
		}
		_ = (&platformError{want: *p, have: have}).Error()
	})
}

func TestCovered(t *testing.T) {
	scopes := []string{"repository:a:pull,push"}
	for scope, want := range map[string]bool{"repository:a:pull": true, "repository:a:push,pull": true, "repository:a:delete": false, "repository:b:pull": false, "x": false} {
		if covered(scopes, scope) != want {
			t.Errorf("%s: %t", scope, !want)
		}
	}
	if !slices.Contains(scopes, scope("a", "pull,push")) {
		t.Error("scope")
	}
	if errors.Is(&StatusError{Status: 500}, ErrNotFound) {
		t.Error("500 is ErrNotFound")
	}
}
