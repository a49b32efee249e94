// Package wire is the HTTP that back ends of the remote cache have in common: requests that are tried again, servers
// that stop answering, and errors that hold no secret.
package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
)

const (
	dialTimeout = 10 * time.Second
	quiet       = 30 * time.Second // without a byte, in either direction
	longestWait = time.Minute      // see Client.Patience
	attempts    = 4
	maxDetail   = 2 << 10 // bytes of an answer that are looked at for an explanation
	maxConns    = 64
)

var (
	errQuiet    = errors.New("no byte came or went for too long")
	errRedirect = errors.New("the server redirects elsewhere; give the address that it redirects to")
)

// Client sends requests. It is safe for concurrent use.
type Client struct {
	HTTP  *http.Client
	Quiet time.Duration // how long a connection may carry nothing; 0 is 30 seconds
	Pause time.Duration // before the second attempt, doubled for each that follows; 0 is 200 ms
	// Patience is the longest Retry-After that is waited for; 0 is a minute.
	Patience time.Duration
}

// New returns a client with connections of its own. proxy may be nil.
func New(proxy func(*http.Request) (*url.URL, error)) *Client {
	return &Client{HTTP: &http.Client{
		Transport: &http.Transport{
			Proxy:                 proxy,
			DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSHandshakeTimeout:   dialTimeout,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:     true,
			MaxConnsPerHost:       maxConns,
			MaxIdleConnsPerHost:   maxConns,
			IdleConnTimeout:       time.Minute,
			DisableCompression:    true, // layers are compressed, and digests are of what is stored
			ExpectContinueTimeout: time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect },
	}}
}

// Request is what to send.
type Request struct {
	Method string
	URL    *url.URL
	Header http.Header
	// Body opens what is sent, for each attempt anew; nil sends nothing. Size is its length.
	Body func(ctx context.Context) (io.ReadCloser, error)
	Size int64
	// Sign, if not nil, completes the request, for each attempt anew.
	Sign func(*http.Request)
	// Pass are the statuses beside 2xx that Do returns as an answer.
	Pass []int
	// Explain, if not nil, makes an error's words of an answer's header and the beginning of its body.
	Explain func(header http.Header, body []byte) string
}

// StatusError is an answer that refuses.
type StatusError struct {
	Status int
	What   string // method and host
	Detail string // the server's words, cleaned; may be empty
}

