package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

// router sends each request through the transport of its host, also after a redirect to another one: a host's
// certificates, and the leave to have none, are never those of another host.
type router struct{ c *Client }

// RoundTrip implements http.RoundTripper.
func (r router) RoundTrip(req *http.Request) (*http.Response, error) {
	t, err := r.c.route(req.URL.Host)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // the source of an upload: the error that counts is the other one
		}
		return nil, err
	}
	return t.RoundTrip(req)
}

// route returns the transport of host[:port], made once: one pool of connections for each host.
func (c *Client) route(host string) (http.RoundTripper, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.routes[host]; t != nil {
		return t, nil
	}
	conf, err := c.tlsConfig(host)
	if err != nil {
		return nil, &finalError{err}
	}
	dialer := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	if c.insecure(host) {
		dialer.Timeout = 10 * time.Second // there is a second attempt, by HTTP
	}
	t := &http.Transport{
		Proxy:                 c.opt.Proxy,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       conf,
		TLSHandshakeTimeout:   15 * time.Second,
		ForceAttemptHTTP2:     true,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		DisableCompression:    true, // digests are of the bytes as served
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       64 << 10,
	}
	c.routes[host] = t
	return t, nil
}

// checkRedirect follows a redirect of GET and HEAD, without the credentials when it leads to another host, and
// never from HTTPS to HTTP or to where a machine's own secrets are served.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	if first.Method != http.MethodGet && first.Method != http.MethodHead {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	if req.URL.Host != first.URL.Host {
		req.Header.Del("Authorization")
	}
	req.Header.Del("Referer") // it may hold a signature
	last := via[len(via)-1]
	if last.URL.Scheme == "https" && req.URL.Scheme != "https" {
		return &finalError{fmt.Errorf("%s redirects from HTTPS to %s://%s, which is refused", last.URL.Host, req.URL.Scheme, req.URL.Host)}
	}
	return checkTarget(first.URL.Host, req.URL.Host)
}

// checkTarget refuses that a registry sends its client to an address that only this machine can reach.
func checkTarget(from, to string) error {
	if from != to && (metadata(to) || loopback(to) && !loopback(from)) {
		return &finalError{fmt.Errorf("%s points to %s, an address of this machine only, which is refused", from, to)}
	}
	return nil
}

// tlsConfig makes the TLS settings for host[:port]: the system's authorities, those of the options, and those of the
// first certs.d folder there is for the host.
func (c *Client) tlsConfig(host string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.insecure(host)} //nolint:gosec // only for the hosts that the user names
	cas := append([]string(nil), c.opt.CAFiles...)
	dir, err := c.certsDir(host)
	if err != nil {
		return nil, err
	}
	if dir != "" {
		more, err := loadCertsDir(dir, conf)
		if err != nil {
			return nil, err
		}
		cas = append(cas, more...)
	}
	if len(cas) == 0 {
		return conf, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a file system without authorities: the given ones must do
	}
	for _, file := range cas {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading a certificate authority: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading a certificate authority: %s has no PEM certificate", file)
		}
	}
	conf.RootCAs = pool
	return conf, nil
}

// certsDir finds the folder of certificates for host[:port].
func (c *Client) certsDir(host string) (string, error) {
	names := []string{host}
	if host == name.DefaultRegistry {
		names = []string{"docker.io", host, "registry-1.docker.io"}
	}
	for _, dir := range c.opt.CertsDirs {
		for _, n := range names {
			if !filepath.IsLocal(n) {
				continue
			}
			path := filepath.Join(dir, n)
			info, err := os.Stat(path) //nolint:gosec // n is one local name
			if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
				continue
			}
			if err != nil {
				return "", fmt.Errorf("looking for certificates of %s: %w", host, err)
			}
			return path, nil
		}
	}
	return "", nil
}

// loadCertsDir reads client certificates of a certs.d folder into conf and returns the files of authorities.
func loadCertsDir(dir string, conf *tls.Config) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	var cas []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".crt":
			cas = append(cas, path)
		case ".cert":
			key := strings.TrimSuffix(path, ".cert") + ".key"
			pair, err := tls.LoadX509KeyPair(path, key)
			if err != nil {
				return nil, fmt.Errorf("reading client certificate %s with its key %s: %w", path, key, err)
			}
			conf.Certificates = append(conf.Certificates, pair)
		case ".key":
			cert := strings.TrimSuffix(path, ".key") + ".cert"
			if _, err := os.Stat(cert); err != nil {
				return nil, fmt.Errorf("key %s has no client certificate %s (authorities end in .crt, client certificates in .cert)", path, cert)
			}
		case ".toml":
			if e.Name() == "hosts.toml" {
				return nil, fmt.Errorf("%s: mirrors and other settings of hosts.toml are not supported", path)
			}
		}
	}
	return cas, nil
}

// attempt bounds one small request; the cause tells it from the caller's own deadline.
func (c *Client) attempt(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.pace.request, errSlow)
}
