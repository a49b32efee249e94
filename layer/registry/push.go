package registry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxMounts bounds the repositories that a blob is tried to be mounted from: each attempt costs a request.
const maxMounts = 3

// PushBlob makes sure that repo has the blob and returns its descriptor: nothing is sent when the
// registry has it or can mount it. The upload is one streaming PATCH; it is retried from its beginning,
// honouring Retry-After, with a new token after a 401.
func (c *Client) PushBlob(ctx context.Context, repo name.Repository, u Upload) (v1.Descriptor, error) {
	what := display(repo.RegistryStr()) + "/" + repo.RepositoryStr()
	p := &push{c: c, h: c.host(repo.Registry), repo: repo, up: u, scopes: []string{scope(repo.RepositoryStr(), "pull,push")}}
	if u.Known != nil {
		what = fmt.Sprintf("blob %s to %s", u.Known.Digest, what)
		if _, err := v1.NewHash(u.Known.Digest.String()); err != nil || u.Known.Size < 0 {
			return v1.Descriptor{}, fmt.Errorf("pushing %s: broken digest or size", what)
		}
	}
	d, err := p.run(ctx)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("pushing %s: %w", what, c.explain(withCreateHint(repo, err)))
	}
	return d, nil
}

// push is one blob on its way.
type push struct {
	c      *Client
	h      *host
	repo   name.Repository
	up     Upload
	scopes []string
}

// run asks for the blob, tries to mount it, and uploads it.
func (p *push) run(ctx context.Context) (v1.Descriptor, error) {
	var session string
	if p.up.Known != nil {
		there, err := p.exists(ctx)
		if err != nil {
			return v1.Descriptor{}, err
		}
		if !there {
			there, session, err = p.mount(ctx)
			if err != nil {
				return v1.Descriptor{}, err
			}
		}
		if there {
			return p.up.known(), nil
		}
	}
	for try := 0; ; try++ {
		d, err := p.upload(ctx, session, try)
		if err == nil {
			return d, nil
		}
		session = ""
		if err := p.c.wait(ctx, try, err); err != nil {
			return v1.Descriptor{}, err
		}
		if p.up.Known == nil {
			continue
		}
		// The answer may have been lost after the blob was stored.
		if there, err := p.exists(ctx); err == nil && there {
			return p.up.known(), nil
		}
	}
}

// known is the descriptor that the caller knew.
func (u Upload) known() v1.Descriptor {
	d := *u.Known
	if d.MediaType == "" {
		d.MediaType = u.MediaType
	}
	return d
}

// exists asks whether the repository has the blob (distribution specification, end-2).
func (p *push) exists(ctx context.Context) (bool, error) {
	_, err := p.h.call(ctx, request{
		method: http.MethodHead,
		url:    "/v2/" + p.repo.RepositoryStr() + "/blobs/" + p.up.Known.Digest.String(),
		repo:   p.repo.RepositoryStr(),
		scopes: p.scopes,
	}, 0, http.StatusOK)
	var status *StatusError
	if errors.As(err, &status) && status.Status/100 == 4 && status.Status != http.StatusUnauthorized && status.Status != http.StatusTooManyRequests {
		return false, nil // also 403 and 405: the upload will tell better
	}
	return err == nil, err
}

// mount tries to have the registry take the blob from another repository of its own (end-11). If it opens an
// upload instead, that is returned.
func (p *push) mount(ctx context.Context) (done bool, session string, err error) {
	tried := map[string]bool{p.repo.RepositoryStr(): true}
	for _, s := range p.up.From {
		from, err := parseRepository(s)
		if err != nil {
			return false, "", err
		}
		if from.RegistryStr() != p.repo.RegistryStr() || tried[from.RepositoryStr()] {
			continue
		}
		if len(tried) > maxMounts {
			break
		}
		tried[from.RepositoryStr()] = true
		if session != "" {
			p.abandon(ctx, session)
		}
		q := url.Values{"mount": {p.up.Known.Digest.String()}, "from": {from.RepositoryStr()}}
		a, err := p.h.call(ctx, request{
			method: http.MethodPost,
			url:    "/v2/" + p.repo.RepositoryStr() + "/blobs/uploads/?" + q.Encode(),
			repo:   p.repo.RepositoryStr(),
			scopes: append([]string{p.scopes[0]}, scope(from.RepositoryStr(), "pull")),
			body:   []byte{},
		}, maxErrorBody, http.StatusCreated, http.StatusAccepted)
		var status *StatusError
		switch {
		case errors.As(err, &status):
			session = "" // no leave to read there, or no mounts here
		case err != nil:
			return false, "", err
		case a.status == http.StatusCreated:
			return true, "", nil
		default:
			if session, err = location(a); err != nil {
				return false, "", err
			}
		}
	}
	return false, session, nil
}

