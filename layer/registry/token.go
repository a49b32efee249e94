package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// bearer is a token and a timer that tells when it runs out.
type bearer struct {
	value string
	stale <-chan struct{}
}

// readCloser makes a body of bytes.
func readCloser(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }

// basic is the value of basic authentication, RFC 7617.
func basic(c credential) string {
	return base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
}

// tokenKey names a token: which repository's credentials got it, and for what.
func tokenKey(r request) string { return r.repo + " " + strings.Join(r.scopes, " ") }

// authorize returns the credentials for a request and the value of its Authorization header, "" for none.
func (h *host) authorize(ctx context.Context, r request, target *url.URL) (credential, string, error) {
	if target.Host != h.name {
		return credential{}, "", nil // elsewhere the URL itself must do
	}
	cred, err := h.c.keys.lookup(ctx, h.name, r.repo)
	if err != nil {
		return cred, "", err
	}
	h.mu.Lock()
	ask := h.ask
	h.mu.Unlock()
	switch {
	case cred.RegistryToken != "":
		return cred, "Bearer " + cred.RegistryToken, nil
	case ask.scheme == "basic" && cred.Username != "":
		return cred, "Basic " + basic(cred), nil
	case ask.scheme == "bearer":
		value, err := h.token(ctx, r, cred, ask)
		return cred, "Bearer " + value, err
	}
	return cred, "", nil
}

// challenged takes note of a 401: it drops the token that was sent, learns what is asked for, and tells whether
// another attempt would send something else.
func (h *host) challenged(resp *http.Response, r *request, cred credential, sent string) bool {
	if resp.Request.URL.Host != h.name {
		return false // a redirect's target has no business with our credentials
	}
	ask := bestChallenge(resp.Header)
	h.mu.Lock()
	defer h.mu.Unlock()
	if t, ok := h.tokens[tokenKey(*r)]; ok && sent == "Bearer "+t.value {
		delete(h.tokens, tokenKey(*r))
	}
	if ask.scheme == "" || cred.RegistryToken != "" {
		return false
	}
	h.ask = ask
	if ask.scheme == "basic" {
		return cred.Username != "" && sent != "Basic "+basic(cred)
	}
	if scope := ask.params["scope"]; scope != "" && !covered(r.scopes, scope) {
		// Some token servers read only the first scope.
		r.scopes = append([]string{scope}, r.scopes...)
	}
	return true
}

// covered tells whether one of the scopes allows everything that scope does.
func covered(scopes []string, scope string) bool {
	i := strings.LastIndexByte(scope, ':')
	for _, s := range scopes {
		j := strings.LastIndexByte(s, ':')
		if i < 0 || j < 0 || s[:j] != scope[:i] {
			continue
		}
		have, all := strings.Split(s[j+1:], ","), true
		for action := range strings.SplitSeq(scope[i+1:], ",") {
			all = all && slices.Contains(have, action)
		}
		if all {
			return true
		}
	}
	return slices.Contains(scopes, scope)
}

// cached returns a token that has not run out.
func (h *host) cached(key string) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.tokens[key]
	if !ok {
		return "", false
	}
	select {
	case <-t.stale:
		delete(h.tokens, key)
		return "", false
	default:
		return t.value, true
	}
}

// token returns a token for a request, from the cache or from the registry's token server.
func (h *host) token(ctx context.Context, r request, cred credential, ask challenge) (string, error) {
	key := tokenKey(r)
	if value, ok := h.cached(key); ok {
		return value, nil
	}
	if err := h.lock(ctx); err != nil {
		return "", err
	}
	defer h.unlock()
	if value, ok := h.cached(key); ok {
		return value, nil
	}
	t, err := h.fetchToken(ctx, r.scopes, cred, ask)
	if err != nil {
		return "", err
	}
	h.mu.Lock()
	h.tokens[key] = t
	h.mu.Unlock()
	return t.value, nil
}

// maxToken bounds the answer of a token server.
const maxToken = 256 << 10

