package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// attempts is how often a transfer is begun or resumed before its error counts.
const attempts = 5

var (
	errStalled   = errors.New("the server sent nothing for too long")
	errNotResume = errors.New("the server did not resume where the connection broke")
)

// transfer is one file on its way from a server into its cache entry, which is locked.
type transfer struct {
	c     *Client
	e     *entry
	f     *File
	auth  string
	known []record // what the cache has: not transferred again
	want  v1.Hash  // the digest that the content must have, or zero

	file      *os.File
	hash      hash.Hash
	done      int64
	validator string // for If-Range; "" if what is there cannot be continued
	header    http.Header
}

func (c *Client) newTransfer(e *entry, f *File) (*transfer, error) {
	auth, err := c.authorization(f.u)
	if err != nil {
		return nil, err
	}
	return &transfer{c: c, e: e, f: f, auth: auth, hash: sha256.New()}, nil
}

// request makes a request for the file, with the validators of what is known.
func (t *transfer) request(ctx context.Context, method string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, t.f.u.String(), nil)
	if err != nil {
		return nil, t.fail(err)
	}
	req.Header.Set("User-Agent", t.c.opt.UserAgent) // an empty one sends none
	if t.auth != "" {
		req.Header.Set("Authorization", t.auth)
	}
	if t.done > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(t.done, 10)+"-")
		req.Header.Set("If-Range", t.validator)
		return req, nil
	}
	var tags []string
	for _, r := range t.known {
		if r.ETag != "" {
			tags = append(tags, r.ETag)
		}
	}
	if len(tags) > 0 {
		req.Header.Set("If-None-Match", strings.Join(tags, ", "))
	} else if len(t.known) > 0 && t.known[0].Dated {
		req.Header.Set("If-Modified-Since", t.known[0].LastModified)
	}
	return req, nil
}

// head asks by HEAD whether one of the known contents is still the right one. Some servers
// mishandle If-None-Match though they send ETags, so these are compared here. Whatever goes wrong
// is no error: GET follows.
func (t *transfer) head(ctx context.Context) (record, bool) {
	ctx, watch := t.c.watch(ctx)
	defer watch.stop()
	req, err := t.request(ctx, http.MethodHead)
	if err != nil || req.Header.Get("If-None-Match") == "" {
		return record{}, false
	}
	// Go adds this to GET only, and some servers have an ETag for each encoding.
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := t.c.http.Do(req)
	if err != nil {
		return record{}, false
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotModified {
		return record{}, false
	}
	return t.matching(resp)
}

// matching finds the known content that a response speaks of. A 304 without an ETag means the only one that was asked for.
func (t *transfer) matching(resp *http.Response) (record, bool) {
	tag := etag(resp.Header)
	for _, r := range t.known {
		if tag != "" && r.ETag == tag {
			return r, true
		}
	}
	if tag == "" && resp.StatusCode == http.StatusNotModified {
		if len(t.known) == 1 {
			return t.known[0], true
		}
		if resp.Request.Header.Get("If-Modified-Since") != "" {
			return t.known[0], true
		}
	}
	return record{}, false
}

// get gets the content into the cache, unless a known one is right. A connection that breaks is begun
// again where it broke, if the server can do that and the content is still the same.
func (t *transfer) get(ctx context.Context) (_ record, err error) {
	temp := t.e.path("partial") // under lock: nobody else writes it
	t.file, err = os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return record{}, fmt.Errorf("making a file for %s: %w", t.f.URL, err)
	}
	defer os.Remove(temp)
	defer t.file.Close()
	pause := t.c.pause
	for try := 1; ; try++ {
		rec, ok, err := t.attempt(ctx)
		if err == nil && ok {
			return rec, nil // not modified
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return record{}, t.fail(context.Cause(ctx))
		}
		if try == attempts || !broken(err) {
			return record{}, t.fail(err)
		}
		select {
		case <-ctx.Done():
			return record{}, t.fail(context.Cause(ctx))
		case <-time.After(pause):
		}
		pause *= 2
	}
	return t.commit(temp)
}

