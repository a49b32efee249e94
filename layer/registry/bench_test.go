package registry

import (
	"context"
	"io"
	"testing"

	"github.com/strake-build/strake/layer/registry/registrytest"
)

// zeros is a source of n bytes that costs nothing.
func zeros(n int64) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(zero{}, n)), nil
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// BenchmarkBlob pushes and pulls 64 MiB; the registry's own hashing and disk are in it.
func BenchmarkBlob(b *testing.B) {
	const size = 64 << 20
	r := registrytest.Start(b, registrytest.Config{})
	c := New(Options{})
	defer c.closeIdle()
	repo, err := parseRepository(r.Host + "/bench")
	if err != nil {
		b.Fatal(err)
	}
	d, err := c.PushBlob(b.Context(), repo, Upload{Open: zeros(size)})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("push", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			if _, err := c.PushBlob(b.Context(), repo, Upload{Open: zeros(size)}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("pull", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			blob, err := c.FetchBlob(b.Context(), repo.Name(), d)
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, blob); err != nil || n != size {
				b.Fatal(n, err)
			}
			_ = blob.Close()
		}
	})
	b.Run("exists", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.PushBlob(b.Context(), repo, Upload{Known: &d}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
