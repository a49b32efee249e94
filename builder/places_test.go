package builder_test

import (
	"io"
	"log" //nolint:depguard // to silence the registry
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
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
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/registry"
)

// kind is a kind of place that a cache is in.
type kind string

const inline kind = "inline"

// kinds are all of them.
func kinds() []kind { return []kind{"local", "registry", inline, "http", "s3", "gha"} }

// places is a server of caches of every kind, and a folder for those that need none.
type places struct {
	t   testing.TB
	url string
	dir string
	// through, if not nil, answers instead of next. It must be set before clients are made.
	through func(next http.Handler, w http.ResponseWriter, r *http.Request)
	server  *httptest.Server
}

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

// ref is the name of a cache in the registry.
func (p *places) ref(at string, k kind) name.Reference {
	ref, err := name.ParseReference(strings.TrimPrefix(p.url, "http://") + "/" + at + ":" + string(k))
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
	case "registry", inline:
		b = &remote.Registry{Client: registry.New(registry.Options{}), Ref: p.ref(at, k), Platforms: []v1.Platform{{OS: "linux", Architecture: "amd64"}}, Now: now}
	case "http":
		b, err = bazel.New(bazel.Options{URL: p.url + "/" + at})
	case "s3":
		b, err = s3.New(s3.Options{Bucket: "bucket", Region: "r1", Endpoint: p.url, Prefix: at + "/", Now: time.Now})
	case "gha":
		b, err = gha.New(gha.Options{URL: p.url + "/results/", Token: remotetest.Token("refs/heads/main"), Scope: at, Now: now})
	}
	must(p.t, err)
	return b
}

// fill builds on a machine that gives its steps to caches of all kinds, which are called at.
func (p *places) fill(w *world, at, text string, changes ...change) *image.Image {
	p.t.Helper()
	var all []remote.Backend
	for _, k := range kinds() {
		if k != inline {
			all = append(all, p.open(k, at))
		}
	}
	end := w.upload(all...)
	img, err := w.build(text, changes...)
	must(p.t, err)
	end()
	carries := func(o *builder.Options) { o.InlineCache = true }
	with, err := w.build(text, append(changes[:len(changes):len(changes)], carries)...)
	must(p.t, err)
	e := export.Exporter{Layers: w.Layers, Blobs: w.Layers.Blobs, Snapshots: w.Snapshots, Temp: p.t.TempDir(), Client: registry.New(registry.Options{})}
	_, err = e.Push(p.t.Context(), export.One(with), p.ref(at, inline), export.Options{Codec: compress.Gzip}, nil)
	must(p.t, err)
	return img
}