// attempt makes one request. It says true when the server says that the known record is right.
func (t *transfer) attempt(ctx context.Context) (record, bool, error) {
	ctx, watch := t.c.watch(ctx)
	defer watch.stop()
	if t.validator == "" {
		if err := t.restart(); err != nil {
			return record{}, false, err
		}
	}
	req, err := t.request(ctx, http.MethodGet)
	if err != nil {
		return record{}, false, err
	}
	resp, err := t.c.http.Do(req)
	if err != nil {
		return record{}, false, watch.cause(ctx, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && t.done == 0:
		rec, ok := t.matching(resp)
		if !ok {
			return record{}, false, fmt.Errorf("invalid not-modified ETag: %q", resp.Header.Get("ETag"))
		}
		return rec, true, nil
	case resp.StatusCode == http.StatusPartialContent && t.done > 0:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(t.done, 10)+"-") {
			t.validator = ""
			return record{}, false, errNotResume
		}
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && t.done > 0:
		t.validator = ""
		return record{}, false, errNotResume
	case resp.StatusCode >= 200 && resp.StatusCode < 300 && resp.StatusCode != http.StatusPartialContent:
		if err := t.restart(); err != nil {
			return record{}, false, err
		}
		t.header = resp.Header
		t.validator = rangeValidator(resp)
	default:
		return record{}, false, statusError(resp.StatusCode)
	}
	return record{}, false, watch.cause(ctx, t.copy(resp, watch))
}

// restart forgets what was transferred.
func (t *transfer) restart() error {
	t.done, t.validator = 0, ""
	t.hash.Reset()
	if err := t.file.Truncate(0); err != nil {
		return err
	}
	_, err := t.file.Seek(0, io.SeekStart)
	return err
}

// copy writes the body to the file and the hash.
func (t *transfer) copy(resp *http.Response, watch *watch) error {
	total := int64(-1)
	if resp.ContentLength >= 0 {
		total = t.done + resp.ContentLength
	}
	buf := make([]byte, 128<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			watch.reset()
			if _, werr := t.file.Write(buf[:n]); werr != nil {
				return werr
			}
			t.hash.Write(buf[:n])
			t.done += int64(n)
			if t.f.req.Progress != nil {
				t.f.req.Progress(t.done, total)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &brokenError{err}
		}
	}
}

// commit checks what arrived, gives it its name and records it.
func (t *transfer) commit(temp string) (record, error) {
	rec := newRecord(t.header)
	rec.Hex, rec.Size = hex.EncodeToString(t.hash.Sum(nil)), t.done
	if !isZero(t.want) && rec.hash() != t.want {
		return record{}, fmt.Errorf("digest mismatch for %s: %s (expected: %s)", t.f.URL, rec.hash(), t.want)
	}
	if err := t.file.Close(); err != nil {
		return record{}, t.fail(err)
	}
	name := t.e.path(rec.content())
	if err := os.Rename(temp, name); err != nil {
		return record{}, fmt.Errorf("keeping what %s gave: %w", t.f.URL, err)
	}
	t.c.markVerified(name)
	return rec, t.e.add(rec)
}

// fail wraps an error, without the URL that Go's HTTP client puts into its own: it may be that of a redirect, signed.
func (t *transfer) fail(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return fmt.Errorf("fetching %s: %w", t.f.URL, err)
}

// statusError is a response that is no success, in BuildKit's words.
type statusError int

func (e statusError) Error() string {
	if text := http.StatusText(int(e)); text != "" {
		return fmt.Sprintf("invalid response status %d (%s)", int(e), strings.ToLower(text))
	}
	return fmt.Sprintf("invalid response status %d", int(e))
}

// brokenError is a body that ended before its end.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// broken says whether an error may be gone at the next attempt: a connection that was
// made and broke, or a gateway that could not reach its server.
func broken(err error) bool {
	var status statusError
	if errors.As(err, &status) {
		return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
	}
	var body *brokenError
	if errors.As(err, &body) || errors.Is(err, errStalled) || errors.Is(err, errNotResume) {
		return true
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op == "read" || op.Op == "write" || op.Timeout()
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// rangeValidator is what If-Range takes to continue this response: only what identifies the bytes exactly.
func rangeValidator(resp *http.Response) string {
	if resp.Uncompressed || resp.Header.Get("Accept-Ranges") == "none" {
		return "" // the bytes are not those that the server counts
	}
	if tag := resp.Header.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	if r := newRecord(resp.Header); r.Dated {
		return r.LastModified
	}
	return ""
}

// watch cancels a request on which nothing happens.
type watch struct {
	timer  *time.Timer
	after  time.Duration
	cancel context.CancelCauseFunc
}

func (c *Client) watch(ctx context.Context) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(c.opt.Stall, func() { cancel(errStalled) })
	return ctx, &watch{timer: timer, after: c.opt.Stall, cancel: cancel}
}

func (w *watch) reset() { w.timer.Reset(w.after) }

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// cause is err, or errStalled if that is why.
func (w *watch) cause(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}
