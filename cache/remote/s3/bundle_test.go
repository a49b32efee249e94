package s3

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/remotetest"
)

// bucket returns a server, and a function that opens another client of it.
func bucket(t testing.TB) (*remotetest.Objects, func() *Backend) {
	t.Helper()
	objects := &remotetest.Objects{}
	s := httptest.NewServer(objects)
	t.Cleanup(s.Close)
	return objects, func() *Backend {
		return open(t, Options{Bucket: "bkt", Region: "r1", Endpoint: s.URL, PathStyle: true, Prefix: "a b/", Now: time.Now})
	}
}

// fill has b commit n entries, and returns their keys.
func fill(t testing.TB, b remote.Backend, name string, n int) []cache.Key {
	t.Helper()
	_, d := remotetest.Blob(t, 1, 10)
	var entries []remote.Entry
	var keys []cache.Key
	for i := range n {
		entries = append(entries, remotetest.Entry(fmt.Sprint(name, i), d))
		keys = append(keys, entries[i].Key)
	}
	if err := b.Commit(t.Context(), entries, false); err != nil {
		t.Fatal(err)
	}
	return keys
}

// Builds that write at once lose nothing of each other, and what they leave is soon one object again.
func TestBuildsAtOnce(t *testing.T) {
	opt := gateway(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var keys []cache.Key
	for n := range 5 {
		wg.Go(func() {
			b := open(t, opt)
			for i := range 4 {
				wrote := fill(t, b, fmt.Sprint(n, "-", i, "-"), 20)
				mu.Lock()
				keys = append(keys, wrote...)
				mu.Unlock()
				if n := remotetest.Found(t, open(t, opt), wrote); n != len(wrote) {
					t.Errorf("%d of %d entries are found while others write", n, len(wrote))
				}
			}
		})
	}
	wg.Wait()
	if n := remotetest.Found(t, open(t, opt), keys); n != 400 {
		t.Errorf("%d of 400 entries are found", n)
	}
	last := open(t, opt)
	fill(t, last, "last", 1)
	names, err := last.list(t.Context())
	if err != nil || len(names) != 1 {
		t.Errorf("%d bundles are left, %v", len(names), err)
	}
	if n := remotetest.Found(t, open(t, opt), keys); n != 400 {
		t.Errorf("%d of 400 entries are found after all", n)
	}
}

// An import is two requests, however many entries there are; a build that adds nothing writes nothing.
func TestFewRequests(t *testing.T) {
	objects, client := bucket(t)
	var requests []string
	objects.Before = func(_ http.ResponseWriter, r *http.Request) bool {
		requests = append(requests, r.Method)
		return false
	}
	keys := fill(t, client(), "step", 1000)
	if want := []string{"GET", "PUT"}; !slices.Equal(requests, want) {
		t.Errorf("storing: %v", requests)
	}
	requests = nil
	b := client()
	if n := remotetest.Found(t, b, append(keys, cache.NewKey(nil))); n != 1000 || remotetest.Found(t, b, keys[:1]) != 1 {
		t.Errorf("%d of 1000 entries are found", n)
	}
	if len(requests) != 2 {
		t.Errorf("an import: %v", requests)
	}
	requests = nil
	fill(t, b, "step", 1000)
	if len(requests) != 1 {
		t.Errorf("storing what is there: %v", requests)
	}
}

// What is no bundle, or was changed on its way, is a miss; the next build mends it.
func TestBundlesThatAreNone(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"empty": func([]byte) []byte { return nil },
		"short": func(b []byte) []byte { return b[:len(b)-5] },
		"bit":   func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"text":  func([]byte) []byte { return []byte("<Error/>") },
		"no records": func([]byte) []byte {
			b, err := remote.MarshalGzip(map[string]string{"records": "x"})
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			objects, client := bucket(t)
			keys := fill(t, client(), "step", 10)
			if n := objects.Replace("manifests/", change); n != 1 {
				t.Fatalf("%d bundles", n)
			}
			if n := remotetest.Found(t, client(), keys); n != 0 {
				t.Errorf("%d entries of a broken bundle", n)
			}
			fill(t, client(), "step", 10)
			if n := remotetest.Found(t, client(), keys); n != 10 || objects.Replace("manifests/", slices.Clone[[]byte]) != 1 {
				t.Errorf("%d of 10 entries after the next build", n)
			}
		})
	}
}

// A key that must not delete still reads few bundles.
func TestBundlesThatStay(t *testing.T) {
	objects, client := bucket(t)
	var gets, deletes atomic.Int32
	objects.Before = func(w http.ResponseWriter, r *http.Request) bool {
		switch r.Method {
		case http.MethodGet:
			gets.Add(1)
		case http.MethodDelete:
			deletes.Add(1)
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	}
	var keys []cache.Key
	writer := client()
	for i := range 20 {
		keys = append(keys, fill(t, writer, fmt.Sprint(i, "-"), 3)...)
	}
	gets.Store(0)
	if n := remotetest.Found(t, client(), keys); n != 60 || gets.Load() != 2 || deletes.Load() != 1 {
		t.Errorf("%d of 60 entries with %d requests, %d attempts to delete", n, gets.Load(), deletes.Load())
	}
}

// Bundles that are replaced between the list and their reading are found by another list.
func TestBundleGoneMeanwhile(t *testing.T) {
	objects, client := bucket(t)
	keys := fill(t, client(), "one", 3)
	other := client()
	var done atomic.Bool
	objects.Before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && !r.URL.Query().Has("list-type") && done.CompareAndSwap(false, true) {
			keys = append(keys, fill(t, other, "two", 3)...)
		}
		return false
	}
	if n := remotetest.Found(t, client(), keys); n != 3 {
		t.Errorf("%d of 3 entries", n)
	}
	if n := remotetest.Found(t, client(), keys); n != 6 {
		t.Errorf("%d of 6 entries", n)
	}
}

func FuzzDecodeBundle(f *testing.F) {
	_, d := remotetest.Blob(f, 1, 10)
	raw, err := bundle{remote.Merge(nil, []remote.Entry{remotetest.Entry("a", d)}, time.Unix(1_700_000_000, 0)), []string{"x"}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, h := range decodeBundle(raw).entries {
			if err := h.Check(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestListThatIsNone(t *testing.T) {
	b := fake(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>hello</html>") })
	if _, err := b.Records(t.Context(), make([]cache.Key, 1)); err == nil || !strings.Contains(err.Error(), "list of objects cannot be read") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkRecords(b *testing.B) {
	opt := gateway(b)
	keys := fill(b, open(b, opt), "step", 1000)
	for b.Loop() {
		if n := remotetest.Found(b, open(b, opt), keys); n != len(keys) {
			b.Fatal(n)
		}
	}
}
