package cachemount_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
)

// storage is a remote.Backend in memory.
type storage struct {
	mu      sync.Mutex
	entries map[cache.Key]remote.Entry
	blobs   map[v1.Hash][]byte
	puts    int
	err     error
}

func newStorage() *storage {
	return &storage{entries: map[cache.Key]remote.Entry{}, blobs: map[v1.Hash][]byte{}}
}

func (s *storage) Name() string { return "memory" }

func (s *storage) Records(_ context.Context, keys []cache.Key) (list []remote.Entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		if e, ok := s.entries[k]; ok {
			list = append(list, e)
		}
	}
	return list, s.err
}

func (s *storage) Open(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[d.Digest]
	if !ok {
		return nil, remote.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (s *storage) Put(ctx context.Context, d v1.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	r, err := open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	s.blobs[d.Digest] = b
	return err
}

func (s *storage) Commit(_ context.Context, entries []remote.Entry, _ bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		s.entries[e.Key] = e
	}
	return s.err
}

// machine is cache mounts of a machine of its own, whose caches are in s.
type machine struct {
	*cachemount.Store
	warnings []string
}

func newMachine(t *testing.T, s *storage, change ...func(*cachemount.Travel)) *machine {
	m := &machine{}
	travel := &cachemount.Travel{
		From: []remote.Backend{s}, To: []cachemount.Target{{Open: func() remote.Backend { return s }, All: true}},
		Temp: t.TempDir(), Now: time.Now, Warn: func(text string) { m.warnings = append(m.warnings, text) },
	}
	for _, f := range change {
		f(travel)
	}
	m.Store = &cachemount.Store{Dir: t.TempDir(), Travel: travel}
	return m
}

// with has do work in the directory of a mount.
func (m *machine) with(t *testing.T, id string, do func(dir string)) {
	t.Helper()
	dir, release, err := m.Open(t.Context(), cachemount.Mount{ID: id, Sharing: "shared", Mode: 0o755, UID: os.Getuid(), GID: os.Getgid(), Platform: "linux/amd64"})
	must(t, err)
	defer release()
	do(dir)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func TestTravel(t *testing.T) {
	s := newStorage()
	a := newMachine(t, s)
	when := time.Unix(1_600_000_000, 0)
	a.with(t, "go", func(dir string) {
		write(t, dir+"/x/y", "content")
		must(t, os.Symlink("/etc/passwd", dir+"/link"))
		must(t, os.Chtimes(dir+"/x/y", when, when))
	})
	a.with(t, "empty", func(string) {})
	a.Travel.Export(t.Context())
	if len(a.warnings) != 0 || len(s.entries) != 1 {
		t.Fatalf("%d entries, warnings %q", len(s.entries), a.warnings)
	}
	b := newMachine(t, s)
	b.with(t, "go", func(dir string) {
		data, err := os.ReadFile(dir + "/x/y")
		st, serr := os.Stat(dir + "/x/y")
		link, lerr := os.Readlink(dir + "/link")
		if err != nil || serr != nil || lerr != nil || string(data) != "content" || !st.ModTime().Equal(when) || link != "/etc/passwd" {
			t.Errorf("%q, %v, %q, %v, %v, %v", data, st, link, err, serr, lerr)
		}
	})
	b.with(t, "other", func(dir string) {
		if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
			t.Errorf("%v, %v", names, err)
		}
	})
	// What did not change is not sent again.
	b.Travel.Export(t.Context())
	if s.puts != 1 {
		t.Errorf("%d blobs were sent", s.puts)
	}
	b.with(t, "go", func(dir string) { write(t, dir+"/new", "1") })
	b.Travel.Export(t.Context())
	if s.puts != 2 || len(s.entries) != 1 || len(b.warnings) != 0 {
		t.Errorf("%d blobs were sent, %d entries, warnings %q", s.puts, len(s.entries), b.warnings)
	}
}

// What is here stays, and what is not comes; links that are here are not followed.
func TestMountsAreMerged(t *testing.T) {
	s := newStorage()
	a, b := newMachine(t, s), newMachine(t, s)
	outside := t.TempDir()
	a.with(t, "m", func(dir string) {
		write(t, dir+"/both/theirs", "a")
		write(t, dir+"/both/same", "a")
		write(t, dir+"/dir/x", "a")
		write(t, dir+"/link/x", "a")
		write(t, dir+"/kind/x", "a")
		write(t, dir+"/new", "a")
	})
	a.Travel.Export(t.Context())
	fill := b.Travel
	b.Travel = nil
	b.with(t, "m", func(dir string) {
		write(t, dir+"/both/same", "b")
		write(t, dir+"/both/mine", "b")
		write(t, dir+"/kind", "b")
		must(t, os.Symlink(outside, dir+"/link"))
	})
	b.Travel = fill
	check := func(dir string) {
		t.Helper()
		for name, want := range map[string]string{"both/theirs": "a", "both/same": "b", "both/mine": "b", "dir/x": "a", "kind": "b", "new": "a"} {
			if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != want {
				t.Errorf("%s: %q, %v", name, data, err)
			}
		}
	}
	b.with(t, "m", check)
	if names, err := os.ReadDir(outside); err != nil || len(names) != 0 {
		t.Errorf("outside there is %v, %v", names, err)
	}
	// Once: what is removed here does not come again, until there is something else.
	again := func() {
		m := newMachine(t, s)
		m.Dir = b.Dir
		b.Store = m.Store
	}
	b.with(t, "m", func(dir string) { must(t, os.Remove(dir+"/new")) })
	again()
	b.with(t, "m", func(dir string) {
		if _, err := os.Lstat(dir + "/new"); err == nil {
			t.Error("what was removed came again")
		}
	})
	a.with(t, "m", func(dir string) { write(t, dir+"/newer", "a") })
	a.Travel.Export(t.Context())
	again()
	b.with(t, "m", check)
	if len(a.warnings)+len(b.warnings) != 0 {
		t.Errorf("warnings %q, %q", a.warnings, b.warnings)
	}
	if left, _ := filepath.Glob(b.Dir + "/*/0/fs.*"); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
}

func TestOnlyChosenMountsTravel(t *testing.T) {
	s := newStorage()
	a := newMachine(t, s, func(m *cachemount.Travel) {
		m.To[0].All, m.To[0].IDs, m.To[0].Max = false, []string{"one", "large"}, 100_000
	})
	for _, id := range []string{"one", "two", "large"} {
		a.with(t, id, func(dir string) { write(t, dir+"/f", id) })
	}
	a.with(t, "large", func(dir string) { write(t, dir+"/g", strings.Repeat("x", 200_000)) })
	a.Travel.Export(t.Context())
	if len(s.entries) != 1 || len(a.warnings) != 1 || !strings.Contains(a.warnings[0], "large") || !strings.Contains(a.warnings[0], "mounts-max") {
		t.Errorf("%d entries, warnings %q", len(s.entries), a.warnings)
	}
}

// tape is a tar of entries, as a hostile cache has it.
func tape(t *testing.T, headers ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Size = 0
		if h.Typeflag == tar.TypeReg {
			h.Size = 1
		}
		must(t, w.WriteHeader(&h))
		if h.Size > 0 {
			_, err := w.Write([]byte("x"))
			must(t, err)
		}
	}
	must(t, w.Close())
	return b.Bytes()
}

