package registry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// FetchBlob streams a blob of repository ("host/name"). A broken connection is resumed where it
// broke (Range); the reader fails at the end if size or digest differ from d. Bytes are good only once the reader has
// returned io.EOF. It must be closed.
func (c *Client) FetchBlob(ctx context.Context, repository string, d v1.Descriptor) (io.ReadCloser, error) {
	repo, err := parseRepository(repository)
	if err != nil {
		return nil, fmt.Errorf("fetching blob %s: %w", d.Digest, err)
	}
	r, err := c.open(ctx, repo, d)
	if err != nil {
		what := display(repo.RegistryStr()) + "/" + repo.RepositoryStr()
		return nil, fmt.Errorf("fetching blob %s of %s: %w", d.Digest, what, c.explain(err))
	}
	return r, nil
}

// open makes the first request for a blob.
func (c *Client) open(ctx context.Context, repo name.Repository, d v1.Descriptor) (*blobReader, error) {
	if _, err := v1.NewHash(d.Digest.String()); err != nil {
		return nil, fmt.Errorf("the digest %q: %w", d.Digest, err)
	}
	hasher, err := v1.Hasher(d.Digest.Algorithm)
	if err != nil {
		return nil, err
	}
	if d.Size < 0 {
		return nil, fmt.Errorf("the size %d is negative", d.Size)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	h := c.host(repo.Registry)
	r := &blobReader{
		want:   d,
		host:   h.name,
		repo:   repo.RepositoryStr(),
		hasher: hasher,
		stall:  c.pace.stall,
		cancel: cancel,
		get:    func(offset int64) (*blobConn, error) { return h.getBlob(ctx, repo.RepositoryStr(), d, offset) },
		wait:   func(try int, err error) error { return c.wait(ctx, try, err) },
		clean:  func(err error) error { return c.transportError(ctx, h.name, err) },
	}
	if err := r.reopen(nil); err != nil {
		cancel(nil)
		return nil, err
	}
	return r, nil
}

// blobConn is one connection that brings a blob, or the rest of it.
type blobConn struct {
	body  io.ReadCloser
	drop  context.CancelCauseFunc
	cause func() error // why it was dropped
}

// getBlob asks for a blob from offset on.
func (h *host) getBlob(ctx context.Context, repo string, d v1.Descriptor, offset int64) (*blobConn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(h.c.pace.request, func() { cancel(errSlow) })
	defer timer.Stop()
	r := request{
		method: http.MethodGet,
		url:    "/v2/" + repo + "/blobs/" + d.Digest.String(),
		repo:   repo,
		scopes: []string{scope(repo, "pull")},
		header: http.Header{},
	}
	if offset > 0 {
		r.header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := h.do(ctx, r, http.StatusOK, http.StatusPartialContent)
	if err == nil {
		err = skipTo(resp, offset, d, pulse{timer, h.c.pace.request})
		if err == nil {
			return &blobConn{body: resp.Body, drop: cancel, cause: func() error { return context.Cause(ctx) }}, nil
		}
		_ = resp.Body.Close()
	}
	if cause := context.Cause(ctx); cause != nil {
		err = because(h.name, cause)
	}
	cancel(nil)
	return nil, err
}

// pulse is a writer that winds a timer up.
type pulse struct {
	timer *time.Timer
	span  time.Duration
}

// Write implements io.Writer.
func (p pulse) Write(b []byte) (int, error) {
	p.timer.Reset(p.span)
	return len(b), nil
}

// skipTo brings an answer to the offset that was asked for, also when the registry ignored the range, and compares its
// size with the descriptor's.
func skipTo(resp *http.Response, offset int64, d v1.Descriptor, skipped io.Writer) error {
	at, total := int64(0), resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		var err error
		if at, total, err = contentRange(resp.Header.Get("Content-Range")); err != nil {
			return err
		}
	}
	if total >= 0 && total != d.Size {
		return fmt.Errorf("the registry has %d bytes, the manifest says %d", total, d.Size)
	}
	if at > offset {
		return fmt.Errorf("the registry sends bytes from %d on, %d was asked for", at, offset)
	}
	if at == offset {
		return nil
	}
	if _, err := io.CopyN(skipped, resp.Body, offset-at); err != nil {
		return fmt.Errorf("skipping %d bytes: %w", offset-at, err)
	}
	return nil
}

// contentRange reads "bytes FIRST-LAST/TOTAL" (RFC 9110, section 14.4); the total is -1 when it is not told.
func contentRange(s string) (first, total int64, err error) {
	broken := fmt.Errorf("broken Content-Range %q", printable(s, 60))
	span, ok := strings.CutPrefix(strings.ToLower(s), "bytes ")
	if !ok {
		return 0, 0, broken
	}
	span, size, ok := strings.Cut(span, "/")
	from, _, dash := strings.Cut(span, "-")
	if !ok || !dash {
		return 0, 0, broken
	}
	if first, err = strconv.ParseInt(strings.TrimSpace(from), 10, 64); err != nil || first < 0 {
		return 0, 0, broken
	}
	if size == "*" {
		return first, -1, nil
	}
	if total, err = strconv.ParseInt(strings.TrimSpace(size), 10, 64); err != nil || total < 0 {
		return 0, 0, broken
	}
	return first, total, nil
}

// progressWorth is how much a connection must have brought to earn the next one a full number of attempts.
const progressWorth = 16 << 20

// blobReader reads a blob over as many connections as it takes.
type blobReader struct {
	want   v1.Descriptor
	host   string
	repo   string
	hasher hash.Hash
	stall  time.Duration
	cancel context.CancelCauseFunc // of everything
	get    func(offset int64) (*blobConn, error)
	wait   func(try int, err error) error
	clean  func(error) error

	conn   *blobConn
	timer  *time.Timer // drops the connection; runs only while a read waits
	offset int64
	mark   int64 // offset when the attempts began to be counted
	try    int
	err    error // what all further reads return
}

// afterLast is how long to look for bytes that are too many, or for the end, after the last one.
const afterLast = 5 * time.Second

// Read implements io.Reader. io.EOF comes only after size and digest were right.
func (r *blobReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, r.err
	}
	for r.err == nil {
		n, err := r.readConn(p)
		if n > 0 && r.offset+int64(n) > r.want.Size {
			r.err = r.fail(fmt.Errorf("the registry sends more than the %d bytes that the manifest says", r.want.Size))
			break
		}
		if n > 0 {
			r.offset += int64(n)
			r.hasher.Write(p[:n])
			return n, nil // an error comes again with the next read
		}
		if err == nil {
			continue
		}
		if r.offset == r.want.Size {
			r.err = r.finish() // nothing is missing, however the connection ended
			break
		}
		if err := r.reopen(err); err != nil {
			r.err = r.fail(err)
		}
	}
	return 0, r.err
}

