package remote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log" //nolint:depguard // to silence the registry
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	reg "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/remotetest"
	"github.com/strake-build/strake/layer/registry"
	"github.com/strake-build/strake/layer/registry/registrytest"
)

func now() time.Time { return time.Unix(1_800_000_000, 0) }

var amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}

func openRegistry(t testing.TB, c *registry.Client, ref string) *remote.Registry {
	t.Helper()
	r, err := c.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	return &remote.Registry{Client: c, Ref: r, Platforms: []v1.Platform{amd64}, Now: now}
}

// Debian's docker-registry in each of its guises keeps a cache.
func TestRegistries(t *testing.T) {
	auth := fmt.Sprintf(`{"username":%q,"password":%q}`, registrytest.User, registrytest.Password)
	for kind, conf := range map[string]registrytest.Config{
		"plain": {}, "tls": {TLS: true}, "htpasswd": {Htpasswd: true}, "token": {Token: true, TLS: true},
	} {
		t.Run(kind, func(t *testing.T) {
			r := registrytest.Start(t, conf)
			opt := registry.Options{}
			if r.CAFile != "" {
				opt.CAFiles = []string{r.CAFile}
			}
			if conf.Htpasswd || conf.Token {
				opt.AuthFile = filepath.Join(t.TempDir(), "auth.json")
				if err := os.WriteFile(opt.AuthFile, []byte(`{"auths":{"`+r.Host+`":`+auth+`}}`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			remotetest.Exercise(t, func() remote.Backend { return openRegistry(t, registry.New(opt), r.Host+"/team/app:cache") })
		})
	}
}

func TestLocal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	remotetest.Exercise(t, func() remote.Backend { return &remote.Local{Dir: dir, Tag: "latest", Now: now} })
}

func commit(t testing.TB, b remote.Backend, names ...string) {
	t.Helper()
	var entries []remote.Entry
	for _, n := range names {
		blob, d := blobOf(t, n)
		if err := b.Put(t.Context(), d, remotetest.From(blob, nil)); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, remotetest.Entry(n, d))
	}
	if err := b.Commit(t.Context(), entries, true); err != nil {
		t.Fatal(err)
	}
}

func blobOf(t testing.TB, s string) ([]byte, v1.Descriptor) {
	t.Helper()
	return []byte(s), v1.Descriptor{MediaType: types.OCILayer, Digest: hashOf(t, s), Size: int64(len(s))}
}

func namesOf(t testing.TB, b remote.Backend) []string {
	t.Helper()
	entries, err := b.Records(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimPrefix(e.Name, "RUN "))
	}
	slices.Sort(names)
	return names
}