// abandon cancels an upload that is not needed (distribution specification, "cancel an upload"); a registry that
// cannot do it drops it in time.
func (p *push) abandon(ctx context.Context, session string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	resp, err := p.h.do(ctx, request{method: http.MethodDelete, url: session, repo: p.repo.RepositoryStr(), scopes: p.scopes},
		http.StatusNoContent, http.StatusOK, http.StatusAccepted)
	if err == nil {
		drain(resp)
	}
}

// location reads where an upload goes on; it may be relative to the request.
func location(a answer) (string, error) {
	u, err := url.Parse(a.header.Get("Location"))
	if err != nil || a.header.Get("Location") == "" {
		return "", errors.New("the registry does not tell where to upload to")
	}
	return a.url.ResolveReference(u).String(), nil
}

// start opens an upload (end-4a).
func (p *push) start(ctx context.Context) (string, error) {
	a, err := p.h.callOnce(ctx, request{
		method: http.MethodPost,
		url:    "/v2/" + p.repo.RepositoryStr() + "/blobs/uploads/",
		repo:   p.repo.RepositoryStr(),
		scopes: p.scopes,
		body:   []byte{},
	}, maxErrorBody, []int{http.StatusAccepted})
	if err != nil {
		return "", err
	}
	return location(a)
}

// upload sends the whole blob: POST, one PATCH, PUT (end-4a, 5, 6). session is an upload that is open already.
func (p *push) upload(ctx context.Context, session string, try int) (d v1.Descriptor, err error) {
	if session == "" {
		if session, err = p.start(ctx); err != nil {
			return v1.Descriptor{}, err
		}
	}
	defer func() {
		if err != nil {
			p.abandon(ctx, session)
		}
	}()
	reading, done := context.WithCancel(ctx)
	defer done()
	src, err := p.up.Open(reading)
	if err != nil {
		return v1.Descriptor{}, &finalError{fmt.Errorf("reading the blob: %w", err)}
	}
	body := newSource(src, p.up, p.c.pace)
	sent, a, err := p.patch(ctx, session, body, try)
	done() // lets a read that still waits go
	body.stop()
	if err != nil {
		return v1.Descriptor{}, err
	}
	if session, err = location(a); err != nil {
		return v1.Descriptor{}, err
	}
	commit, err := withDigest(session, sent.Digest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return sent, p.commit(ctx, commit, sent.Digest)
}

// patch streams the blob and returns what was sent.
func (p *push) patch(ctx context.Context, session string, body *source, try int) (v1.Descriptor, answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body.watch(cancel)
	r := request{
		method: http.MethodPatch,
		url:    session,
		repo:   p.repo.RepositoryStr(),
		scopes: p.scopes,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		stream: body,
		size:   -1,
	}
	if p.up.Known != nil {
		r.size = p.up.Known.Size
	}
	if try > 0 {
		// A refusal that comes while bytes are sent is often lost with the connection: let it come before them.
		r.header.Set("Expect", "100-continue")
	}
	resp, err := p.h.do(ctx, r, http.StatusAccepted, http.StatusNoContent, http.StatusCreated, http.StatusOK)
	if local := body.failure(); local != nil {
		if err == nil {
			drain(resp)
		}
		return v1.Descriptor{}, answer{}, &finalError{fmt.Errorf("reading the blob: %w", local)}
	}
	if err != nil {
		return v1.Descriptor{}, answer{}, p.tooLarge(err)
	}
	drain(resp)
	d, err := body.descriptor()
	return d, answer{status: resp.StatusCode, header: resp.Header, url: resp.Request.URL}, err
}

// commit closes the upload.
func (p *push) commit(ctx context.Context, target string, digest v1.Hash) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.c.pace.commit, errSlow)
	defer cancel()
	resp, err := p.h.do(ctx, request{
		method: http.MethodPut,
		url:    target,
		repo:   p.repo.RepositoryStr(),
		scopes: p.scopes,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		body:   []byte{},
	}, http.StatusCreated, http.StatusNoContent, http.StatusOK)
	if err != nil {
		return p.tooLarge(err)
	}
	drain(resp)
	if got, err := v1.NewHash(resp.Header.Get("Docker-Content-Digest")); err == nil && got.Algorithm == digest.Algorithm && got != digest {
		return fmt.Errorf("the registry stored %s, but %s was sent", got, digest)
	}
	return nil
}

