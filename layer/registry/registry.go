// Package registry speaks to OCI registries: resolving names, fetching and
// pushing blobs and manifests, with the credentials and certificates that users
// of Docker and Podman have already.
//
// Names, manifests and media types are go-containerregistry's. Requests are the
// package's own: blobs are streamed, resumed and retried here, tokens are made per
// repository, and plain HTTP is spoken only where Options allow it. The protocol is
// the OCI distribution specification, and for tokens Docker's token authentication
// specification.
package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ErrUnauthorized wraps what a registry answers to missing or wrong credentials.
var ErrUnauthorized = errors.New("not authorized")

// ErrNotFound wraps what a registry answers for a name it does not have.
var ErrNotFound = errors.New("not found in the registry")

// ErrNotLoggedIn says that there are no credentials to remove.
var ErrNotLoggedIn = errors.New("not logged in")

// Options are decided values: no environment is read here.
type Options struct {
	CAFiles  []string // further certificate authorities (PEM), for every registry
	Insecure []string // hosts (host or host:port) that may be spoken to over plain HTTP or with any certificate
	// CertsDirs are directories with HOST[:PORT]/{*.crt,*.cert,*.key}, as docker's certs.d: authorities,
	// and client certificates with their keys. The first directory that has a folder for a host is used. A hosts.toml in it,
	// as containerd's, is an error: mirrors are not supported.
	CertsDirs []string
	AuthFile  string   // credential file that is asked before everything else (--authfile); it must exist
	AuthJSON  []byte   // content of $DOCKER_AUTH_CONFIG, asked before AuthFiles
	AuthFiles []string // credential files in the order they are asked (docker config.json, containers auth.json); missing ones are skipped
	UserAgent string
	// Path is $PATH, where credential helpers are looked up.
	Path string
	// Proxy tells the proxy for a request, as http.ProxyFromEnvironment does; nil means no proxy.
	Proxy func(*http.Request) (*url.URL, error)
}

// Client talks to registries. It is safe for concurrent use.
type Client struct {
	opt    Options
	http   *http.Client
	keys   *keychain
	pace   pace
	mu     sync.Mutex
	hosts  map[string]*host
	routes map[string]http.RoundTripper
}

// pace holds the client's durations, which tests shorten.
type pace struct {
	tries   int           // attempts for one blob or request
	base    time.Duration // first backoff, doubled with each attempt
	most    time.Duration // longest backoff
	stall   time.Duration // a transfer without a byte for so long is tried anew
	request time.Duration // for one small request and its answer
	commit  time.Duration // for the answer to an upload, where registries verify and move the blob
}

// New makes a client. It does no input or output.
func New(opt Options) *Client {
	c := &Client{
		opt:    opt,
		keys:   newKeychain(opt),
		hosts:  map[string]*host{},
		routes: map[string]http.RoundTripper{},
		pace: pace{
			tries:   5,
			base:    500 * time.Millisecond,
			most:    20 * time.Second,
			stall:   60 * time.Second,
			request: 60 * time.Second,
			commit:  10 * time.Minute,
		},
	}
	c.http = &http.Client{Transport: router{c}, CheckRedirect: checkRedirect}
	return c
}

// Manifest is an image manifest with its configuration, as served.
type Manifest struct {
	Digest    v1.Hash // of Raw
	RefDigest v1.Hash // of what the reference itself names: an index, or the same as Digest
	MediaType types.MediaType
	Raw       []byte
	RawConfig []byte
	Manifest  v1.Manifest
	Config    v1.ConfigFile
}

// Upload is a blob to be pushed.
type Upload struct {
	// Known is the blob's descriptor if it was made before, for a check whether the registry has it
	// already and for a mount; nil when only reading the bytes tells.
	Known *v1.Descriptor
	// From lists repositories ("host/name") that have the blob: mounted from when on the same registry.
	From []string
	// Open returns the bytes; it can be called again for a retry. A read that waits must end when ctx does.
	Open      func(ctx context.Context) (io.ReadCloser, error)
	MediaType types.MediaType
	Progress  func(current int64) // bytes sent; falls back to 0 when an upload starts anew; may be nil
}

// host returns the state of a registry, made once for each.
func (c *Client) host(reg name.Registry) *host {
	key := reg.RegistryStr()
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hosts[key]
	if h == nil {
		h = newHost(c, key)
		c.hosts[key] = h
	}
	return h
}

// forget drops what is known of a registry, after its credentials have changed.
func (c *Client) forget(reg string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.hosts, reg)
	c.keys.reset()
}