// Builds that write a folder at the same time keep each other's entries.
func TestLocalTogether(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { commit(t, &remote.Local{Dir: dir, Tag: "t", Now: now}, fmt.Sprint("a", i), fmt.Sprint("b", i)) })
	}
	wg.Wait()
	if got := namesOf(t, &remote.Local{Dir: dir, Tag: "t", Now: now}); len(got) != 16 {
		t.Errorf("got %v", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "blobs", "sha256", ".new-*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// What no build has used for a month is dropped; with reset, so are the blobs of what this build does not use.
func TestLocalForgets(t *testing.T) {
	dir := t.TempDir()
	commit(t, &remote.Local{Dir: dir, Tag: "t", Now: func() time.Time { return now().Add(-32 * 24 * time.Hour) }}, "old")
	commit(t, &remote.Local{Dir: dir, Tag: "t", Now: func() time.Time { return now().Add(-5 * 24 * time.Hour) }}, "young")
	if got := namesOf(t, &remote.Local{Dir: dir, Tag: "t"}); !slices.Equal(got, []string{"old", "young"}) {
		t.Errorf("got %v", got)
	}
	commit(t, &remote.Local{Dir: dir, Tag: "t", Now: now}, "new")
	if got := namesOf(t, &remote.Local{Dir: dir, Tag: "t"}); !slices.Equal(got, []string{"new", "young"}) {
		t.Errorf("got %v", got)
	}
	commit(t, &remote.Local{Dir: dir, Tag: "other", Now: now}, "other")
	commit(t, &remote.Local{Dir: dir, Tag: "t", Now: now, Reset: true}, "only")
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil || len(blobs) != 6 { // for each of two: a layer, a configuration and a manifest
		t.Errorf("%d blobs are left, %v", len(blobs), err)
	}
	if got := namesOf(t, &remote.Local{Dir: dir, Tag: "other"}); !slices.Equal(got, []string{"other"}) {
		t.Errorf("got %v", got)
	}
}

// One registry's cache is written by one build after the other, and what is lost there is written anew.
func TestRegistryMerges(t *testing.T) {
	r := registrytest.Start(t, registrytest.Config{Delete: true})
	c := registry.New(registry.Options{})
	one, two := openRegistry(t, c, r.Host+"/m:c"), openRegistry(t, c, r.Host+"/m:c")
	commit(t, one, "a")
	commit(t, two, "b")
	commit(t, one, "c")
	if got := namesOf(t, openRegistry(t, c, r.Host+"/m:c")); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("got %v", got)
	}
}

// Of two builds that have both seen the tag as it was, and write it one after the other, who wrote first looks again and loses nothing.
func TestRegistryTogether(t *testing.T) {
	inner, c := reg.New(reg.Logger(log.New(io.Discard, "", 0))), registry.New(registry.Options{})
	serve := func(before http.HandlerFunc) (ref string) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				before(w, r)
				return
			}
			inner.ServeHTTP(w, r)
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://") + "/together:c"
	}
	var held, written atomic.Bool
	var release sync.Once
	saw, goOn, wrote, ended := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	second := serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && held.CompareAndSwap(false, true) {
			close(saw)
			<-goOn
			defer close(wrote)
		}
		inner.ServeHTTP(w, r)
	})
	first := serve(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut && written.CompareAndSwap(false, true):
			go func() {
				defer close(ended)
				commit(t, openRegistry(t, c, second), "second")
			}()
			either(saw, ended)
		case r.Method == http.MethodHead && written.Load():
			release.Do(func() {
				close(goOn)
				either(wrote, ended)
			})
		}
		inner.ServeHTTP(w, r)
	})
	commit(t, openRegistry(t, c, first), "first")
	<-ended
	if got := namesOf(t, openRegistry(t, c, first)); !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("got %v", got)
	}
}

// either waits for one of two events.
func either(a, b <-chan struct{}) {
	select {
	case <-a:
	case <-b:
	}
}

// Whatever another build writes between what this one reads and what it writes stays.
func TestRegistryBetween(t *testing.T) {
	inner := reg.New(reg.Logger(log.New(io.Discard, "", 0)))
	var before atomic.Pointer[func(*http.Request)]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := before.Load(); f != nil {
			(*f)(r)
		}
		inner.ServeHTTP(w, r)
	}))
	defer s.Close()
	c, ref := registry.New(registry.Options{}), strings.TrimPrefix(s.URL, "http://")+"/between:c"
	commit(t, openRegistry(t, c, ref), "old")
	for _, at := range []struct {
		method, path string
		n            int
	}{
		{http.MethodPost, "/blobs/uploads", 2}, // of the configuration: the first was the layer
		{http.MethodPut, "/blobs/uploads", 2},
		{http.MethodHead, "/manifests/", 1},
	} {
		n := 0
		other := func(r *http.Request) {
			if r.Method == at.method && strings.Contains(r.URL.Path, at.path) {
				if n++; n == at.n {
					before.Store(nil)
					commit(t, openRegistry(t, c, ref), "between "+at.method)
				}
			}
		}
		before.Store(&other)
		commit(t, openRegistry(t, c, ref), "at "+at.method)
	}
	want := []string{"at HEAD", "at POST", "at PUT", "between HEAD", "between POST", "between PUT", "old"}
	if got := namesOf(t, openRegistry(t, c, ref)); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// An import is two requests, also for a build of several platforms.
