package remote_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// hung takes no byte, and does not answer.
type hung struct{ remote.Backend }

func (hung) Name() string { return "cache that hangs" }

func (hung) Put(ctx context.Context, _ v1.Descriptor, _ func(context.Context) (io.ReadCloser, error)) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func (hung) Commit(context.Context, []remote.Entry, bool) error { return nil }

// made is a step whose layer is a blob that is here.
func made(t *testing.T, blobs *blob.Store, name string) remote.Made {
	t.Helper()
	data, d := blobOf(t, name)
	if _, err := blobs.PutBytes(data); err != nil {
		t.Fatal(err)
	}
	return remote.Made{
		Key: cache.NewKey([]cache.Part{{Name: "arg", Value: name}}), Name: "RUN " + name, Created: now(), Result: true,
		Layer: func(context.Context) (v1.Hash, image.Layer, error) {
			return remote.Chain(nil), image.Layer{DiffID: hashOf(t, "tar"+name), Blob: &d}, nil
		},
	}
}

// A server that hangs costs its time once and one warning; the others get all, and only a strict one fails the build.
func TestHungUploads(t *testing.T) {
	for _, strict := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) { hungUploads(t, strict) })
	}
}

func hungUploads(t *testing.T, strict bool) {
	const stall = 30 * time.Second
	blobs, err := blob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var warnings []string
	dir := filepath.Join(t.TempDir(), "good")
	u := &remote.Uploads{Layers: &image.Layers{Blobs: blobs}, Temp: t.TempDir(), Stall: stall, Warn: func(s string) { warnings = append(warnings, s) }}
	u.Add(remote.Target{Backend: hung{}, Encoder: compress.Gzip.Encoder(), Strict: strict})
	u.Add(remote.Target{Backend: &remote.Local{Dir: dir, Tag: "latest", Now: now}, Encoder: compress.Gzip.Encoder()})
	u.Start(t.Context())
	start := time.Now()
	for _, n := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		u.Send(made(t, blobs, n))
	}
	err = u.Close(t.Context(), time.Minute, time.Second)
	if took := time.Since(start); took != stall || strict != (err != nil) {
		t.Errorf("strict %v: %v after %v", strict, err, took)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "hangs") {
		t.Errorf("warnings %q", warnings)
	}
	if got := namesOf(t, &remote.Local{Dir: dir, Tag: "latest"}); len(got) != 8 {
		t.Errorf("got %v", got)
	}
}

// After an interruption uploads have a moment; what was sent is found.
func TestInterruptedUploads(t *testing.T) {
	synctest.Test(t, interruptedUploads)
}

func interruptedUploads(t *testing.T) {
	const grace = 5 * time.Second
	blobs, err := blob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "good")
	u := &remote.Uploads{Layers: &image.Layers{Blobs: blobs}, Temp: t.TempDir(), Warn: func(string) {}}
	u.Add(remote.Target{Backend: &remote.Local{Dir: dir, Tag: "latest", Now: now}, Encoder: compress.Gzip.Encoder()})
	ctx, interrupt := context.WithCancelCause(t.Context())
	u.Start(ctx)
	u.Send(made(t, blobs, "quick"))
	slow := made(t, blobs, "slow")
	slow.Layer = func(ctx context.Context) (v1.Hash, image.Layer, error) {
		<-ctx.Done()
		return v1.Hash{}, image.Layer{}, context.Cause(ctx)
	}
	u.Send(slow)
	interrupt(errors.New("interrupted"))
	start := time.Now()
	if err := u.Close(ctx, time.Hour, grace); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took != grace {
		t.Errorf("it took %v", took)
	}
	if got := namesOf(t, &remote.Local{Dir: dir, Tag: "latest"}); len(got) != 1 || got[0] != "quick" {
		t.Errorf("got %v", got)
	}
}
