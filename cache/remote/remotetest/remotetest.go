// Package remotetest is for tests of back ends of the remote cache: what every one of them must do, and servers to try
// them with.
package remotetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
)

// Blob returns size bytes that compress badly, which the seed decides, and their descriptor.
func Blob(t testing.TB, seed byte, size int) ([]byte, v1.Descriptor) {
	t.Helper()
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	h, n, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return b, v1.Descriptor{MediaType: types.OCILayer, Digest: h, Size: n}
}

// Entry returns an entry of that name for a blob.
func Entry(name string, d v1.Descriptor) remote.Entry {
	return remote.Entry{
		Key: cache.NewKey([]cache.Part{{Name: "arg", Value: name}}), Below: remote.Chain(nil), DiffID: d.Digest, Blob: d,
		Created: time.Unix(1_700_000_000, 0).UTC(), Name: "RUN " + name,
	}
}

// From opens b, and counts that in opened if it is not nil.
func From(b []byte, opened *atomic.Int32) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		if opened != nil {
			opened.Add(1)
		}
		return io.NopCloser(bytes.NewReader(b)), nil
	}
}

// Fetch reads a blob.
func Fetch(ctx context.Context, b remote.Backend, d v1.Descriptor) ([]byte, error) {
	r, err := b.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

// Found says how many of keys a back end has.
func Found(t testing.TB, b remote.Backend, keys []cache.Key) int {
	t.Helper()
	got, err := b.Records(t.Context(), keys)
	if err != nil {
		t.Fatal(err)
	}
	return len(got)
}

// Exercise tries what every back end must do. open gives another client of the same store, which is empty at first.
func Exercise(t *testing.T, open func() remote.Backend) {
	t.Helper()
	ctx := t.Context()
	const n = 40
	one := open()
	var blobs [n][]byte
	var entries []remote.Entry
	keys := []cache.Key{cache.NewKey([]cache.Part{{Name: "never", Value: "built"}})}
	for i := range n {
		size := 1 + i*i*1000
		data, d := Blob(t, byte(i), size)
		blobs[i] = data
		entries = append(entries, Entry(fmt.Sprint("step ", i), d))
		keys = append(keys, entries[i].Key)
	}
	if got, err := one.Records(ctx, keys); err != nil && !errors.Is(err, remote.ErrNotFound) || len(got) != 0 {
		t.Fatalf("an empty store gives %d entries, %v", len(got), err)
	}
	if _, err := Fetch(ctx, one, entries[0].Blob); !errors.Is(err, remote.ErrNotFound) {
		t.Errorf("a blob that is not there: %v", err)
	}
	var group sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range n {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := one.Put(ctx, entries[i].Blob, From(blobs[i], nil)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if err := one.Commit(ctx, entries[:n/2], false); err != nil {
		t.Fatal(err)
	}
	if err := one.Commit(ctx, entries[n/2:], true); err != nil {
		t.Fatal(err)
	}
	two := open()
	check(ctx, t, two, keys, entries, blobs[:])
	var opened atomic.Int32
	for i := range n {
		if err := two.Put(ctx, entries[i].Blob, From(blobs[i], &opened)); err != nil {
			t.Error(err)
		}
	}
	if opened.Load() != 0 {
		t.Errorf("%d blobs were stored a second time", opened.Load())
	}
	// Another one for a key that is there already replaces it; the others stay.
	data, d := Blob(t, 200, 5000)
	changed := Entry("step 3", d)
	if err := two.Put(ctx, d, From(data, nil)); err != nil {
		t.Fatal(err)
	}
	if err := two.Commit(ctx, []remote.Entry{changed}, true); err != nil {
		t.Fatal(err)
	}
	entries[3], blobs[3] = changed, data
	check(ctx, t, open(), keys, entries, blobs[:])
	stopped, stop := context.WithCancel(ctx)
	stop()
	if _, err := open().Records(stopped, keys); err == nil {
		t.Error("lookups go on after their context")
	}
}

func check(ctx context.Context, t *testing.T, b remote.Backend, keys []cache.Key, want []remote.Entry, blobs [][]byte) {
	t.Helper()
	got, err := b.Records(ctx, keys)
	if err != nil {
		t.Fatal(err)
	}
	found := map[cache.Key]remote.Entry{}
	for _, e := range got {
		found[e.Key] = e
	}
	if _, ok := found[keys[0]]; ok {
		t.Error("a key that was never stored is found")
	}
	for i, e := range want {
		g, ok := found[e.Key]
		if !ok || g.Blob.Digest != e.Blob.Digest || g.Blob.Size != e.Blob.Size || g.DiffID != e.DiffID || g.Name != e.Name || !g.Created.Equal(e.Created) {
			t.Errorf("entry %d comes back as %+v", i, g)
			continue
		}
		if data, err := Fetch(ctx, b, g.Blob); err != nil || !bytes.Equal(data, blobs[i]) {
			t.Errorf("blob %d comes back with %d bytes, %v", i, len(data), err)
		}
	}
}

// Program finds a server that .ci/deps installs, in bin or where Debian has it; without it the test is skipped, or fails where
// all tests must run.
func Program(t testing.TB, name string) string {
	t.Helper()
	places := []string{filepath.Join("/usr/sbin", name)} // which is not in everybody's PATH
	for dir, n := ".", 0; n < 20; dir, n = filepath.Join("..", dir), n+1 {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			places = append(places, filepath.Join(dir, "bin", name))
			break
		}
	}
	for _, p := range places {
		if _, err := os.Stat(p); err != nil {
			continue
		}
		path, err := filepath.Abs(p)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatalf("there is no %s; .ci/deps all installs it", name)
	}
	t.Skipf("there is no %s; .ci/deps all installs it", name)
	return ""
}

// Address returns an address on loopback for a server that sets SO_REUSEADDR, as they do. Until the test ends, a socket that
// does not listen keeps the kernel from giving the port to others, who just want any.
func Address(t testing.TB) string {
	t.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(socket) })
	err = errors.Join(
		unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
	)
	if err != nil {
		t.Fatal(err)
	}
	address, err := unix.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", address.(*unix.SockaddrInet4).Port)
}

// Start runs a server until the test ends, and returns when it listens at address.
func Start(t testing.TB, address string, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	var end error // once it has ended
	go func() {
		end = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended // it was killed
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, out.String())
		}
	})
	for range 2400 {
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %v\n%s", cmd.Path, end, out.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not listen", cmd.Path)
}