func TestRegistryIsAskedTwice(t *testing.T) {
	inner, asked := reg.New(reg.Logger(log.New(io.Discard, "", 0))), []string{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			asked = append(asked, r.Method)
		}
		inner.ServeHTTP(w, r)
	}))
	defer s.Close()
	c, ref := registry.New(registry.Options{}), strings.TrimPrefix(s.URL, "http://")+"/twice:c"
	commit(t, openRegistry(t, c, ref), "a", "b")
	asked = nil
	b := openRegistry(t, registry.New(registry.Options{}), ref)
	b.Platforms = append(b.Platforms, v1.Platform{OS: "linux", Architecture: "arm64"})
	if got := namesOf(t, b); len(got) != 2 || len(namesOf(t, b)) != 2 || len(asked) != 2 {
		t.Errorf("%v with the requests %v", got, asked)
	}
}

// strict takes manifests as the narrowest of registries do (Amazon ECR, Harbor): images of OCI's media types whose
// configurations list as many layers, and at most 4 MiB.
func strict(t *testing.T, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/manifests/") {
			next.ServeHTTP(w, r)
			return
		}
		raw, err := io.ReadAll(r.Body)
		var m v1.Manifest
		if err != nil || json.Unmarshal(raw, &m) != nil || r.Header.Get("Content-Type") != string(types.OCIManifestSchema1) || m.MediaType != types.OCIManifestSchema1 ||
			m.Config.MediaType != types.OCIConfigJSON || len(m.Annotations) != 0 || len(raw) > 4<<20 {
			t.Errorf("a manifest of %d bytes, %s with %s: %v", len(raw), m.MediaType, m.Config.MediaType, err)
		}
		for _, l := range m.Layers {
			if l.MediaType != types.OCILayer {
				t.Errorf("a layer of %s", l.MediaType)
			}
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, httptest.NewRequestWithContext(r.Context(), http.MethodGet, "/v2/big/blobs/"+m.Config.Digest.String(), nil))
		var config v1.ConfigFile
		if err := json.Unmarshal(rec.Body.Bytes(), &config); err != nil || len(config.RootFS.DiffIDs) != len(m.Layers) || rec.Body.Len() > 4<<20 {
			t.Errorf("a configuration of %d bytes with %d layers of %d: %v", rec.Body.Len(), len(config.RootFS.DiffIDs), len(m.Layers), err)
		}
		t.Logf("a manifest of %d bytes and a configuration of %d for %d layers", len(raw), rec.Body.Len(), len(m.Layers))
		r.Body = io.NopCloser(bytes.NewReader(raw))
		next.ServeHTTP(w, r)
	})
}

// A cache of two thousand steps, with two keys each, is an image that every registry takes, and comes back whole.
func TestManySteps(t *testing.T) {
	s := httptest.NewServer(strict(t, reg.New(reg.Logger(log.New(io.Discard, "", 0)))))
	defer s.Close()
	c, ref := registry.New(registry.Options{}), strings.TrimPrefix(s.URL, "http://")+"/big:c"
	var entries []remote.Entry
	var keys []cache.Key
	for i := range 2_000 {
		_, d := blobOf(t, fmt.Sprint(i))
		e := remotetest.Entry(fmt.Sprintf("step %d of a build with many", i), d)
		content := e
		content.Key = cache.NewKey([]cache.Part{{Name: "content", Value: fmt.Sprint(i)}})
		entries, keys = append(entries, e, content), append(keys, e.Key, content.Key)
	}
	if err := openRegistry(t, c, ref).Commit(t.Context(), entries, true); err != nil {
		t.Fatal(err)
	}
	if n := remotetest.Found(t, openRegistry(t, c, ref), keys); n != len(keys) {
		t.Errorf("%d of %d entries come back", n, len(keys))
	}
}

