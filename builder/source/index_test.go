package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// records reads an index as the names in it.
func records(t testing.TB, name, dir string) map[string]Digest {
	t.Helper()
	out := map[string]Digest{}
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return out
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Stat(dir, &st)
	}
	var x *index
	if err == nil {
		x, err = parseIndex(b, st.Ino)
	}
	if err != nil {
		t.Fatal(err)
	}
	for p, b := range x.dirs {
		var r record
		for b, ok := r.next(b); ok; b, ok = r.next(b) {
			out[join(p, string(r.name))] = r.sum
		}
	}
	return out
}

// build digests patterns with an index, as one build does, and says whether the index was written.
func build(t testing.TB, dir, index string, patterns ...string) (sum Digest, written bool) {
	t.Helper()
	return buildAt(t, nil, dir, index, patterns...)
}

// buildAt is build at a time, or now if that is nil.
func buildAt(t testing.TB, now func() time.Time, dir, index string, patterns ...string) (sum Digest, written bool) {
	t.Helper()
	var before, after unix.Stat_t
	_ = unix.Stat(index, &before)
	tr, err := Open(dir, Options{ResetOwner: true, Index: index, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	sum = digest(t, tr, patterns...)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	_ = unix.Stat(index, &after)
	if tmp, _ := filepath.Glob(index + ".tmp*"); len(tmp) > 0 {
		t.Errorf("%v left behind", tmp)
	}
	return sum, before.Ino != after.Ino || before.Mtim != after.Mtim
}

// rest waits until what was written is no longer racy. Files get the time of the kernel's last tick, which comes late where a machine is busy.
func rest(t testing.TB) {
	t.Helper()
	tick := func() time.Time {
		name := filepath.Join(t.TempDir(), "now")
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return fi.ModTime()
	}
	for before := tick(); tick().Sub(before) < 2*granule; {
		time.Sleep(granule)
	}
}

func TestIndex(t *testing.T) {
	dir, index := t.TempDir(), filepath.Join(t.TempDir(), "index")
	tree(t, dir, map[string]string{"a": "a", "d/f": "f", "d/s/g": "g", "d/l->": "f", "e/h": "h", "e/i/j": "j"})
	rest(t)
	plain := func(patterns ...string) Digest {
		return digest(t, open(t, dir, Options{ResetOwner: true}), patterns...)
	}
	check := func(what string, write bool, names string, patterns ...string) {
		t.Helper()
		sum, written := build(t, dir, index, patterns...)
		if sum != plain(patterns...) {
			t.Errorf("%s: the index changes the digest", what)
		}
		if written != write {
			t.Errorf("%s: written %v", what, written)
		}
		got := records(t, index, dir)
		if want := strings.Fields(names); len(got) != len(want) {
			t.Errorf("%s: %d records %v, want %v", what, len(got), got, want)
		}
		for _, name := range strings.Fields(names) {
			if _, ok := got[name]; !ok {
				t.Errorf("%s: no record of %s", what, name)
			}
		}
	}
	check("first", true, "d/f d/s d/s/g d/l", "d")
	check("again", false, "d/f d/s d/s/g d/l", "d")
	check("another part", true, "d/f d/s d/s/g d/l e/h e/i e/i/j", "e")
	check("one file", true, "a d/f d/s d/s/g d/l e/h e/i e/i/j", "a")
	check("one file again", false, "a d/f d/s d/s/g d/l e/h e/i e/i/j", "a")
	all := "a d d/f d/s d/s/g d/l e e/h e/i e/i/j"
	check("all", true, all, ".")
	check("all again", false, all, ".")
	if err := os.WriteFile(filepath.Join(dir, "d/f"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	rest(t)
	check("changed", true, all, ".")
	if err := os.RemoveAll(filepath.Join(dir, "e/i")); err != nil {
		t.Fatal(err)
	}
	rest(t)
	check("removed", true, "a d d/f d/s d/s/g d/l e e/h", ".")
	if err := unix.Setxattr(filepath.Join(dir, "d/f"), "user.x", []byte("v"), 0); err != nil {
		t.Fatal(err)
	}
	rest(t)
	check("xattr", true, "a d d/f d/s d/s/g d/l e e/h", ".")
	check("xattr again", false, "a d d/f d/s d/s/g d/l e e/h", ".")
}

func TestIndexRacy(t *testing.T) {
	dir, index := t.TempDir(), filepath.Join(t.TempDir(), "index")
	tree(t, dir, map[string]string{"old": "o", "new": "x"})
	rest(t)
	if err := os.WriteFile(filepath.Join(dir, "new"), []byte("a"), 0o644); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	// The build is faster than the clock's tick, and so is who writes the file again: nothing but the content differs.
	before, _ := buildAt(t, fi.ModTime, dir, index, "new", "old")
	if _, ok := records(t, index, dir)["new"]; ok {
		t.Error("the index trusts a file that was written just before")
	}
	if _, ok := records(t, index, dir)["old"]; !ok {
		t.Error("the index does not trust a file at rest")
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), []byte("b"), 0o644); err != nil {
		t.Fatal(err)
	}
	if after, _ := build(t, dir, index, "new", "old"); after == before {
		t.Error("a change was not seen")
	}
	// A file from the future is never trusted.
	future := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "old"), future, future); err != nil {
		t.Fatal(err)
	}
	rest(t)
	build(t, dir, index, "old")
	if _, ok := records(t, index, dir)["old"]; ok {
		t.Error("the index trusts a file from the future")
	}
}

func TestIndexClock(t *testing.T) {
	dir, index := t.TempDir(), filepath.Join(t.TempDir(), "index")
	tree(t, dir, map[string]string{"a": "a"})
	rest(t)
	tr := open(t, dir, Options{Index: index, Now: func() time.Time { return time.Unix(1000, 0) }})
	digest(t, tr, "a")
	if err := tr.saveIndex(); err != nil {
		t.Fatal(err)
	}
	if r := records(t, index, dir); len(r) != 0 {
		t.Errorf("a clock before all files trusts %v", r)
	}
}

func TestIndexBad(t *testing.T) {
	dir, index := t.TempDir(), filepath.Join(t.TempDir(), "index")
	tree(t, dir, map[string]string{"a": "a", "d/f": "f"})
	rest(t)
	want, _ := build(t, dir, index, ".")
	good, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	tree(t, other, map[string]string{"a": "other"})
	rest(t)
	otherIndex := filepath.Join(t.TempDir(), "index")
	build(t, other, otherIndex, ".")
	foreign, _ := os.ReadFile(otherIndex)
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, b := range map[string][]byte{
		"empty": {}, "text": []byte("hello"), "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0),
		"flipped": flipped, "foreign": foreign, "header": []byte(indexMagic),
	} {
		if err := os.WriteFile(index, b, 0o644); err != nil {
			t.Fatal(err)
		}
		got, written := build(t, dir, index, ".")
		if got != want || !written {
			t.Errorf("%s: right digest %v, replaced %v", name, got == want, written)
		}
		if b, _ := os.ReadFile(index); !bytes.Equal(b, good) {
			t.Errorf("%s: the new index differs", name)
		}
	}
	// A place where nothing can be written is no obstacle for the digest.
	tr, err := Open(dir, Options{ResetOwner: true, Index: filepath.Join(index, "below/a/file")})
	if err != nil {
		t.Fatal(err)
	}
	if got := digest(t, tr, "."); got != want {
		t.Error("wrong digest without a place for the index")
	}
	if err := tr.Close(); err != nil {
		t.Errorf("nothing was learned that could be written: %v", err)
	}
}

func FuzzIndex(f *testing.F) {
	dir := f.TempDir()
	tree(f, dir, map[string]string{"a": "a", "b": "b", "d/f": "f", "d/s/g": "g", "d/l->": "f"})
	if err := unix.Setxattr(filepath.Join(dir, "a"), "user.x", []byte("v"), 0); err != nil {
		f.Skip(err)
	}
	rest(f)
	index := filepath.Join(f.TempDir(), "index")
	want, _ := build(f, dir, index, ".")
	good, err := os.ReadFile(index)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	f.Add(good[:len(good)-sha256.Size], true)
	f.Add([]byte(indexMagic), true)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign { // get past the checksum: nothing may panic, though the digest may be what the index says
			sum := sha256.Sum256(b)
			b = append(bytes.Clone(b), sum[:]...)
		}
		name := filepath.Join(t.TempDir(), "index")
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
		got, _ := build(t, dir, name, ".")
		if !sign && got != want {
			t.Error("a damaged index changed the digest")
		}
	})
}

