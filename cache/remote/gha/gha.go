// Package gha keeps the remote cache in the cache service of GitHub Actions, version 2.
//
// The service has entries that never change, found by their key or as the newest whose key begins with something, and
// takes 200 new ones a minute from a repository. So blobs below 1 MiB are packed together, and what the cache knows is
// in an index, of which each build that adds to it writes a new one (chain.go):
//
//	strake-index-SCOPE--BRANCH-NUMBER  entries, and where their blobs are
//	strake-pack-SHA256                 small blobs, one after the other
//	strake-blob-SHA256                 one blob
//
// A job reads what jobs of its own branch wrote, then of the base branch and the default one; which of them an index is
// from decides the service.
package gha

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/wire"
)

const (
	small    = 1 << 20          // bytes of a blob that is not packed
	packSize = 16 << 20         // bytes of packed blobs after which a pack is stored
	rest     = 45 * time.Second // between indexes while the build goes on
	lookups  = 8                // at once
	// DefaultTimeout bounds each call that stores something.
	DefaultTimeout = 10 * time.Minute
	// entryVersion says what made an entry, and what its content is: the service keeps versions apart.
	entryVersion = "5da7f3b8d5f7e6e1c6d4a0ce4c3fb9fe5b0a7e0f6c2b9d1a8e3f4c5b6a7d8e01"
)

// Options say where the cache is.
type Options struct {
	URL     string        // of the service: ACTIONS_RESULTS_URL
	Token   string        // ACTIONS_RUNTIME_TOKEN
	Scope   string        // separates caches in a repository; "" is "strake"
	Timeout time.Duration // see DefaultTimeout
	Proxy   func(*http.Request) (*url.URL, error)
	Now     func() time.Time
}

// Backend is a remote.Backend.
type Backend struct {
	opt      Options
	service  service
	patience time.Duration // for an index that another job is making

	loading sync.Mutex // held while the index is fetched

	mu      sync.Mutex
	known   *index              // nil before it was fetched
	urls    map[string]*url.URL // of entries of the service; nil if there is none
	pack    []byte              // blobs that wait to be stored
	inPack  map[v1.Hash]int64   // their offsets
	packed  map[v1.Hash]place   // what this process packed and stored
	pending []remote.Entry      // committed, and not yet in an index
	written time.Time           // when the last index was
	refused error               // why nothing can be stored
}

var scopeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)

// New checks the options; it sends nothing.
func New(opt Options) (*Backend, error) {
	u, err := url.Parse(opt.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, errors.New("the gha cache needs the url of the cache service (ACTIONS_RESULTS_URL, which only actions see, not run: steps)")
	}
	if opt.Token == "" {
		return nil, errors.New("the gha cache needs a token (ACTIONS_RUNTIME_TOKEN, which only actions see, not run: steps)")
	}
	if opt.Scope == "" {
		opt.Scope = "strake"
	}
	if !scopeName.MatchString(opt.Scope) {
		return nil, fmt.Errorf("scope=%q: a scope has at most 200 letters, digits and ._/-", opt.Scope)
	}
	if opt.Timeout <= 0 {
		opt.Timeout = DefaultTimeout
	}
	client := wire.New(opt.Proxy)
	client.Patience = opt.Timeout // as long as the limit of new entries says
	return &Backend{
		opt: opt, patience: 10 * time.Second,
		service: service{base: u, token: opt.Token, client: client, single: 64 << 20, part: 16 << 20},
		urls:    map[string]*url.URL{}, inPack: map[v1.Hash]int64{}, packed: map[v1.Hash]place{},
	}, nil
}

// Name is what warnings call it.
func (b *Backend) Name() string { return "gha " + b.opt.Scope }

func blobKey(d v1.Descriptor) string { return "strake-blob-" + d.Digest.Hex }

// load returns the index, which is fetched once.
func (b *Backend) load(ctx context.Context) (index, error) {
	b.loading.Lock()
	defer b.loading.Unlock()
	b.mu.Lock()
	known := b.known
	b.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	x, _, err := b.newestIndex(ctx)
	if err != nil {
		return index{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known = &x
	return x, nil
}

// holder is the key of the service's entry that holds a blob, and where in it.
func (b *Backend) holder(x index, d v1.Descriptor) (key string, offset int64) {
	b.mu.Lock()
	p, ok := b.packed[d.Digest]
	b.mu.Unlock()
	if !ok {
		p, ok = x.packed[d.Digest]
	}
	if !ok {
		return blobKey(d), 0
	}
	return p.Pack, p.Offset
}

// locate asks once where an entry of the service is; nil is nowhere.
func (b *Backend) locate(ctx context.Context, key string) (*url.URL, error) {
	b.mu.Lock()
	u, ok := b.urls[key]
	b.mu.Unlock()
	if ok {
		return u, nil
	}
	u, err := b.service.find(ctx, key)
	if err == nil {
		b.remember(key, u)
	}
	return u, err
}

func (b *Backend) remember(key string, u *url.URL) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.urls[key] = u
}

func (b *Backend) forget(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.urls, key)
}