// withDigest adds the digest to an upload's URL, which may have a query already.
func withDigest(target string, digest v1.Hash) (string, error) {
	u, err := url.Parse(target)
	if err != nil {
		return "", errors.New("the registry gave a broken URL to upload to")
	}
	// Registries sign the query's text: it must not be encoded anew.
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += "digest=" + url.QueryEscape(digest.String())
	return u.String(), nil
}

// tooLarge says what 413 means: it is rarely the registry itself.
func (p *push) tooLarge(err error) error {
	var status *StatusError
	if errors.As(err, &status) && status.Status == http.StatusRequestEntityTooLarge {
		return fmt.Errorf("the blob is too large for %s, or for a proxy in front of it (nginx: client_max_body_size): %w", display(p.h.name), err)
	}
	return err
}

// withCreateHint says how to make a repository on ECR, which does not make one for a push.
func withCreateHint(repo name.Repository, err error) error {
	var status *StatusError
	if !errors.As(err, &status) || status.Status != http.StatusNotFound {
		return err
	}
	parts := strings.Split(repo.RegistryStr(), ".")
	if len(parts) > 4 && parts[1] == "dkr" && strings.HasPrefix(parts[2], "ecr") && strings.Contains(repo.RegistryStr(), ".amazonaws.com") {
		return fmt.Errorf("the repository must be made first: aws ecr create-repository --region %s --repository-name %s: %w", parts[3], repo.RepositoryStr(), err)
	}
	return err
}

// source is the body of an upload: it counts, hashes when the digest is not known, and drops a connection that takes
// nothing for too long. Waiting for the bytes themselves is not counted against the connection.
type source struct {
	up   Upload
	pace pace
	hash hash.Hash

	mu     sync.Mutex // net/http may still read for a moment after its request has ended
	src    io.ReadCloser
	timer  *time.Timer
	size   int64
	ended  bool // all bytes were read
	failed error
}

// newSource takes over src.
func newSource(src io.ReadCloser, up Upload, pace pace) *source {
	s := &source{up: up, pace: pace, src: src}
	if up.Known == nil {
		s.hash, _ = v1.Hasher("sha256") // the algorithm is known
	}
	if up.Progress != nil {
		up.Progress(0)
	}
	return s
}

// watch starts the watch over the connection.
func (s *source) watch(cancel context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(s.pace.request, func() { cancel(errStalled) })
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.src == nil {
		return 0, errors.New("the upload has ended")
	}
	s.timer.Stop()
	n, err := s.src.Read(p)
	s.size += int64(n)
	if s.hash != nil {
		s.hash.Write(p[:n])
	}
	if n > 0 && s.up.Progress != nil {
		s.up.Progress(s.size)
	}
	span := s.pace.stall
	switch {
	case errors.Is(err, io.EOF):
		s.ended = true
		span = s.pace.commit
	case err != nil:
		s.failed = err
	case s.up.Known != nil && s.size == s.up.Known.Size:
		s.ended = true
		span = s.pace.commit
	}
	if s.up.Known != nil && (s.size > s.up.Known.Size || s.ended && s.size < s.up.Known.Size) {
		s.failed = fmt.Errorf("it has %d bytes, not the %d that were announced", s.size, s.up.Known.Size)
		return 0, s.failed
	}
	s.timer.Reset(span)
	return n, err
}

// stop ends the watch and closes the bytes.
func (s *source) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
	if s.src != nil {
		_ = s.src.Close() // only read from
		s.src = nil
	}
}

// failure is why the bytes could not be read.
func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// descriptor is what was sent.
func (s *source) descriptor() (v1.Descriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up.Known != nil {
		return s.up.known(), nil
	}
	if !s.ended {
		return v1.Descriptor{}, fmt.Errorf("the registry took the upload before its end: %w", io.ErrUnexpectedEOF)
	}
	return v1.Descriptor{
		MediaType: s.up.MediaType,
		Size:      s.size,
		Digest:    v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(s.hash.Sum(nil))},
	}, nil
}
