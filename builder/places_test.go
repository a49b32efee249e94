package builder_test

import (
	"io"
	"log" //nolint:depguard // to silence the registry
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	reg "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/bazel"
	"github.com/strake-build/strake/cache/remote/gha"
	"github.com/strake-build/strake/cache/remote/remotetest"
	"github.com/strake-build/strake/cache/remote/s3"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/registry"
	"github.com/strake-build/strake/layer/registry/registrytest"
)

// kind is a kind of place that a cache is in.
type kind string

// An image that carries its cache, and a registry that wants a password through TLS, are further ones.
const (
	inline kind = "inline"
	closed kind = "closed-registry"
)

// kinds are those that need no more than one server.
func kinds() []kind { return []kind{"local", "registry", inline, "http", "s3", "gha"} }

// places is a folder and a server for caches.
type places struct {
	t      testing.TB
	url    string
	dir    string
	client registry.Options
	// through, if not nil, answers instead of next. It must be set before clients are made.
	through func(next http.Handler, w http.ResponseWriter, r *http.Request)
	server  *httptest.Server

	mu    sync.Mutex
	holds map[*origin]*sync.Once
}

// newPlaces starts a server of all kinds that can be told to fail.
func newPlaces(t testing.TB) *places {
	p := &places{t: t, dir: t.TempDir()}
	all := http.NewServeMux()
	actions := &remotetest.Actions{Asked: map[string]int{}}
	all.Handle("/v2/", reg.New(reg.Logger(log.New(io.Discard, "", 0))))
	all.Handle("/results/", actions)
	all.Handle("/acct/", actions)
	all.Handle("/", &remotetest.Objects{})
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.through != nil {
			p.through(all, w, r)
			return
		}
		all.ServeHTTP(w, r)
	}))
	t.Cleanup(p.server.Close)
	p.url = p.server.URL
	return p
}

// realPlace starts a server as people use it for caches of a kind. What GitHub has is only to be had there.
func realPlace(t testing.TB, k kind) *places {
	p := &places{t: t, dir: t.TempDir(), holds: map[*origin]*sync.Once{}}
	switch k {
	case "registry", inline:
		p.url = registrytest.Start(t, registrytest.Config{}).URL
	case closed:
		r := registrytest.Start(t, registrytest.Config{TLS: true, Htpasswd: true})
		p.url, p.client = r.URL, registry.Options{CAFiles: []string{r.CAFile}, AuthJSON: r.Auth()}
	case "http":
		p.url = remotetest.StartBazel(t, t.TempDir(), "--enable_ac_key_instance_mangling")
	case "s3":
		p.url = remotetest.StartS3(t)
	case "gha":
		p.url = strings.TrimSuffix(remotetest.NewActions(t).URL, "/results/")
	}
	return p
}

// ref is the name of a cache in the registry.
func (p *places) ref(k kind, at string) name.Reference {
	_, host, _ := strings.Cut(p.url, "://")
	ref, err := name.ParseReference(host + "/" + at + ":" + string(k))
	must(p.t, err)
	return ref
}

// open opens the cache called at, with connections of its own.
func (p *places) open(k kind, at string) (b remote.Backend) {
	now := func() time.Time { return time.Unix(1_800_000_000, 0) }
	var err error
	switch k {
	case "local":
		b = folder(filepath.Join(p.dir, at))
	case "registry", inline, closed:
		b = &remote.Registry{Client: registry.New(p.client), Ref: p.ref(k, at), Platforms: []v1.Platform{{OS: "linux", Architecture: "amd64"}}, Now: now}
	case "http":
		b, err = bazel.New(bazel.Options{URL: p.url + "/" + at})
	case "s3":
		b, err = s3.New(s3.Options{
			Bucket: remotetest.S3Bucket, Region: remotetest.S3Region, Endpoint: p.url, Prefix: at + "/", Now: time.Now,
			Credentials: s3.Credentials{AccessKeyID: remotetest.S3Key, SecretAccessKey: remotetest.S3Secret},
		})
	case "gha":
		b, err = gha.New(gha.Options{URL: p.url + "/results/", Token: remotetest.Token("refs/heads/main"), Scope: at, Now: now})
	}
	must(p.t, err)
	return b
}

// fill builds on a machine that gives its steps to the cache called at.
func (p *places) fill(w *world, k kind, at, text string, changes ...change) {
	w.t.Helper()
	if k != inline {
		end := w.upload(p.open(k, at))
		w.must(text, changes...)
		end()
		return
	}
	carries := func(o *builder.Options) { o.InlineCache = true }
	with := w.must(text, append(changes[:len(changes):len(changes)], carries)...)
	e := export.Exporter{Layers: w.Layers, Blobs: w.Layers.Blobs, Snapshots: w.Snapshots, Temp: w.t.TempDir(), Client: registry.New(p.client)}
	_, err := e.Push(w.t.Context(), export.One(with), p.ref(k, at), export.Options{Codec: compress.Gzip}, nil)
	must(w.t, err)
}

// fillAll fills caches of all kinds.
func (p *places) fillAll(w *world, at, text string) {
	for _, k := range kinds() {
		p.fill(w, k, at, text)
	}
}

// fillOnce fills the cache of a first machine, for the test t and all others.
func (p *places) fillOnce(t *testing.T, from *origin, k kind) {
	t.Helper()
	p.mu.Lock()
	once := p.holds[from]
	if once == nil {
		once = new(sync.Once)
		p.holds[from] = once
	}
	p.mu.Unlock()
	once.Do(func() {
		from.t = t
		p.fill(from.world, k, from.at, from.text, from.first...)
	})
}
