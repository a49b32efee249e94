// Package registry speaks to OCI registries: resolving names, fetching and
// pushing blobs and manifests, with the credentials and certificates that users
// of Docker and Podman have already.
package registry

import (
	"context"
	"errors"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

var errTodo = errors.New("not written yet")

// ErrUnauthorized wraps what a registry answers to missing or wrong credentials.
var ErrUnauthorized = errors.New("not authorized")

// ErrNotFound wraps what a registry answers for a name it does not have.
var ErrNotFound = errors.New("not found in the registry")

// Options are decided values: no environment is read here.
type Options struct {
	CAFiles   []string // further certificate authorities, for every registry
	Insecure  []string // hosts (host or host:port) that may be spoken to over plain HTTP or with any certificate
	CertsDirs []string // directories with HOST[:PORT]/{*.crt,*.cert,*.key}, as docker's certs.d
	AuthFiles []string // credential files in the order they are asked (docker config.json, containers auth.json)
	AuthJSON  []byte   // content of $DOCKER_AUTH_CONFIG, asked before the files except an explicit --authfile
	UserAgent string
	// Path is $PATH, where credential helpers are looked up.
	Path string
}

// Client talks to registries. It is safe for concurrent use.
type Client struct{}

// New makes a client. It does no input or output.
func New(opt Options) *Client { return &Client{} }

// Manifest is an image manifest with its configuration, as served.
type Manifest struct {
	Digest    v1.Hash // of Raw
	MediaType types.MediaType
	Raw       []byte
	RawConfig []byte
	Manifest  v1.Manifest
	Config    v1.ConfigFile
}

// Resolve fetches the manifest and configuration that ref means for platform p; it follows an
// index, and every digest is checked. It fetches no layer. An image of another platform is an
// error that lists the platforms there are.
func (c *Client) Resolve(ctx context.Context, ref name.Reference, p v1.Platform) (*Manifest, error) {
	return nil, errTodo
}

// FetchBlob streams a blob of repository ("host/name"). A broken connection is resumed where it
// broke (Range); the reader fails at the end if size or digest differ from d.
func (c *Client) FetchBlob(ctx context.Context, repository string, d v1.Descriptor) (io.ReadCloser, error) {
	return nil, errTodo
}

// Upload is a blob to be pushed.
type Upload struct {
	// Known is the blob's descriptor if it was made before, for a check whether the registry has it
	// already and for a mount; nil when only reading the bytes tells.
	Known *v1.Descriptor
	// From lists repositories ("host/name") that have the blob: mounted from when on the same registry.
	From []string
	// Open returns the bytes; it can be called again for a retry.
	Open      func(ctx context.Context) (io.ReadCloser, error)
	MediaType types.MediaType
	Progress  func(current int64) // bytes sent; may be nil
}

// PushBlob makes sure that repo has the blob and returns its descriptor: nothing is sent when the
// registry has it or can mount it. The upload is one streaming PATCH; it is retried from its beginning,
// honouring Retry-After, with a new token after a 401.
func (c *Client) PushBlob(ctx context.Context, repo name.Repository, u Upload) (v1.Descriptor, error) {
	return v1.Descriptor{}, errTodo
}

// PushManifest stores a manifest under ref (a tag, or a digest of repo).
func (c *Client) PushManifest(ctx context.Context, ref name.Reference, raw []byte, mediaType types.MediaType) error {
	return errTodo
}

// ParseReference parses a name as docker does: no host means Docker Hub, no tag means latest.
// Loopback hosts and those in Insecure may be reached by plain HTTP.
func (c *Client) ParseReference(s string) (name.Reference, error) { return nil, errTodo }

// Login checks the credentials with the registry and stores them in file (docker's config.json
// format, mode 0600, other content kept) or in the credential helper that the file names.
func (c *Client) Login(ctx context.Context, host, user, password, file string) error { return errTodo }

// Logout removes the credentials of host from file or its credential helper.
func (c *Client) Logout(host, file string) error { return errTodo }
