// Package remote keeps what the cache knows, and the layers that it leads to, somewhere else: in a registry, in a
// folder, in an image, or wherever a Backend puts it.
//
// A back end is storage and no judge: who wrote it may be hostile, and what comes from it is checked here and where
// layers are unpacked. What cannot be had or is not what it should be is a miss.
package remote

import (
	"context"
	"errors"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache"
)

// ErrNotFound is wrapped by the errors of Open for a blob that the back end does not hold, and of Records for a cache that
// is not there.
var ErrNotFound = errors.New("not in the remote cache")

// Backend keeps entries by key and blobs by digest. Its methods are called concurrently. They end soon after their
// context does, and give up by themselves on a server that does not answer.
type Backend interface {
	// Name is what warnings call it, like "registry example.org/app:cache". It holds no secret.
	Name() string
	// Records returns the entries that it has for some of keys, in any order and in as few requests as the medium
	// allows. A key that it does not have, and one whose entry it cannot read, is left out; an error is that it could
	// not be asked at all, and does not exclude entries; it wraps ErrNotFound if there is no cache yet. Entries come from DecodeEntries or were checked by Entry.Check.
	// It may return entries of other keys too.
	Records(ctx context.Context, keys []cache.Key) ([]Entry, error)
	// Open streams a blob that an entry names. Size and digest are checked by who reads.
	Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
	// Put stores a blob unless it is there already; then open is not called. open may be called again for another
	// attempt, and gives bytes that have d's size and digest.
	Put(ctx context.Context, d v1.Descriptor, open func(ctx context.Context) (io.ReadCloser, error)) error
	// Commit makes entries findable whose blobs were Put or found by Put. It is called with the new ones only, as the
	// build goes on and a last time after it, never twice at once; a medium that keeps all in one document adds them to
	// what it has. last says that none will follow.
	Commit(ctx context.Context, entries []Entry, last bool) error
}

// Located is a Backend that keeps blobs in a repository of a registry, which other repositories there can take them from.
type Located interface {
	Backend
	// Repository is "host/name".
	Repository() string
}
