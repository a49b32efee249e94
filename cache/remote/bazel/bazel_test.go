package bazel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/bazel"
	"github.com/strake-build/strake/cache/remote/remotetest"
)

// dav is a server that stores what it is given, as a web server with WebDAV does.
type dav struct {
	mu     sync.Mutex
	files  map[string][]byte
	before func(w http.ResponseWriter, r *http.Request) (done bool)
	asked  atomic.Int32
}

func (d *dav) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.asked.Add(1)
	if d.before != nil && d.before(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	d.mu.Lock()
	defer d.mu.Unlock()
	data, ok := d.files[r.URL.Path]
	switch {
	case err != nil:
	case r.Method == http.MethodPut:
		d.files[r.URL.Path] = body
		w.WriteHeader(http.StatusCreated)
	case !ok:
		http.NotFound(w, r)
	default:
		_, _ = w.Write(data)
	}
}

func serve(t *testing.T) (*dav, string) {
	d := &dav{files: map[string][]byte{}}
	s := httptest.NewServer(d)
	t.Cleanup(s.Close)
	return d, s.URL
}

func open(t *testing.T, opt bazel.Options) *bazel.Backend {
	t.Helper()
	b, err := bazel.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPlainServer(t *testing.T) {
	d, url := serve(t)
	remotetest.Exercise(t, func() remote.Backend { return open(t, bazel.Options{URL: url + "/some/where/"}) })
	for path := range d.files {
		if rest, ok := strings.CutPrefix(path, "/some/where/"); !ok || len(rest) != len("ac/")+64 && len(rest) != len("cas/")+64 {
			t.Errorf("a file at %s", path)
		}
	}
}

// bazel-remote checks blobs by their digest, and entries for being ActionResults whose files are there.
func TestBazelRemote(t *testing.T) {
	for _, mode := range []string{"zstd", "uncompressed"} {
		t.Run(mode, func(t *testing.T) {
			url := remotetest.StartBazel(t, t.TempDir(), "--storage_mode", mode)
			remotetest.Exercise(t, func() remote.Backend { return open(t, bazel.Options{URL: url}) })
			// An entry whose blob is not there is not given.
			b := open(t, bazel.Options{URL: url})
			_, d := remotetest.Blob(t, 99, 100)
			e := remotetest.Entry("lost", d)
			if err := b.Commit(t.Context(), []remote.Entry{e}, true); err != nil {
				t.Fatal(err)
			}
			if got, err := b.Records(t.Context(), []cache.Key{e.Key}); err != nil || len(got) != 0 {
				t.Errorf("an entry without its blob: %v, %v", got, err)
			}
			// And a blob that is not what it says is not taken.
			if err := b.Put(t.Context(), d, remotetest.From(bytes.Repeat([]byte("x"), 100), nil)); err == nil {
				t.Error("a wrong blob was stored")
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	d, url := serve(t)
	const secret = "hunter2"
	var got atomic.Value
	d.before = func(w http.ResponseWriter, r *http.Request) bool {
		got.Store(r.Header.Get("Authorization"))
		http.Error(w, "go away", http.StatusForbidden)
		return true
	}
	for _, c := range []struct {
		opt  bazel.Options
		want string
	}{
		{bazel.Options{URL: url, Token: secret}, "Bearer hunter2"},
		{bazel.Options{URL: url, User: "me:" + secret}, "Basic bWU6aHVudGVyMg=="},
		{bazel.Options{URL: strings.Replace(url, "//", "//me:"+secret+"@", 1)}, "Basic bWU6aHVudGVyMg=="},
	} {
		b := open(t, c.opt)
		_, err := b.Records(t.Context(), make([]cache.Key, 3))
		if err == nil || !strings.Contains(err.Error(), "403") || !strings.Contains(err.Error(), "go away") {
			t.Errorf("got %v", err)
		}
		if s, _ := got.Load().(string); s != c.want {
			t.Errorf("sent %q, not %q", s, c.want)
		}
		if strings.Contains(fmt.Sprint(err, b.Name()), secret) {
			t.Errorf("the secret is in %v or %s", err, b.Name())
		}
	}
	for _, opt := range []bazel.Options{
		{URL: ""},
		{URL: "ftp://x/"},
		{URL: "http://x/?a=b"},
		{URL: "http:///x"},
		{URL: "http://" + secret + "@\x00/"},
		{URL: url, User: secret},
		{URL: url, User: "a:" + secret, Token: secret},
	} {
		if _, err := bazel.New(opt); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%+v: %v", opt, err)
		}
	}
}

// What a server has that is no entry of ours, or one of another key, is a miss.
func TestHostileEntries(t *testing.T) {
	d, url := serve(t)
	_, blob := remotetest.Blob(t, 1, 10)
	e, other := remotetest.Entry("a", blob), remotetest.Entry("b", blob)
	b := open(t, bazel.Options{URL: url})
	if err := b.Commit(t.Context(), []remote.Entry{e, other}, true); err != nil {
		t.Fatal(err)
	}
	var whole [][]byte
	for _, v := range d.files {
		whole = append(whole, v)
	}
	answers := [][]byte{nil, []byte("x"), []byte("{}"), whole[0][:len(whole[0])-2], append([]byte{}, whole[0][:20]...), bytes.Repeat([]byte{0xff}, 100)}
	for _, answer := range answers {
		for path := range d.files {
			d.files[path] = answer
		}
		if got, err := b.Records(t.Context(), []cache.Key{e.Key, other.Key}); err != nil || len(got) != 0 {
			t.Errorf("%q: %v, %v", answer, got, err)
		}
	}
	for path := range d.files {
		d.files[path] = whole[0]
	}
	if got, err := b.Records(t.Context(), []cache.Key{e.Key, other.Key}); err != nil || len(got) != 1 {
		t.Errorf("the same entry for all keys: %v, %v", got, err)
	}
	for path := range d.files {
		d.files[path] = make([]byte, 1<<20)
	}
	if got, err := b.Records(t.Context(), []cache.Key{e.Key}); err == nil || len(got) != 0 {
		t.Errorf("a huge entry: %v, %v", got, err)
	}
}

func TestServersThatFail(t *testing.T) {
	data, blob := remotetest.Blob(t, 1, 100_000)
	t.Run("for a moment", func(t *testing.T) {
		d, url := serve(t)
		var n atomic.Int32
		d.before = func(w http.ResponseWriter, _ *http.Request) bool {
			if n.Add(1)%2 == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			return false
		}
		b := open(t, bazel.Options{URL: url})
		var opened atomic.Int32
		if err := b.Put(t.Context(), blob, remotetest.From(data, &opened)); err != nil || opened.Load() != 2 {
			t.Errorf("got %v after %d attempts", err, opened.Load())
		}
		if got, err := remotetest.Fetch(t.Context(), b, blob); err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	})
	t.Run("for good", func(t *testing.T) {
		d, url := serve(t)
		d.before = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		if _, err := open(t, bazel.Options{URL: url}).Records(t.Context(), make([]cache.Key, 500)); err == nil {
			t.Error("no error")
		}
		if n := d.asked.Load(); n > 10 {
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("by silence", func(t *testing.T) {
		d, url := serve(t)
		end := make(chan struct{})
		d.before = func(http.ResponseWriter, *http.Request) bool { <-end; return true }
		defer close(end)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := open(t, bazel.Options{URL: url}).Records(ctx, make([]cache.Key, 500)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("by leading elsewhere", func(t *testing.T) {
		d, url := serve(t)
		other, otherURL := serve(t)
		d.before = func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, otherURL+r.URL.Path, http.StatusFound)
			return true
		}
		if _, err := open(t, bazel.Options{URL: url, Token: "t"}).Records(t.Context(), make([]cache.Key, 1)); err == nil || !strings.Contains(err.Error(), "redirects") {
			t.Errorf("got %v", err)
		}
		if other.asked.Load() != 0 {
			t.Error("the redirect was followed")
		}
	})
}

// A thousand lookups must not take long.
func BenchmarkRecords(b *testing.B) {
	d := &dav{files: map[string][]byte{}}
	s := httptest.NewServer(d)
	defer s.Close()
	c, err := bazel.New(bazel.Options{URL: s.URL})
	if err != nil {
		b.Fatal(err)
	}
	_, blob := remotetest.Blob(b, 1, 10)
	var keys []cache.Key
	var entries []remote.Entry
	for i := range 1000 {
		entries = append(entries, remotetest.Entry(fmt.Sprint(i), blob))
		keys = append(keys, entries[i].Key)
	}
	if err := c.Commit(b.Context(), entries, true); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if got, err := c.Records(b.Context(), keys); err != nil || len(got) != len(keys) {
			b.Fatal(len(got), err)
		}
	}
}
