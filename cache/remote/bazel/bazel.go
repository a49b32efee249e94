// Package bazel keeps the remote cache in a server of Bazel's HTTP caching protocol: GET, HEAD and PUT of /cas/SHA256
// and /ac/SHA256, as bazel-remote, BuildBuddy or a web server with WebDAV have it.
//
// A layer's blob is one of /cas. An entry of the cache is an ActionResult in /ac: servers that look into these take it,
// and bazel-remote, which gives no ActionResult whose output files it has lost, so keeps and drops both together.
package bazel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/wire"
)

const (
	lookups   = 48        // at once
	maxResult = 256 << 10 // bytes of an ActionResult
)

// Options say where the cache is.
type Options struct {
	URL string // with or without user and password; what follows it is /ac/… and /cas/…
	// Token is sent as a bearer token, User as "name:password" for basic authentication; at most one of both.
	Token, User string
	Proxy       func(*http.Request) (*url.URL, error)
}

// Backend is a remote.Backend.
type Backend struct {
	base   *url.URL
	auth   string
	client *wire.Client
}

// New checks the options; it sends nothing.
func New(opt Options) (*Backend, error) {
	u, err := url.Parse(opt.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the cache's url must be like https://host/path")
	}
	b := &Backend{client: wire.New(opt.Proxy)}
	user := opt.User
	if u.User != nil {
		password, _ := u.User.Password()
		user = u.User.Username() + ":" + password
	}
	switch {
	case opt.Token != "" && user != "":
		return nil, errors.New("the http cache takes a token or a user, not both")
	case opt.Token != "":
		b.auth = "Bearer " + opt.Token
	case user != "":
		if !strings.Contains(user, ":") {
			return nil, errors.New("the http cache's user must be like name:password")
		}
		r := http.Request{Header: http.Header{}}
		name, password, _ := strings.Cut(user, ":")
		r.SetBasicAuth(name, password)
		b.auth = r.Header.Get("Authorization")
	}
	u.User = nil
	u.RawPath, u.Path = "", "/"+strings.Trim(u.Path, "/")
	b.base = u
	return b, nil
}

// Name is what warnings call it.
func (b *Backend) Name() string { return "http " + b.base.Host + strings.TrimSuffix(b.base.Path, "/") }

func (b *Backend) request(method, kind, sum string) wire.Request {
	r := wire.Request{Method: method, URL: b.base.JoinPath(kind, sum), Header: http.Header{}, Explain: explain}
	if b.auth != "" {
		r.Header.Set("Authorization", b.auth)
	}
	return r
}

// explain shows what plain servers say, but not their pages.
func explain(h http.Header, body []byte) string {
	if strings.HasPrefix(h.Get("Content-Type"), "text/plain") {
		return string(body)
	}
	return ""
}

// place is the name of a key's entry in /ac, which other programs use too.
func place(k cache.Key) string {
	sum := sha256.Sum256(append([]byte("strake cache entry 1\x00"), k[:]...))
	return hex.EncodeToString(sum[:])
}

// Records asks for each key, many at once, but first for one alone, so that a server that is not there is asked once.
func (b *Backend) Records(ctx context.Context, keys []cache.Key) ([]remote.Entry, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	found := make([]*remote.Entry, len(keys))
	var err error
	if found[0], err = b.record(ctx, keys[0]); err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lookups)
	for i, k := range keys[1:] {
		group.Go(func() (err error) {
			found[i+1], err = b.record(ctx, k)
			return err
		})
	}
	err = group.Wait()
	var entries []remote.Entry
	for _, e := range found {
		if e != nil {
			entries = append(entries, *e)
		}
	}
	return entries, err
}

// record returns nil for a key that the server does not have.
func (b *Backend) record(ctx context.Context, k cache.Key) (*remote.Entry, error) {
	r := b.request(http.MethodGet, "ac", place(k))
	r.Pass = []int{http.StatusNotFound}
	resp, err := b.client.Do(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("looking up a cache entry: %w", err)
	}
	if resp.Status == http.StatusNotFound {
		wire.Drain(resp)
		return nil, nil
	}
	raw, err := wire.ReadAll(resp, maxResult)
	if err != nil {
		return nil, fmt.Errorf("looking up a cache entry: %w", err)
	}
	e, err := decodeResult(raw)
	if err != nil || e.Key != k {
		return nil, nil //nolint:nilerr // an entry that cannot be read is none
	}
	return &e, nil
}

// Open streams a blob.
func (b *Backend) Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	r := b.request(http.MethodGet, "cas", d.Digest.Hex)
	r.Pass = []int{http.StatusNotFound}
	resp, err := b.client.Do(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", d.Digest, err)
	}
	if resp.Status == http.StatusNotFound {
		wire.Drain(resp)
		return nil, fmt.Errorf("fetching %s: %w", d.Digest, remote.ErrNotFound)
	}
	return resp.Body, nil
}

// Put stores a blob.
func (b *Backend) Put(ctx context.Context, d v1.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	head := b.request(http.MethodHead, "cas", d.Digest.Hex)
	head.Pass = []int{http.StatusNotFound}
	resp, err := b.client.Do(ctx, head)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", d.Digest, err)
	}
	wire.Drain(resp)
	if resp.Status != http.StatusNotFound {
		return nil
	}
	if err := b.put(ctx, "cas", d.Digest.Hex, d.Size, open); err != nil {
		return fmt.Errorf("storing %s: %w", d.Digest, err)
	}
	return nil
}

// Commit stores the entries.
func (b *Backend) Commit(ctx context.Context, entries []remote.Entry, _ bool) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lookups)
	for _, e := range entries {
		group.Go(func() error {
			raw, err := encodeResult(e)
			if err == nil {
				err = b.put(ctx, "ac", place(e.Key), int64(len(raw)), wire.Bytes(raw))
			}
			if err != nil {
				return fmt.Errorf("storing a cache entry: %w", err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (b *Backend) put(ctx context.Context, kind, sum string, size int64, open func(context.Context) (io.ReadCloser, error)) error {
	r := b.request(http.MethodPut, kind, sum)
	r.Header.Set("Content-Type", "application/octet-stream")
	r.Body, r.Size = open, size
	resp, err := b.client.Do(ctx, r)
	if err != nil {
		return err
	}
	wire.Drain(resp)
	return nil
}