func sha(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// What is not as its entry says, or no cache could hold, leaves the mount as if there were no cache.
func TestHostileMounts(t *testing.T) {
	good := newStorage()
	a := newMachine(t, good)
	a.with(t, "m", func(dir string) { write(t, dir+"/f", strings.Repeat("content ", 1000)) })
	a.Travel.Export(t.Context())
	var entry remote.Entry
	for _, e := range good.entries {
		entry = e
	}
	outside := t.TempDir()
	blob := func(b []byte) func(*storage) {
		return func(s *storage) {
			e := entry
			e.Blob = v1.Descriptor{MediaType: types.OCIUncompressedLayer, Digest: sha(b), Size: int64(len(b))}
			e.DiffID = sha(b)
			s.entries[e.Key], s.blobs[e.Blob.Digest] = e, b
		}
	}
	change := func(f func(b []byte) []byte) func(*storage) {
		return func(s *storage) {
			s.entries[entry.Key], s.blobs[entry.Blob.Digest] = entry, f(bytes.Clone(good.blobs[entry.Blob.Digest]))
		}
	}
	for name, prepare := range map[string]func(*storage){
		"no blob":      func(s *storage) { s.entries[entry.Key] = entry },
		"cut":          change(func(b []byte) []byte { return b[:len(b)/2] }),
		"longer":       change(func(b []byte) []byte { return append(b, 0) }),
		"changed":      change(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }),
		"empty":        change(func([]byte) []byte { return nil }),
		"block device": blob(tape(t, tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 8})),
		"device":       blob(tape(t, tar.Header{Name: "f", Typeflag: tar.TypeReg}, tar.Header{Name: "mem", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 1})),
		"broken":       blob([]byte(strings.Repeat("garbage", 1000))),
		"huge":         func(s *storage) { e := entry; e.Blob.Size = 2 << 30; s.entries[e.Key] = e },
		"wrong content": func(s *storage) {
			change(func(b []byte) []byte { return b })(s)
			e := entry
			e.DiffID = sha(nil)
			s.entries[e.Key] = e
		},
		"no answer": func(s *storage) { s.err = errors.New("broken") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStorage()
			prepare(s)
			m := newMachine(t, s)
			m.with(t, "m", func(dir string) {
				if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
					t.Errorf("it holds %v, %v", names, err)
				}
			})
			if len(m.warnings) != 1 || !strings.Contains(m.warnings[0], "the cache mount m: reading memory") {
				t.Errorf("warnings %q", m.warnings)
			}
		})
	}
	t.Run("links out", func(t *testing.T) {
		s := newStorage()
		blob(tape(t, tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside}, tar.Header{Name: "out/f", Typeflag: tar.TypeReg, Mode: 0o644},
			tar.Header{Name: "../../../up", Typeflag: tar.TypeReg, Mode: 0o644}))(s)
		m := newMachine(t, s)
		m.with(t, "m", func(string) {})
		if names, err := os.ReadDir(outside); err != nil || len(names) != 0 {
			t.Errorf("outside there is %v, %v", names, err)
		}
		if _, err := os.Lstat(filepath.Join(m.Dir, "..", "up")); err == nil {
			t.Error("a file above the mount")
		}
	})
	t.Run("too much", func(t *testing.T) {
		m := newMachine(t, good, func(m *cachemount.Travel) { m.Max = 5000 })
		m.with(t, "m", func(dir string) {
			if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
				t.Errorf("it holds %v, %v", names, err)
			}
		})
		if len(m.warnings) != 1 || !strings.Contains(m.warnings[0], "larger than the limit") {
			t.Errorf("warnings %q", m.warnings)
		}
	})
}