// manifestOf makes the image that a registry's cache is.
func manifestOf(t *testing.T, names ...string) (config, manifest []byte) {
	t.Helper()
	l := &remote.Local{Dir: t.TempDir(), Tag: "t", Now: now}
	commit(t, l, names...)
	var index v1.IndexManifest
	var m v1.Manifest
	for _, f := range []struct {
		path func() string
		to   any
	}{
		{func() string { return "index.json" }, &index},
		{func() string { return "blobs/sha256/" + index.Manifests[0].Digest.Hex }, &m},
	} {
		raw, err := os.ReadFile(filepath.Join(l.Dir, f.path()))
		if err != nil {
			t.Fatal(err)
		}
		manifest = raw
		if err := json.Unmarshal(raw, f.to); err != nil {
			t.Fatal(err)
		}
	}
	config, err := os.ReadFile(filepath.Join(l.Dir, "blobs/sha256/"+m.Config.Digest.Hex))
	if err != nil {
		t.Fatal(err)
	}
	return config, manifest
}

// A folder is hostile: whatever is changed in it, there are fewer entries or an error, and none is wrong.
func TestLocalTampered(t *testing.T) {
	config, _ := manifestOf(t, "a", "b")
	for what, change := range map[string]func(string) string{
		"a byte":     func(s string) string { return strings.Replace(s, "RUN a", "RUN x", 1) },
		"cut":        func(s string) string { return s[:len(s)/2] },
		"empty":      func(string) string { return "" },
		"pipe":       nil,
		"other json": func(string) string { return `{"rootfs":{"diff_ids":["sha256:00"]}}` },
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			l := &remote.Local{Dir: dir, Tag: "t", Now: now}
			commit(t, l, "a", "b")
			h, _, err := v1.SHA256(bytes.NewReader(config))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "blobs", "sha256", h.Hex)
			if change == nil {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(path, 0o755); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(path, []byte(change(string(config))), 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := (&remote.Local{Dir: dir, Tag: "t"}).Records(t.Context(), nil); err == nil || len(got) > 0 {
				t.Errorf("got %d entries, %v", len(got), err)
			}
			commit(t, &remote.Local{Dir: dir, Tag: "t", Now: now}, "c") // what cannot be read is replaced
			if got := namesOf(t, &remote.Local{Dir: dir, Tag: "t"}); !slices.Equal(got, []string{"c"}) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// backend is a back end made of functions.
type backend struct {
	remote.Backend
	records func(context.Context, []cache.Key) ([]remote.Entry, error)
	open    func(context.Context, v1.Descriptor) (io.ReadCloser, error)
}

func (b backend) Name() string { return "cache of the test" }

func (b backend) Records(ctx context.Context, keys []cache.Key) ([]remote.Entry, error) {
	return b.records(ctx, keys)
}

func (b backend) Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return b.open(ctx, d)
}

func importsOf(warn *[]string, budget time.Duration, list ...remote.Backend) *remote.Imports {
	var mu sync.Mutex
	i := &remote.Imports{
		Find: func(v1.Hash) (string, bool) { return "", false },
		Warn: func(s string) {
			mu.Lock()
			defer mu.Unlock()
			*warn = append(*warn, s)
		},
		Budget: budget, Now: time.Now,
	}
	for _, b := range list {
		i.Add(b)
	}
	return i
}

// A cache that does not answer costs its budget once, and one warning; others are used.
func TestSlowCacheIsLeftOut(t *testing.T) {
	synctest.Test(t, slowCacheIsLeftOut)
}

func slowCacheIsLeftOut(t *testing.T) {
	const budget = 10 * time.Second
	asked := 0
	slow := backend{records: func(ctx context.Context, _ []cache.Key) ([]remote.Entry, error) {
		asked++
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}}
	_, d := blobOf(t, "good")
	good := remotetest.Entry("good", d)
	fast := backend{records: func(context.Context, []cache.Key) ([]remote.Entry, error) { return []remote.Entry{good}, nil }}
	var warnings []string
	i := importsOf(&warnings, budget, slow, fast)
	start := time.Now()
	i.Prepare(t.Context(), []cache.Key{good.Key, {1}})
	for range 20 {
		i.Lookup(t.Context(), cache.Key{2})
	}
	if took := time.Since(start); took != budget {
		t.Errorf("it took %v", took)
	}
	if asked != 1 || len(warnings) != 1 || !strings.Contains(warnings[0], "too long") {
		t.Errorf("asked %d times, warnings %q", asked, warnings)
	}
	got := i.Lookup(t.Context(), good.Key)
	if len(got) != 1 || got[0].Away == nil || got[0].Away.Blob.Digest != d.Digest || got[0].DiffID != good.DiffID.String() {
		t.Fatalf("got %+v", got)
	}
	if !i.Lose(d.Digest) || i.Lose(d.Digest) || len(i.Lookup(t.Context(), good.Key)) > 0 {
		t.Error("a lost blob is used")
	}
}

// Entries for keys that nobody asked for, and broken ones, are not used.
func TestHostileEntriesAreNotUsed(t *testing.T) {
	_, d := blobOf(t, "x")
	bad := remotetest.Entry("bad", d)
	bad.Blob.Size = -5
	other := remotetest.Entry("other", d)
	b := backend{records: func(context.Context, []cache.Key) ([]remote.Entry, error) { return []remote.Entry{bad, other}, nil }}
	var warnings []string
	i := importsOf(&warnings, time.Second, b)
	i.Prepare(t.Context(), []cache.Key{bad.Key})
	if got := i.Lookup(t.Context(), bad.Key); len(got) > 0 {
		t.Errorf("got %+v", got)
	}
}

// Origins of other commands do not lead anywhere.
func TestFetcher(t *testing.T) {
	blob, d := blobOf(t, "bytes")
	b := backend{open: func(context.Context, v1.Descriptor) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(blob)), nil
	}}
	var warnings []string
	f := importsOf(&warnings, time.Second, b).Fetcher(registry.New(registry.Options{}))
	r, err := f.FetchBlob(t.Context(), ":0", d)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "bytes" || r.Close() != nil {
		t.Errorf("got %q, %v", got, err)
	}
	for _, origin := range []string{":1", ":-1", ":", ":x"} {
		if _, err := f.FetchBlob(t.Context(), origin, d); err == nil {
			t.Errorf("%q leads somewhere", origin)
		}
	}
}