// TestIndexFlips flips every byte of an index.
func TestIndexFlips(t *testing.T) {
	b := make([]byte, 0, 1000)
	w := indexWriter{b: append(b, indexMagic...)}
	w.b = append(w.b, make([]byte, 12)...)
	w.start(".")
	w.add(record{name: []byte("a"), size: 1, attrs: Digest{1}})
	w.add(record{name: []byte("b"), size: 1})
	w.end()
	w.start("empty")
	w.end()
	b = w.finish()
	if x, err := parseIndex(b, 0); err != nil || len(x.dirs) != 1 {
		t.Fatalf("%v, %v", x, err)
	}
	for i := range b {
		for range 4 {
			bad := bytes.Clone(b)
			bad[i] ^= byte(1 + rand.IntN(255))
			if _, err := parseIndex(bad, 0); err == nil {
				t.Errorf("a change of byte %d was not seen", i)
			}
		}
	}
	for i := range b {
		if _, err := parseIndex(b[:i], 0); err == nil {
			t.Errorf("an end at byte %d was not seen", i)
		}
	}
}

func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{}
	for i := range 300 {
		files[fmt.Sprintf("d%d/e%d/f%d", i%7, i%5, i)] = fmt.Sprint(i)
	}
	tree(t, dir, files)
	patterns := []string{".", "d1", "d2", "d*", "d3/e1", "d*/e2", "d0/e0/f0"}
	want := map[string]Digest{}
	for _, p := range patterns {
		want[p] = digest(t, open(t, dir, Options{}), p)
	}
	tr := open(t, dir, Options{})
	type result struct {
		pattern string
		sum     Digest
		err     error
	}
	results := make(chan result)
	for range 4 {
		for _, p := range patterns {
			go func() {
				items, err := tr.Select(context.Background(), Selection{Patterns: []string{p}})
				var sum Digest
				if err == nil {
					sum, err = tr.Digest(context.Background(), items)
				}
				results <- result{p, sum, err}
			}()
		}
	}
	for range 4 * len(patterns) {
		if r := <-results; r.err != nil || r.sum != want[r.pattern] {
			t.Errorf("%s: %v", r.pattern, r.err)
		}
	}
}

func TestCancel(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"a/b": "b"})
	tr := open(t, dir, Options{})
	items := sel(t, tr, ".")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := tr.Digest(ctx, items); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := tr.Select(ctx, Selection{Patterns: []string{"a"}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	digest(t, tr, ".") // a cancelled attempt spoils nothing
}
