package gha

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/remotetest"
)

const trunk = "refs/heads/main"

func open(t testing.TB, a *remotetest.Actions, token string) *Backend {
	t.Helper()
	b, err := New(Options{URL: a.URL, Token: token, Timeout: time.Hour, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	b.service.client.Pause = time.Millisecond
	return b
}

// fill stores n small blobs and their entries, and returns the keys.
func fill(t *testing.T, b *Backend, name string, n int) (keys []cache.Key, entries []remote.Entry) {
	t.Helper()
	for i := range n {
		data, d := remotetest.Blob(t, byte(i), 100+i)
		e := remotetest.Entry(fmt.Sprint(name, i), d)
		keys, entries = append(keys, e.Key), append(entries, e)
		if err := b.Put(t.Context(), d, remotetest.From(data, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(t.Context(), entries, true); err != nil {
		t.Fatal(err)
	}
	return keys, entries
}

func TestEmulator(t *testing.T) {
	a := remotetest.NewActions(t)
	remotetest.Exercise(t, func() remote.Backend { return open(t, a, remotetest.Token(trunk)) })
	// 33 blobs of less than 1 MiB are in two packs: one of the first build, one of what followed.
	packs, indexes := 0, 0
	for _, k := range a.Keys() {
		if strings.HasPrefix(k, "strake-pack-") {
			packs++
		}
		if strings.HasPrefix(k, "strake-index-strake--") {
			indexes++
		}
	}
	if packs != 2 || indexes != 2 {
		t.Errorf("%d packs, %d indexes: %v", packs, indexes, a.Keys())
	}
}

func TestBlocks(t *testing.T) {
	a := remotetest.NewActions(t)
	b := open(t, a, remotetest.Token(trunk))
	b.service.single, b.service.part = 1<<20, 300_000
	data, d := remotetest.Blob(t, 1, 3<<20+5)
	if err := b.Put(t.Context(), d, remotetest.From(data, nil)); err != nil {
		t.Fatal(err)
	}
	if got, err := remotetest.Fetch(t.Context(), open(t, a, remotetest.Token(trunk)), d); err != nil || !bytes.Equal(got, data) {
		t.Errorf("comes back with %d bytes, %v", len(got), err)
	}
	if a.Asked["PUT block"] != 11 || a.Asked["PUT blocklist"] != 1 {
		t.Errorf("asked %v", a.Asked)
	}
	_, short := remotetest.Blob(t, 2, 3<<20)
	if err := b.Put(t.Context(), short, remotetest.From(data[:2<<20], nil)); err == nil {
		t.Error("a short blob was stored")
	}
	if _, err := remotetest.Fetch(t.Context(), b, short); err == nil {
		t.Error("a short blob is there")
	}
}

// A branch reads what its base branch wrote, and what it writes is its own.
func TestBranches(t *testing.T) {
	a := remotetest.NewActions(t)
	keys, _ := fill(t, open(t, a, remotetest.Token(trunk)), "trunk", 5)
	branch := remotetest.Token("refs/heads/b", trunk)
	b := open(t, a, branch)
	if n := remotetest.Found(t, b, keys); n != 5 {
		t.Fatalf("the branch sees %d of 5", n)
	}
	more, _ := fill(t, b, "branch", 3)
	if n := remotetest.Found(t, open(t, a, branch), append(more, keys...)); n != 8 {
		t.Errorf("the branch sees %d of 8", n)
	}
	if n := remotetest.Found(t, open(t, a, remotetest.Token(trunk)), append(more, keys...)); n != 5 {
		t.Errorf("the trunk sees %d of 8", n)
	}
	if n := remotetest.Found(t, open(t, a, remotetest.Token("refs/heads/other")), keys); n != 0 {
		t.Errorf("an unrelated branch sees %d", n)
	}
	// Scopes are apart too, also where one begins like another.
	o := Options{URL: a.URL, Token: remotetest.Token(trunk), Scope: "strak", Now: time.Now}
	other, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if n := remotetest.Found(t, other, keys); n != 0 {
		t.Errorf("another scope sees %d", n)
	}
}

// Two jobs that began together keep both what they found out.
func TestTwoJobsAtOnce(t *testing.T) {
	a := remotetest.NewActions(t)
	token := remotetest.Token(trunk)
	one, two := open(t, a, token), open(t, a, token)
	remotetest.Found(t, one, nil)
	remotetest.Found(t, two, nil)
	keys, _ := fill(t, one, "one", 4)
	more, _ := fill(t, two, "two", 4)
	if n := remotetest.Found(t, open(t, a, token), append(more, keys...)); n != 8 {
		t.Errorf("%d of 8 are found", n)
	}
}

// Of jobs that write an index at the same moment none loses what it found out, whichever entry the service calls the newest.
func TestManyJobsAtOnce(t *testing.T) {
	for _, finished := range []bool{false, true} {
		a := remotetest.NewActions(t)
		a.Finished = finished
		token := remotetest.Token("refs/heads/b", trunk)
		fill(t, open(t, a, remotetest.Token(trunk)), "trunk", 2)
		var jobs sync.WaitGroup
		for i := range 6 {
			jobs.Go(func() {
				b := open(t, a, token)
				for j := range 2 {
					putOne(t, b, i*2+j)
				}
			})
		}
		jobs.Wait()
		if n := remotetest.Found(t, open(t, a, token), keysOf(12)); n != 12 {
			t.Errorf("%d of 12 are found; finished: %t", n, finished)
		}
		fill(t, open(t, a, remotetest.Token(trunk)), "more", 2)
		created := a.Created
		if putOne(t, open(t, a, token), 12); a.Created-created != 2 {
			t.Errorf("a job alone makes %d entries", a.Created-created)
		}
	}
}

// putOne stores a small blob and the entry number i of keysOf.
func putOne(t *testing.T, b *Backend, i int) {
	data, d := remotetest.Blob(t, byte(i), 300+i)
	err := b.Put(t.Context(), d, remotetest.From(data, nil))
	if err == nil {
		err = b.Commit(t.Context(), []remote.Entry{remotetest.Entry(fmt.Sprint(i), d)}, true)
	}
	if err != nil {
		t.Error(err)
	}
}

// A job that is killed while it makes an index is waited for, but not for ever; one that is only slow loses nothing, nor do others.
func TestSlowJobs(t *testing.T) {
	for _, finished := range []bool{false, true} {
		a := remotetest.NewActions(t)
		a.Finished = finished
		token := remotetest.Token(trunk)
		slow := open(t, a, token)
		putOne(t, slow, 0)
		began, goOn := make(chan struct{}), make(chan struct{})
		var held atomic.Bool
		a.Before = func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/FinalizeCacheEntryUpload") && held.CompareAndSwap(false, true) {
				close(began)
				<-goOn
			}
			return false
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := slow.Commit(t.Context(), []remote.Entry{remotetest.Entry("1", blobOf(t))}, true); err != nil {
				t.Error(err)
			}
		}()
		<-began
		quick := open(t, a, token)
		quick.patience = 50 * time.Millisecond
		if err := quick.Commit(t.Context(), []remote.Entry{remotetest.Entry("2", blobOf(t))}, true); err != nil {
			t.Error(err)
		}
		if n := remotetest.Found(t, open(t, a, token), keysOf(3)); n != 2 {
			t.Errorf("%d of 2 are found beside a job that does not go on", n)
		}
		close(goOn)
		<-done
		if n := remotetest.Found(t, open(t, a, token), keysOf(3)); n != 3 {
			t.Errorf("%d of 3 are found; finished: %t", n, finished)
		}
	}
}

// blobOf describes the blob of putOne(0).
func blobOf(t *testing.T) v1.Descriptor {
	_, d := remotetest.Blob(t, 0, 300)
	return d
}

// While a build goes on, indexes are written now and then only.
func TestFewEntries(t *testing.T) {
	a := remotetest.NewActions(t)
	now := time.Unix(1_700_000_000, 0)
	b := open(t, a, remotetest.Token(trunk))
	b.opt.Now = func() time.Time { return now }
	for i := range 300 {
		now = now.Add(time.Second)
		data, d := remotetest.Blob(t, byte(i), 50+i)
		if err := b.Put(t.Context(), d, remotetest.From(data, nil)); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(t.Context(), []remote.Entry{remotetest.Entry(fmt.Sprint(i), d)}, false); err != nil {
			t.Fatal(err)
		}
	}
	if a.Created < 10 || a.Created > 14 {
		t.Errorf("300 steps in 5 minutes make %d entries of the service", a.Created)
	}
	if err := b.Commit(t.Context(), nil, true); err != nil {
		t.Error(err)
	}
	if n := remotetest.Found(t, open(t, a, remotetest.Token(trunk)), keysOf(300)); n != 300 {
		t.Errorf("%d of 300 are found", n)
	}
}

func keysOf(n int) []cache.Key {
	var keys []cache.Key
	for i := range n {
		keys = append(keys, cache.NewKey([]cache.Part{{Name: "arg", Value: fmt.Sprint(i)}}))
	}
	return keys
}

func TestLimitOfNewEntries(t *testing.T) {
	a := remotetest.NewActions(t)
	a.Limit = 2
	b := open(t, a, remotetest.Token(trunk))
	for i := range 3 {
		data, d := remotetest.Blob(t, byte(i), 2<<20)
		if err := b.Put(t.Context(), d, remotetest.From(data, nil)); err != nil {
			t.Fatal(err)
		}
	}
	// Asked once more, a second later, as the service says, and no sooner.
	if a.Created != 3 || a.Refused != 1 {
		t.Errorf("%d made, %d refused", a.Created, a.Refused)
	}
	b.opt.Timeout = 100 * time.Millisecond
	a.Limit = 1
	data, d := remotetest.Blob(t, 50, 2<<20)
	if err := b.Put(t.Context(), d, remotetest.From(data, nil)); err == nil {
		t.Error("it was waited for longer than storing may take")
	}
}

// What the service dropped is a miss, and is stored again.
func TestDroppedBlobs(t *testing.T) {
	a := remotetest.NewActions(t)
	token := remotetest.Token(trunk)
	keys, entries := fill(t, open(t, a, token), "x", 4)
	if a.Drop("strake-pack-") != 1 {
		t.Fatal(a.Keys())
	}
	b := open(t, a, token)
	if n := remotetest.Found(t, b, keys); n != 0 {
		t.Errorf("%d entries without blobs", n)
	}
	if _, err := remotetest.Fetch(t.Context(), b, entries[0].Blob); err == nil {
		t.Error("a dropped blob is there")
	}
	fill(t, b, "x", 4)
	if n := remotetest.Found(t, open(t, a, token), keys); n != 4 {
		t.Errorf("%d of 4 after they were stored again", n)
	}
}

func TestHostileIndexes(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"empty":   func([]byte) []byte { return nil },
		"cut":     func(b []byte) []byte { return b[:len(b)/2] },
		"garbage": func([]byte) []byte { return []byte("no gzip") },
	} {
		a := remotetest.NewActions(t)
		token := remotetest.Token(trunk)
		keys, _ := fill(t, open(t, a, token), "x", 4)
		a.Replace("strake-index-", change)
		b := open(t, a, token)
		if n := remotetest.Found(t, b, keys); n != 0 {
			t.Errorf("%s: %d entries", name, n)
		}
		fill(t, b, "x", 4)
		if n := remotetest.Found(t, open(t, a, token), keys); n != 4 {
			t.Errorf("%s: %d of 4 after the next build", name, n)
		}
	}
}

func TestServicesThatFail(t *testing.T) {
	data, d := remotetest.Blob(t, 1, 2<<20)
	t.Run("read only", func(t *testing.T) {
		a := remotetest.NewActions(t)
		b := open(t, a, remotetest.Token("", trunk))
		for range 3 {
			if err := b.Put(t.Context(), d, remotetest.From(data, nil)); err == nil || !strings.Contains(err.Error(), "may not write the cache") {
				t.Errorf("got %v", err)
			}
		}
		if a.Asked["CreateCacheEntry"] != 1 {
			t.Errorf("asked %v", a.Asked)
		}
	})
	t.Run("bad token", func(t *testing.T) {
		a := remotetest.NewActions(t)
		_, err := open(t, a, "hunter2").Records(t.Context(), keysOf(1))
		if err == nil || !strings.Contains(err.Error(), "does not take the token") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("addresses that ran out", func(t *testing.T) {
		a := remotetest.NewActions(t)
		b := open(t, a, remotetest.Token(trunk))
		if err := b.Put(t.Context(), d, remotetest.From(data, nil)); err != nil {
			t.Fatal(err)
		}
		var n atomic.Int32
		a.Before = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || n.Add(1) > 1 {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		if got, err := remotetest.Fetch(t.Context(), b, d); err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	})
	t.Run("secrets stay", func(t *testing.T) {
		a := remotetest.NewActions(t)
		b := open(t, a, remotetest.Token(trunk))
		a.Before = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			panic(http.ErrAbortHandler)
		}
		err := b.Put(t.Context(), d, remotetest.From(data, nil))
		if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "e30.") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("silent", func(t *testing.T) {
		a := remotetest.NewActions(t)
		end := make(chan struct{})
		defer close(end)
		a.Before = func(http.ResponseWriter, *http.Request) bool { <-end; return true }
		b := open(t, a, remotetest.Token(trunk))
		b.opt.Timeout = 100 * time.Millisecond
		if err := b.Put(t.Context(), d, remotetest.From(data, nil)); err == nil || !strings.Contains(err.Error(), "timeout=100ms") {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := b.Records(ctx, keysOf(3)); err == nil {
			t.Error("no error")
		}
	})
	t.Run("worse addresses", func(t *testing.T) {
		b := open(t, remotetest.NewActions(t), "t")
		b.service.base.Scheme = "https"
		for _, s := range []string{"http://x/", "file:///etc/passwd", "", "https:", "//x/"} {
			if u, err := b.service.address(s); err == nil {
				t.Errorf("%q is taken as %s", s, u)
			}
		}
	})
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no url":        {Token: "t"},
		"no token":      {URL: "https://x/"},
		"scope":         {URL: "https://x/", Token: "t", Scope: "a,b"},
		"long scope":    {URL: "https://x/", Token: "t", Scope: strings.Repeat("x", 300)},
		"url of a file": {URL: "file:///x", Token: "t"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzDecodeIndex(f *testing.F) {
	_, d := remotetest.Blob(f, 1, 10)
	x := index{}.merge([]remote.Entry{remotetest.Entry("a", d)}, nil, time.Unix(1_700_000_000, 0))
	raw, err := encodeIndex(x)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		x, err := decodeIndex(raw)
		if err != nil {
			return
		}
		for d, p := range x.packed {
			if p.Offset < 0 || !packKey.MatchString(p.Pack) {
				t.Errorf("%s is at %+v", d, p)
			}
		}
		if _, err := encodeIndex(x.merge(nil, nil, time.Unix(1_700_000_000, 0))); err != nil {
			t.Error(err)
		}
	})
}

// A thousand lookups are one index.
func BenchmarkRecords(b *testing.B) {
	a := remotetest.NewActions(b)
	c := open(b, a, remotetest.Token(trunk))
	var entries []remote.Entry
	for i := range 1000 {
		data, d := remotetest.Blob(b, byte(i), 100+i/256)
		if err := c.Put(b.Context(), d, remotetest.From(data, nil)); err != nil {
			b.Fatal(err)
		}
		entries = append(entries, remotetest.Entry(fmt.Sprint(i), d))
	}
	if err := c.Commit(b.Context(), entries, true); err != nil {
		b.Fatal(err)
	}
	keys := keysOf(1000)
	for b.Loop() {
		if got, err := open(b, a, remotetest.Token(trunk)).Records(b.Context(), keys); err != nil || len(got) != len(keys) {
			b.Fatal(len(got), err)
		}
	}
}
