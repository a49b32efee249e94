package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
)

// host is what is known of one registry: how to reach it, what it asks for, and the tokens it gave.
type host struct {
	c    *Client
	name string        // host[:port]
	gate chan struct{} // one at a time finds the scheme or gets a token; a channel, so that waiting can be cancelled

	mu     sync.Mutex
	scheme string // "https" or "http"; "" before the first contact
	ask    challenge
	tokens map[string]bearer
}

// newHost makes the state of a registry without contacting it.
func newHost(c *Client, name string) *host {
	return &host{c: c, name: name, gate: make(chan struct{}, 1), tokens: map[string]bearer{}}
}

// request is one request to a registry.
type request struct {
	method string
	url    string   // a path on the registry, or an absolute URL that the registry gave
	repo   string   // repository it is about, without the registry: chooses the credentials
	scopes []string // scopes of a token for it
	header http.Header
	body   []byte    // sent again when need be
	stream io.Reader // sent once, instead of body
	size   int64     // of stream; -1 when not known
}

// answer is a small answer, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
	url    *url.URL // of the request, after redirects
}

// lock waits for the gate.
func (h *host) lock(ctx context.Context) error {
	select {
	case h.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *host) unlock() { <-h.gate }

// connect finds out how the registry is spoken to: by HTTPS, and by HTTP only where that is allowed. The
// answer to /v2/ tells also which credentials it wants (distribution specification, end-1).
func (h *host) connect(ctx context.Context) (string, error) {
	h.mu.Lock()
	scheme := h.scheme
	h.mu.Unlock()
	if scheme != "" {
		return scheme, nil
	}
	if err := h.lock(ctx); err != nil {
		return "", err
	}
	defer h.unlock()
	if h.scheme != "" { // somebody was faster; only holders of the gate write it
		return h.scheme, nil
	}
	for try := 0; ; try++ {
		scheme, ask, err := h.probe(ctx)
		if err == nil {
			h.mu.Lock()
			h.scheme, h.ask = scheme, ask
			h.mu.Unlock()
			return scheme, nil
		}
		if errors.Is(err, syscall.ECONNREFUSED) || try+1 >= connectTries {
			return "", &finalError{err} // most likely a wrong name
		}
		if err := h.c.wait(ctx, try, err); err != nil {
			return "", err
		}
	}
}

// connectTries bounds the attempts of the first contact.
const connectTries = 3

// probe asks for /v2/ by the schemes that are allowed.
func (h *host) probe(ctx context.Context) (string, challenge, error) {
	ask, err := h.ping(ctx, "https")
	if err == nil {
		return "https", ask, nil
	}
	plain := loopback(h.name) || h.c.insecure(h.name)
	if !plain || isCertificateError(err) || ctx.Err() != nil {
		return "", challenge{}, err
	}
	var local *finalError
	if errors.As(err, &local) {
		return "", challenge{}, err
	}
	ask, plainErr := h.ping(ctx, "http")
	if plainErr == nil {
		return "http", ask, nil
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return "", challenge{}, plainErr // HTTP it is
	}
	if errors.Is(err, syscall.ECONNREFUSED) && errors.Is(plainErr, syscall.ECONNREFUSED) {
		return "", challenge{}, plainErr // there is no more to say
	}
	return "", challenge{}, fmt.Errorf("%w (and by HTTP: %v)", err, plainErr) //nolint:errorlint // one error leads
}

// ping is one GET of /v2/. Any answer shows that the scheme is right.
func (h *host) ping(ctx context.Context, scheme string) (challenge, error) {
	ctx, cancel := h.c.attempt(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+h.name+"/v2/", nil)
	if err != nil {
		return challenge{}, fmt.Errorf("contacting %s: %w", h.name, err)
	}
	h.c.sign(req)
	resp, err := h.c.http.Do(req)
	if err != nil {
		return challenge{}, h.c.transportError(ctx, h.name, err)
	}
	drain(resp)
	if resp.StatusCode != http.StatusUnauthorized {
		return challenge{}, nil
	}
	return bestChallenge(resp.Header), nil
}

// sign sets the headers that all requests have.
func (c *Client) sign(req *http.Request) {
	if c.opt.UserAgent != "" {
		req.Header.Set("User-Agent", c.opt.UserAgent)
	}
}

// drain reads the rest of an answer, so that its connection can be used again, unless there is much of it.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // whatever comes is not wanted
	_ = resp.Body.Close()
}