// BenchmarkImport imports a cache of 1,000 steps, from docker-registry on the loopback and from a folder.
func BenchmarkImport(b *testing.B) {
	b.Run("registry", func(b *testing.B) {
		r := registrytest.Start(b, registrytest.Config{})
		benchmarkImport(b, func() remote.Backend { return openRegistry(b, registry.New(registry.Options{}), r.Host+"/bench:cache") })
	})
	b.Run("local", func(b *testing.B) {
		dir := b.TempDir()
		benchmarkImport(b, func() remote.Backend { return &remote.Local{Dir: dir, Tag: "latest", Now: now} })
	})
}

func benchmarkImport(b *testing.B, open func() remote.Backend) {
	out := open()
	var entries []remote.Entry
	var keys []cache.Key
	for i := range 1000 {
		blob, d := blobOf(b, fmt.Sprint(i%50)) // few layers: the registry looks each up when the manifest is stored
		if i < 50 {
			if err := out.Put(b.Context(), d, remotetest.From(blob, nil)); err != nil {
				b.Fatal(err)
			}
		}
		e := remotetest.Entry(fmt.Sprint("step ", i), d)
		e.DiffID = hashOf(b, fmt.Sprint("diff", i))
		entries, keys = append(entries, e), append(keys, e.Key)
	}
	if err := out.Commit(b.Context(), entries, true); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var warnings []string
		i := importsOf(&warnings, time.Minute, open())
		i.Prepare(b.Context(), keys)
		for _, k := range keys {
			if len(i.Lookup(b.Context(), k)) != 1 {
				b.Fatalf("not found: %q", warnings)
			}
		}
	}
}
