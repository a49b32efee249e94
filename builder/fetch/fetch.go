// Package fetch gets what ADD and build contexts name by URL: files and archives by
// HTTP, trees by git.
//
// Resolving is separate from getting. A resolved File or Repository knows its identity
// (a content digest, a commit), which is what a cache key is made of, and its bytes are moved
// only when somebody opens it or checks it out. What was fetched once stays in a
// cache folder and is asked for again by validators, so that a rebuild of what did
// not change transfers nothing.
//
// URLs and servers are hostile. Credentials go to the host they are meant for and
// nowhere else: not to a redirect's target, not into an argument list, not into an error.
package fetch

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Options says how a Client works. Only Dir is required.
type Options struct {
	// Dir is the cache folder; it is made if missing. Several processes may share it. Each of
	// http/* and git/* in it is one cached thing, with the modification time of its last use.
	Dir string
	// UserAgent is sent with every request, such as "strake/1.0".
	UserAgent string
	// Proxy tells the proxy for an HTTP request, as http.ProxyFromEnvironment does; nil means none.
	Proxy func(*http.Request) (*url.URL, error)
	// ProxyEnv is the same for git, which takes it as variables: "HTTPS_PROXY=http://…".
	// Other names than http_proxy, https_proxy, all_proxy and no_proxy (in either case) are an error.
	ProxyEnv []string
	// RootCAs are the authorities for HTTPS; nil means the system's. Git always uses the system's.
	RootCAs *x509.CertPool
	// Secret returns a secret of the build by its id, and whether there is one; nil means none. Asked for
	// are HTTP_AUTH_HEADER_<host> and HTTP_AUTH_TOKEN_<host> (host without port), and for git GIT_AUTH_HEADER
	// and GIT_AUTH_TOKEN, with ".<host>" (port included) first and then without.
	Secret func(id string) (value string, ok bool, err error)
	// Path is the list of folders (in the form of PATH) in which git and ssh are found.
	Path string
	// SSH is what git may use for ssh remotes; nil means that those are refused.
	SSH *SSH
	// Stall is how long a connection may be silent before it counts as broken; 0 means one minute.
	Stall time.Duration
}

// SSH says how git reaches ssh remotes.
type SSH struct {
	// AuthSock is the socket of an ssh agent. Only its keys are used, none of the user's files.
	AuthSock string
	// KnownHosts are files of known host keys: who is in them must have the key that is there. Another host's key is trusted when it is
	// first seen, and remembered in the cache folder; BuildKit trusts each time what ssh-keyscan says.
	KnownHosts []string
}

// Client fetches. It belongs to one build: what it resolved once it does not resolve
// again, so all steps of the build see the same content. Its methods may be called concurrently.
type Client struct {
	opt    Options
	http   *http.Client
	pause  time.Duration // before the second attempt; doubled before each further one
	scheme []string      // what git may speak

	mu       sync.Mutex
	resolved map[string]record      // by entry: HTTP files that this client asked for
	verified map[string]bool        // by path: contents whose digest this client has checked
	refs     map[string]resolvedRef // by remote and ref
}

// New makes a client and its cache folder.
func New(opt Options) (*Client, error) {
	if opt.Dir == "" {
		return nil, errors.New("no cache folder for remote sources")
	}
	dir, err := filepath.Abs(opt.Dir) // git runs in other folders
	if err != nil {
		return nil, fmt.Errorf("finding the cache folder: %w", err)
	}
	opt.Dir = dir
	if err := checkProxyEnv(opt.ProxyEnv); err != nil {
		return nil, err
	}
	for _, d := range []string{"http", "git"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("making the cache folder: %w", err)
		}
	}
	if opt.Stall == 0 {
		opt.Stall = time.Minute
	}
	c := &Client{
		opt: opt, pause: 250 * time.Millisecond, scheme: []string{"http", "https", "git"},
		resolved: map[string]record{}, verified: map[string]bool{}, refs: map[string]resolvedRef{},
	}
	if opt.SSH != nil {
		c.scheme = append(c.scheme, "ssh")
	}
	c.http = &http.Client{CheckRedirect: checkRedirect, Transport: &http.Transport{
		Proxy:                  opt.Proxy,
		DialContext:            (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: opt.RootCAs},
		TLSHandshakeTimeout:    15 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 1 << 20,
		IdleConnTimeout:        30 * time.Second,
	}}
	return c, nil
}

// Close closes idle connections. What was opened or checked out stays.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// secret returns the first of the secrets ids that exists. It is one line: files of secrets often end with a newline.
func (c *Client) secret(ids ...string) (id, value string, err error) {
	if c.opt.Secret == nil {
		return "", "", nil
	}
	for _, id := range ids {
		v, ok, err := c.opt.Secret(id)
		if err != nil {
			return "", "", fmt.Errorf("reading secret %s: %w", id, err)
		}
		if !ok {
			continue
		}
		v = strings.TrimRight(v, "\r\n")
		if strings.ContainsAny(v, "\r\n\x00") {
			return "", "", fmt.Errorf("secret %s is more than one line", id)
		}
		return id, v, nil
	}
	return "", "", nil
}

func checkProxyEnv(env []string) error {
	names := []string{"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if !slices.Contains(names, strings.ToLower(name)) {
			return fmt.Errorf("%s is no variable that names a proxy", name)
		}
	}
	return nil
}

// isZero says that no hash was given.
func isZero(h v1.Hash) bool { return h == v1.Hash{} }

// redacted is the URL as errors may show it. Like BuildKit it keeps the query, but no user and password.
func redacted(u *url.URL) string {
	bare := *u
	bare.User = nil
	return bare.String()
}