// do sends a request once, with credentials; a 401 is answered with a fresh token, once, if the body can be sent
// again. An answer whose status is not in ok is a *StatusError. The caller closes the body.
func (h *host) do(ctx context.Context, r request, ok ...int) (*http.Response, error) {
	scheme, err := h.connect(ctx)
	if err != nil {
		return nil, err
	}
	for again := false; ; again = true {
		target, err := h.resolve(scheme, r.url)
		if err != nil {
			return nil, err
		}
		cred, sent, err := h.authorize(ctx, r, target)
		if err != nil {
			return nil, err
		}
		resp, err := h.send(ctx, r, target, sent)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusUnauthorized || again || !h.challenged(resp, &r, cred, sent) {
			if err := h.check(resp, cred, ok); err != nil {
				return nil, err
			}
			return resp, nil
		}
		if r.stream != nil {
			return nil, &expiredError{h.check(resp, cred, nil)}
		}
		drain(resp)
	}
}

// resolve makes the URL of a request. Locations that the registry gave may be relative; those on its own host
// keep the scheme in use, since registries behind a proxy often do not know it.
func (h *host) resolve(scheme, target string) (*url.URL, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("%s gave a broken URL", display(h.name)) // without the URL: it may hold a signature
	}
	base := url.URL{Scheme: scheme, Host: h.name}
	u = base.ResolveReference(u)
	if u.Host == h.name || u.Hostname() == hostname(h.name) && (u.Port() == "443" && scheme == "https" || u.Port() == "80" && scheme == "http") {
		u.Scheme, u.Host = scheme, h.name
	}
	plain := u.Scheme == "http" && (scheme == "http" || loopback(u.Host) || h.c.insecure(u.Host))
	if u.Scheme != "https" && !plain {
		return nil, fmt.Errorf("%s points to %s://%s, which is not HTTPS", display(h.name), u.Scheme, u.Host)
	}
	u.User = nil
	return u, checkTarget(h.name, u.Host)
}

// send makes the HTTP request.
func (h *host) send(ctx context.Context, r request, target *url.URL, authorization string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", display(h.name), err)
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	h.c.sign(req)
	switch {
	case r.stream != nil:
		req.Body, req.ContentLength = io.NopCloser(r.stream), r.size
		if r.size == 0 {
			req.Body = http.NoBody
		}
	case r.body != nil && len(r.body) == 0:
		req.Body = http.NoBody // tells Content-Length: 0, which some registries insist on
	case r.body != nil:
		req.Body, req.ContentLength = readCloser(r.body), int64(len(r.body))
		req.GetBody = func() (io.ReadCloser, error) { return readCloser(r.body), nil }
	}
	if authorization != "" && target.Host == h.name {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := h.c.http.Do(req)
	if err != nil {
		return nil, h.c.transportError(ctx, h.name, err)
	}
	return resp, nil
}

// check makes an error of an answer whose status is not in ok.
func (h *host) check(resp *http.Response, cred credential, ok []int) error {
	if slices.Contains(ok, resp.StatusCode) {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // what came says enough
	drain(resp)
	e := newStatusError(h.name, resp, body, h.secrets(cred))
	e.anon, e.source = cred.anonymous(), cred.source
	return e
}

// secrets lists what must not be in a text.
func (h *host) secrets(cred credential) []string {
	s := cred.secrets()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.tokens {
		s = append(s, t.value)
	}
	return s
}

// call sends a request and reads its answer, which may have at most limit bytes; it is tried again when that may help.
func (h *host) call(ctx context.Context, r request, limit int64, ok ...int) (answer, error) {
	for try := 0; ; try++ {
		a, err := h.callOnce(ctx, r, limit, ok)
		if err == nil {
			return a, nil
		}
		if err := h.c.wait(ctx, try, err); err != nil {
			return answer{}, err
		}
	}
}

// callOnce is one attempt of call, with its own deadline.
func (h *host) callOnce(ctx context.Context, r request, limit int64, ok []int) (answer, error) {
	ctx, cancel := h.c.attempt(ctx)
	defer cancel()
	resp, err := h.do(ctx, r, ok...)
	if err != nil {
		return answer{}, err
	}
	defer drain(resp)
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return answer{}, h.c.transportError(ctx, h.name, err)
	}
	if int64(len(body)) > limit {
		return answer{}, fmt.Errorf("%s answers with more than %d bytes", display(h.name), limit)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: body, url: resp.Request.URL}, nil
}

// credential is what is known of a user at a registry, and where that was found.
type credential struct {
	authn.AuthConfig
	source string
}

// anonymous tells that there are no credentials.
func (c credential) anonymous() bool {
	return c.Username == "" && c.Password == "" && c.IdentityToken == "" && c.RegistryToken == ""
}

// secrets lists what must never be shown.
func (c credential) secrets() []string {
	return []string{c.Password, c.IdentityToken, c.RegistryToken, basic(c)}
}