// readConn reads from the connection, with a limit on the time without a byte.
func (r *blobReader) readConn(p []byte) (int, error) {
	span := r.stall
	if r.offset == r.want.Size {
		span = min(span, afterLast)
	}
	r.timer.Reset(span)
	n, err := r.conn.body.Read(p)
	r.timer.Stop()
	if n > 0 || err == nil {
		return n, nil
	}
	if cause := r.conn.cause(); cause != nil {
		err = cause
	} else if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	} else {
		err = r.clean(err)
	}
	return 0, fmt.Errorf("after %d of %d bytes: %w", r.offset, r.want.Size, err)
}

// reopen makes a connection from the offset on; err is why the last one ended, nil at first.
func (r *blobReader) reopen(err error) error {
	r.release()
	if r.offset-r.mark >= progressWorth {
		r.try, r.mark = 0, r.offset
	}
	for {
		if err != nil {
			if err := r.wait(r.try, err); err != nil {
				return err
			}
			r.try++
		}
		var conn *blobConn
		if conn, err = r.get(r.offset); err == nil {
			r.conn = conn
			r.timer = time.AfterFunc(r.stall, func() { conn.drop(errStalled) })
			r.timer.Stop()
			return nil
		}
	}
}

// finish compares the digest.
func (r *blobReader) finish() error {
	r.release()
	if got := hex.EncodeToString(r.hasher.Sum(nil)); got != r.want.Digest.Hex {
		return r.fail(fmt.Errorf("its digest is %s:%s, but it should be %s", r.want.Digest.Algorithm, got, r.want.Digest))
	}
	return io.EOF
}

// fail says which blob it was.
func (r *blobReader) fail(err error) error {
	return fmt.Errorf("fetching blob %s of %s/%s: %w", r.want.Digest, display(r.host), r.repo, err)
}

// release ends the current connection.
func (r *blobReader) release() {
	if r.conn == nil {
		return
	}
	r.timer.Stop()
	_ = r.conn.body.Close()
	r.conn.drop(nil)
	r.conn = nil
}

// Close ends the transfer. A blob that is not what it should be is an error of the reads, not of Close.
func (r *blobReader) Close() error {
	r.release()
	r.cancel(nil)
	if r.err == nil {
		r.err = fmt.Errorf("fetching blob %s: the reader is closed", r.want.Digest)
	}
	return nil
}