// fetchToken asks the realm for a token: by OAuth2 when there is an identity token, else, and where the server does not know
// OAuth2, by GET with basic authentication (Docker's token authentication specification).
func (h *host) fetchToken(ctx context.Context, scopes []string, cred credential, ask challenge) (bearer, error) {
	realm, err := url.Parse(ask.params["realm"])
	if err != nil || realm.Host == "" {
		return bearer{}, fmt.Errorf("%s names a broken token server", display(h.name))
	}
	plain := realm.Scheme == "http" && (h.scheme == "http" || loopback(realm.Host) || h.c.insecure(realm.Host))
	if realm.Scheme != "https" && !plain {
		return bearer{}, fmt.Errorf("%s names a token server without HTTPS, %s://%s, which credentials are not sent to", display(h.name), realm.Scheme, realm.Host)
	}
	if err := checkTarget(h.name, realm.Host); err != nil {
		return bearer{}, err
	}
	for try := 0; ; try++ {
		t, err := h.exchange(ctx, realm, scopes, cred, ask)
		if err == nil {
			return t, nil
		}
		if err := h.c.wait(ctx, try, err); err != nil {
			return bearer{}, err
		}
	}
}

// exchange is one attempt of fetchToken.
func (h *host) exchange(ctx context.Context, realm *url.URL, scopes []string, cred credential, ask challenge) (bearer, error) {
	ctx, cancel := h.c.attempt(ctx)
	defer cancel()
	if cred.IdentityToken != "" {
		form := url.Values{
			"grant_type": {"refresh_token"}, "service": {ask.params["service"]}, "client_id": {"strake"},
			"refresh_token": {cred.IdentityToken}, "scope": {strings.Join(scopes, " ")},
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
		if err != nil {
			return bearer{}, fmt.Errorf("asking the token server of %s: %w", display(h.name), err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		t, err := h.grant(ctx, req, cred)
		var status *StatusError
		if !errors.As(err, &status) || status.Status != http.StatusNotFound && status.Status != http.StatusMethodNotAllowed {
			return t, err
		}
	}
	u := *realm
	q := u.Query()
	if s := ask.params["service"]; s != "" {
		q.Set("service", s)
	}
	for _, s := range scopes {
		q.Add("scope", s)
	}
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return bearer{}, fmt.Errorf("asking the token server of %s: %w", display(h.name), err)
	}
	if cred.Username != "" {
		req.Header.Set("Authorization", "Basic "+basic(cred))
	}
	return h.grant(ctx, req, cred)
}

// grant sends a request to a token server and reads the token.
func (h *host) grant(ctx context.Context, req *http.Request, cred credential) (bearer, error) {
	h.c.sign(req)
	resp, err := h.c.http.Do(req)
	if err != nil {
		return bearer{}, h.c.transportError(ctx, req.URL.Host, err)
	}
	if resp.StatusCode == http.StatusBadRequest && req.Method == http.MethodPost {
		resp.StatusCode = http.StatusUnauthorized // OAuth2 tells a refused refresh token by 400 invalid_grant
	}
	if err := h.check(resp, cred, []int{http.StatusOK}); err != nil {
		return bearer{}, fmt.Errorf("asking for a token: %w", err)
	}
	defer drain(resp)
	var t struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	if err != nil {
		return bearer{}, h.c.transportError(ctx, req.URL.Host, err)
	}
	if json.Unmarshal(body, &t) != nil { // its error would quote the token
		return bearer{}, fmt.Errorf("the token server %s of %s does not answer with JSON", req.URL.Host, display(h.name))
	}
	if t.Token == "" {
		t.Token = t.AccessToken
	}
	if t.Token == "" || strings.ContainsAny(t.Token, "\r\n") {
		return bearer{}, fmt.Errorf("the token server %s of %s gives no token", req.URL.Host, display(h.name))
	}
	return newBearer(t.Token, t.ExpiresIn), nil
}

// newBearer starts the life of a token: nine tenths of what the server says, or of the specification's 60 seconds.
func newBearer(value string, seconds float64) bearer {
	if !(seconds >= 1) {
		seconds = 60
	}
	seconds = min(seconds, 24*60*60)
	stale := make(chan struct{})
	time.AfterFunc(time.Duration(seconds*0.9*float64(time.Second)), func() { close(stale) })
	return bearer{value: value, stale: stale}
}