// Error says who answered what. It does not hold the request's path or query, which may be secret.
func (e *StatusError) Error() string {
	s := fmt.Sprintf("%s: %d %s", e.What, e.Status, http.StatusText(e.Status))
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// retryable tells whether the same request may be answered otherwise later.
func retryable(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		switch status.Status {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	var cert *tls.CertificateVerificationError
	var dns *net.DNSError
	var source *sourceError
	switch {
	case errors.As(err, &cert), errors.As(err, &source), errors.Is(err, errRedirect):
		return false
	case errors.As(err, &dns):
		return dns.IsTemporary || dns.IsTimeout
	}
	return true
}

// Answer is what a server answers. Its body must be closed, by ReadAll, Drain or Body.Close.
type Answer struct {
	Status int
	Header http.Header
	Size   int64 // of the body; negative if it is not told
	Body   io.ReadCloser
}

// Do sends a request until it is answered, a few times at most. Reading the answer's body fails when nothing comes for
// too long.
func (c *Client) Do(ctx context.Context, r Request) (*Answer, error) {
	pause := c.Pause
	if pause == 0 {
		pause = 200 * time.Millisecond
	}
	patience := c.Patience
	if patience == 0 {
		patience = longestWait
	}
	for attempt := 1; ; attempt++ {
		resp, after, err := c.once(ctx, r)
		if err == nil {
			return resp, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", r.what(), context.Cause(ctx))
		}
		if attempt == attempts || !retryable(err) || after > patience {
			return nil, err
		}
		wait := max(after, pause+rand.N(pause)) //nolint:gosec // spreads attempts, no secret
		pause *= 2
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

func (r Request) what() string { return r.Method + " " + r.URL.Host }

// sourceError is of what is to be sent, not of the connection.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// once makes one attempt; after is how long the server asks to wait.
func (c *Client) once(ctx context.Context, r Request) (a *Answer, after time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	limit := c.Quiet
	if limit == 0 {
		limit = quiet
	}
	p := &pulse{limit: limit, cancel: cancel}
	p.timer = time.AfterFunc(limit, func() { cancel(errQuiet) })
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL.String(), nil)
	if err != nil {
		return nil, 0, fmt.Errorf("asking %s: the address cannot be used", r.URL.Host)
	}
	req.URL = r.URL
	for k, v := range r.Header {
		req.Header[k] = v
	}
	var body *watched
	if r.Body != nil {
		src, err := r.Body(ctx)
		if err != nil {
			return nil, 0, &sourceError{fmt.Errorf("reading what to send: %w", err)}
		}
		body = &watched{ReadCloser: src, pulse: p, source: true}
		req.Body, req.ContentLength = body, r.Size
		if r.Size == 0 {
			_ = src.Close()
			req.Body = http.NoBody
		}
	}
	if r.Sign != nil {
		r.Sign(req)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, 0, r.failed(ctx, body, err)
	}
	p.beat()
	if resp.StatusCode/100 == 2 || has(r.Pass, resp.StatusCode) {
		p.rest()
		body := &watched{ReadCloser: resp.Body, pulse: p, ctx: func() error { return context.Cause(ctx) }}
		return &Answer{resp.StatusCode, resp.Header, resp.ContentLength, body}, 0, nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxDetail))
	_ = resp.Body.Close()
	e := &StatusError{Status: resp.StatusCode, What: r.what()}
	if r.Explain != nil {
		e.Detail = Clean(r.Explain(resp.Header, text))
	}
	return nil, retryAfter(resp.Header), e
}

// failed says why there was no answer. The address that net/http puts in its errors may hold signatures.
func (r Request) failed(ctx context.Context, body *watched, err error) error {
	if body != nil && body.err.Load() != nil {
		return &sourceError{fmt.Errorf("reading what to send: %w", *body.err.Load())}
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("%s: %w", r.what(), err)
}

func has(list []int, n int) bool {
	for _, v := range list {
		if v == n {
			return true
		}
	}
	return false
}

// Clean makes a server's words fit for a message: one line, printable, not long.
func Clean(s string) string {
	const most = 300
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// retryAfter reads the header of that name: seconds, or a date, compared with the server's own clock.
func retryAfter(h http.Header) time.Duration {
	s := h.Get("Retry-After")
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		return time.Duration(max(n, 0)) * time.Second
	}
	until, err := http.ParseTime(s)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	return max(0, until.Sub(now))
}

// pulse ends a request that carries nothing for too long.
type pulse struct {
	limit  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func (p *pulse) beat() { p.timer.Reset(p.limit) }
func (p *pulse) rest() { p.timer.Stop() }

func (p *pulse) stop() {
	p.timer.Stop()
	p.cancel(context.Canceled)
}

// watched is a body whose reads are a sign of life.
type watched struct {
	io.ReadCloser
	pulse  *pulse
	source bool                  // it is what is sent
	ctx    func() error          // why reads fail
	err    atomic.Pointer[error] // of the source, which net/http reads in a goroutine of its own
}

// Read reads, and says why it cannot.
func (w *watched) Read(b []byte) (int, error) {
	// The time in which nobody reads, or the source is read, is not the server's.
	if w.source {
		w.pulse.rest()
	} else {
		w.pulse.beat()
	}
	n, err := w.ReadCloser.Read(b)
	if w.source {
		w.pulse.beat()
	} else {
		w.pulse.rest()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if w.source {
			w.err.Store(&err)
		} else if cause := w.ctx(); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close ends an answer. What was sent is closed by net/http, while its answer may still come.
func (w *watched) Close() error {
	err := w.ReadCloser.Close()
	if !w.source {
		w.pulse.stop()
	}
	return err
}

// ReadAll reads an answer of at most limit bytes, and closes it.
func ReadAll(resp *Answer, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading an answer: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("an answer is longer than %d bytes", limit)
	}
	return data, nil
}

// Drain reads the rest of a short answer and closes it, so that its connection is used again.
func Drain(resp *Answer) {
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxDetail))
	_ = resp.Body.Close()
}

// Bytes is the Body that sends b.
func Bytes(b []byte) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(b))), nil }
}
