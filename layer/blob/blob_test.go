package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/lease"
)

func open(t *testing.T, dir string) *blob.Store {
	t.Helper()
	s, err := blob.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func digest(b string) v1.Hash {
	d := sha256.Sum256([]byte(b))
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(d[:])}
}

// temporaries lists what is in the folder for unfinished blobs.
func temporaries(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPutAndRead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx := t.Context()
	h := digest("hello")
	if err := s.Put(ctx, h, strings.NewReader("hello")); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(ctx, h, strings.NewReader("hello")); err != nil {
		t.Fatal("again:", err)
	}
	b, err := s.ReadAll(h)
	if err != nil || string(b) != "hello" {
		t.Fatalf("ReadAll = %q, %v", b, err)
	}
	if n, err := s.Size(h); n != 5 || err != nil {
		t.Fatalf("Size = %d, %v", n, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "sha256", h.Hex)); err != nil {
		t.Fatal("not in the OCI layout:", err)
	}
	if h2, err := s.PutBytes([]byte("hello")); h2 != h || err != nil {
		t.Fatalf("PutBytes = %s, %v", h2, err)
	}
	var seen []v1.Hash
	if err := s.Walk(func(h v1.Hash, size int64) error { seen = append(seen, h); return nil }); err != nil || len(seen) != 1 || seen[0] != h {
		t.Fatalf("Walk: %v, %v", seen, err)
	}
	for range 2 {
		if err := s.Remove(h); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Open(h); !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("Open after Remove: %v", err)
	}
	if _, err := s.Size(h); !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("Size after Remove: %v", err)
	}
	if _, err := s.ReadAll(h); !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("ReadAll after Remove: %v", err)
	}
	if left := temporaries(t, dir); left != nil {
		t.Fatal("left:", left)
	}
}

func TestPutRefuses(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		canceled bool
		h        v1.Hash
		r        io.Reader
		want     string
	}{
		"other bytes":  {false, digest("a"), strings.NewReader("b"), digest("b").Hex},
		"short":        {false, digest("abc"), strings.NewReader("ab"), digest("abc").Hex},
		"read error":   {false, digest("a"), iotest.ErrReader(broken), "broken"},
		"canceled":     {true, digest("a"), strings.NewReader("a"), "canceled"},
		"other digest": {false, v1.Hash{Algorithm: "sha512", Hex: digest("a").Hex}, strings.NewReader("a"), "not a sha256"},
		"a path":       {false, v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("../", 21) + "x"}, strings.NewReader("a"), "not a sha256"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if c.canceled {
				ctx = canceled
			}
			err := s.Put(ctx, c.h, c.r)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Put: %v, want something with %q", err, c.want)
			}
			if err := s.Walk(func(h v1.Hash, _ int64) error { return errors.New(h.String()) }); err != nil {
				t.Fatal("stored:", err)
			}
			if left := temporaries(t, dir); left != nil {
				t.Fatal("left:", left)
			}
		})
	}
}

func TestDamagedBlob(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	h, err := s.PutBytes([]byte("good"))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"evil", "", "good and more"} {
		if err := os.WriteFile(filepath.Join(dir, "sha256", h.Hex), []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadAll(h); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Fatalf("%q: ReadAll: %v", bad, err)
		}
		if _, err := s.PutBytes([]byte("good")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadAll(h); err != nil {
			t.Fatal("PutBytes did not mend:", err)
		}
	}
}

func TestWriter(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	w, err := s.Create()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"he", "llo"} {
		if _, err := io.WriteString(w, p); err != nil {
			t.Fatal(err)
		}
	}
	h, n, err := w.Commit(v1.Hash{})
	if h != digest("hello") || n != 5 || err != nil {
		t.Fatalf("Commit = %s, %d, %v", h, n, err)
	}
	w.Discard()
	if _, err := s.ReadAll(h); err != nil {
		t.Fatal("Discard after Commit:", err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Fatal("Write after Commit is no error")
	}
	if _, _, err := w.Commit(v1.Hash{}); err == nil {
		t.Fatal("second Commit is no error")
	}

	if w, err = s.Create(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Commit(digest("x")); err == nil {
		t.Fatal("Commit of other content is no error")
	}
	if left := temporaries(t, dir); left != nil {
		t.Fatal("left:", left)
	}
}

func TestConcurrentPut(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	h := digest(string(content))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := blob.Open(dir) // which sweeps while the others write
			if err == nil {
				err = s.Put(t.Context(), h, iotest.HalfReader(bytes.NewReader(content)))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b, err := open(t, dir).ReadAll(h); err != nil || !bytes.Equal(b, content) {
		t.Fatal("ReadAll:", err)
	}
}

// TestOpenRemovesTheDeadOnly kills a process with an unfinished blob while this one has another.
func TestOpenRemovesTheDeadOnly(t *testing.T) {
	const variable = "STRAKE_TEST_BLOB_DIR"
	if dir := os.Getenv(variable); dir != "" {
		w, err := open(t, dir).Create()
		if err == nil {
			_, err = w.Write([]byte("half"))
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("ready\n")
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed, or the test is gone; a select would be a deadlock, and end it
		return
	}
	dir := t.TempDir()
	s := open(t, dir)
	w, err := s.Create()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Discard()

	cmd := exec.Command(os.Args[0], "-test.run=^TestOpenRemovesTheDeadOnly$")
	cmd.Env = append(os.Environ(), variable+"="+dir)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal("the helper did not start:", err)
	}
	open(t, dir)
	if n := len(temporaries(t, dir)); n != 2 {
		t.Fatalf("%d temporary files beside two writers", n)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	open(t, dir)
	if n := len(temporaries(t, dir)); n != 1 {
		t.Fatalf("%d temporary files beside one writer", n)
	}
	if _, err := w.Write([]byte("alive")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Commit(digest("alive")); err != nil {
		t.Fatal(err)
	}
}

// TestLease removes blobs from a store that another process uses.
func TestLease(t *testing.T) {
	dir := t.TempDir()
	process := func() *blob.Store {
		t.Helper()
		s, err := blob.Open(dir)
		if err == nil {
			s.Lease, err = lease.Open(dir + "/leases")
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	put := func(s *blob.Store, text string) v1.Hash {
		t.Helper()
		h, err := s.PutBytes([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	s := process()
	sized, opened, again, free := put(s, "sized"), put(s, "opened"), put(s, "again"), put(s, "free")
	s.Lease.Release()
	user := process()
	if _, err := user.Size(sized); err != nil {
		t.Error(err)
	}
	if f, err := user.Open(opened); err != nil || f.Close() != nil {
		t.Error(err)
	}
	put(user, "again")
	w, err := user.Create()
	if err == nil {
		_, err = w.Write([]byte("written"))
	}
	if err != nil {
		t.Fatal(err)
	}
	written, _, err := w.Commit(v1.Hash{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Lease.Collect()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for h, want := range map[v1.Hash]bool{sized: false, opened: false, again: false, written: false, free: true} {
		if gone, err := s.Collect(c, h); err != nil || gone != want {
			t.Errorf("removed: %t, %v; want %t", gone, err, want)
		}
		if _, err := s.Size(h); (err != nil) != want {
			t.Errorf("after that: %v", err)
		}
	}
}