// Records looks into the index, and leaves out entries whose blobs the service has dropped.
func (b *Backend) Records(ctx context.Context, keys []cache.Key) ([]remote.Entry, error) {
	x, err := b.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking up the index of the cache: %w", err)
	}
	holders := map[string][]remote.Entry{}
	for _, e := range remote.Entries(x.entries, keys) {
		key, _ := b.holder(x, e.Blob)
		holders[key] = append(holders[key], e)
	}
	var mu sync.Mutex
	var found []remote.Entry
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lookups)
	for key, entries := range holders {
		group.Go(func() error {
			u, err := b.locate(ctx, key)
			if err != nil || u == nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, entries...)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return found, fmt.Errorf("looking up blobs of the cache: %w", err)
	}
	return found, nil
}

// Open streams a blob. A signed address is good for some time only, so that a second one may be needed.
func (b *Backend) Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	x, err := b.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking up the index of the cache: %w", err)
	}
	key, offset := b.holder(x, d)
	for range 2 {
		u, err := b.locate(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("fetching %s: %w", d.Digest, err)
		}
		if u == nil {
			break
		}
		r, err := b.service.download(ctx, u, offset, d.Size)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, errGone) {
			return nil, fmt.Errorf("fetching %s: %w", d.Digest, err)
		}
		b.forget(key)
	}
	return nil, fmt.Errorf("fetching %s: %w", d.Digest, remote.ErrNotFound)
}

// bounded is ctx with the time that storing may take.
func (b *Backend) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, b.opt.Timeout, fmt.Errorf("storing took longer than timeout=%s", b.opt.Timeout))
}

// Put stores a blob, or keeps a small one for a pack that Commit stores.
func (b *Backend) Put(ctx context.Context, d v1.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	x, err := b.load(ctx)
	if err != nil {
		return fmt.Errorf("looking up the index of the cache: %w", err)
	}
	b.mu.Lock()
	_, waiting := b.inPack[d.Digest]
	err = b.refused
	b.mu.Unlock()
	if waiting || err != nil {
		return err
	}
	key, _ := b.holder(x, d)
	if key != blobKey(d) || d.Size >= small {
		if u, err := b.locate(ctx, key); err != nil || u != nil {
			return err
		}
	}
	if d.Size < small {
		return b.gather(ctx, d, open)
	}
	if err := b.create(ctx, blobKey(d), d.Size, open); err != nil {
		return fmt.Errorf("storing %s: %w", d.Digest, err)
	}
	return nil
}

// create stores an entry of the service; that there is one already is what was wanted.
func (b *Backend) create(ctx context.Context, key string, size int64, open func(context.Context) (io.ReadCloser, error)) error {
	err := b.service.create(ctx, key, size, open)
	var status *wire.StatusError
	if errors.As(err, &status) && (status.Status == http.StatusForbidden || status.Status == http.StatusUnauthorized) {
		b.mu.Lock()
		b.refused = err // it will not get better: the others need not try
		b.mu.Unlock()
	}
	if err == nil || errors.Is(err, errExists) {
		b.forget(key)
		return nil
	}
	return err
}

// gather adds a small blob to the pack, and stores the pack when it is full.
func (b *Backend) gather(ctx context.Context, d v1.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	r, err := open(ctx)
	if err != nil {
		return fmt.Errorf("reading what to store: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	err = errors.Join(err, r.Close())
	if err == nil && int64(len(data)) != d.Size {
		err = fmt.Errorf("a blob of %d bytes has %d", d.Size, len(data))
	}
	if err != nil {
		return fmt.Errorf("reading what to store: %w", err)
	}
	b.mu.Lock()
	if _, ok := b.inPack[d.Digest]; !ok {
		b.inPack[d.Digest] = int64(len(b.pack))
		b.pack = append(b.pack, data...)
	}
	full := len(b.pack) >= packSize
	b.mu.Unlock()
	if full {
		return b.storePack(ctx)
	}
	return nil
}

// storePack stores what waits. If that fails it waits no longer: its entries will not be found.
func (b *Backend) storePack(ctx context.Context) error {
	b.mu.Lock()
	pack, offsets := b.pack, b.inPack
	b.pack, b.inPack = nil, map[v1.Hash]int64{}
	b.mu.Unlock()
	if len(pack) == 0 {
		return nil
	}
	sum := sha256.Sum256(pack)
	key := "strake-pack-" + hex.EncodeToString(sum[:])
	open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(pack)), nil }
	if err := b.create(ctx, key, int64(len(pack)), open); err != nil {
		return fmt.Errorf("storing a pack of %d blobs: %w", len(offsets), err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for d, offset := range offsets {
		b.packed[d] = place{key, offset}
	}
	return nil
}

// Commit writes a new index, but while the build goes on not too often.
func (b *Backend) Commit(ctx context.Context, entries []remote.Entry, last bool) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	b.mu.Lock()
	b.pending = append(b.pending, entries...)
	now := b.opt.Now()
	if b.written.IsZero() {
		b.written = now
	}
	due := len(b.pending) > 0 && b.refused == nil && (last || now.Sub(b.written) >= rest)
	err := b.refused
	b.mu.Unlock()
	if !due {
		return err
	}
	if err := b.storePack(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	pending := slices.Clone(b.pending)
	b.mu.Unlock()
	x, err := b.addToIndex(ctx, pending)
	if err != nil {
		return fmt.Errorf("storing the index of the cache: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending, b.written, b.known = b.pending[len(pending):], now, &x
	return nil
}
