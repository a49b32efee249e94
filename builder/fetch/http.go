package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// HTTPRequest names a file on a web server.
type HTTPRequest struct {
	// URL is an http or https URL. A user and password in it are sent as basic authentication.
	URL string
	// Name is the file's name; "" means that of the URL, as ADD names it: the last component of its path.
	Name string
	// Checksum is the sha256 that the content must have; the zero Hash means any.
	Checksum v1.Hash
	// Progress, if not nil, is told how many bytes of total (-1 if unknown) have arrived.
	Progress func(done, total int64)
}

// File is a file on a web server whose content digest is known. Beside Digest and Name nothing of it
// belongs into a cache key; its mode is 0600 (ADD, Dockerfile reference) and its owner 0:0.
type File struct {
	// URL is where it is, without user and password.
	URL string
	// Name is one path component: the request's, made safe.
	Name string
	// Digest is the sha256 of the content.
	Digest v1.Hash
	// Modified is the server's Last-Modified; zero if it says none, and while only a
	// checksum is known: then Content.Modified tells.
	Modified time.Time

	c   *Client
	req HTTPRequest
	u   *url.URL
}

// Content is an open file with its size in bytes and the time that the server says it was modified (zero if it does not).
type Content struct {
	*os.File
	Size     int64
	Modified time.Time
}

// MTime is the modification time for the file in an image: Modified, or 1970 as BuildKit has it.
func (c *Content) MTime() time.Time {
	if c.Modified.IsZero() {
		return time.Unix(0, 0)
	}
	return c.Modified
}

// nameOf is the name that ADD gives to the file at a URL: the last component of its path, or
// "__unnamed__" if there is none. Headers of the response have no say in it, as with BuildKit.
func nameOf(rawURL string) string {
	name := "__unnamed__"
	if u, err := url.Parse(rawURL); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			name = base
		}
	}
	return safeName(name)
}

// safeName makes one path component of s; "download" if that cannot be.
func safeName(s string) string {
	name := filepath.Base(strings.TrimSpace(s))
	if name == "." || name == ".." || name == "/" || strings.ContainsFunc(name, unicode.IsControl) {
		return "download"
	}
	return name
}

// HTTP resolves a file. With a checksum that takes no network. Otherwise the server is asked whether what
// the cache has is still right (ETag by HEAD, then If-None-Match or If-Modified-Since), and if not,
// the content is transferred into the cache. A status that is no success is an error that names it.
func (c *Client) HTTP(ctx context.Context, req HTTPRequest) (*File, error) {
	u, err := parseURL(req.URL)
	if err != nil {
		return nil, err
	}
	f := &File{URL: redacted(u), Name: nameOf(req.URL), c: c, req: req, u: u}
	if req.Name != "" {
		f.Name = safeName(req.Name)
	}
	if !isZero(req.Checksum) {
		if req.Checksum.Algorithm != "sha256" || len(req.Checksum.Hex) != 2*sha256.Size {
			return nil, fmt.Errorf("checksum %s for %s: only sha256 digests are supported", req.Checksum, f.URL)
		}
		f.Digest = req.Checksum
		return f, nil
	}
	e, err := openEntry(ctx, c.entryDir(u))
	if err != nil {
		return nil, err
	}
	defer e.close()
	rec, ok := c.memo(e.dir)
	if !ok {
		if rec, err = c.resolve(ctx, e, f); err != nil {
			return nil, err
		}
	}
	f.Digest, f.Modified = rec.hash(), rec.modified()
	return f, nil
}

// resolve asks the server about f, and gets it if the cache does not have it.
// Preconditions: e is locked.
func (c *Client) resolve(ctx context.Context, e *entry, f *File) (record, error) {
	t, err := c.newTransfer(e, f)
	if err != nil {
		return record{}, err
	}
	t.known = e.records()
	rec, ok := t.head(ctx)
	if !ok {
		if rec, err = t.get(ctx); err != nil {
			return record{}, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resolved[e.dir] = rec
	return rec, nil
}

func (c *Client) memo(dir string) (record, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec, ok := c.resolved[dir]
	return rec, ok
}

// Open opens the content for reading, from the cache if it is there whole, else from the server. What
// has another digest than the file is the error "digest mismatch". The file opened stays readable when the cache drops it.
func (f *File) Open(ctx context.Context) (*Content, error) {
	e, err := openEntry(ctx, f.c.entryDir(f.u))
	if err != nil {
		return nil, err
	}
	defer e.close()
	for _, rec := range e.records() {
		if rec.hash() != f.Digest {
			continue
		}
		if file := f.c.openVerified(ctx, e.path(rec.content())); file != nil {
			return &Content{File: file, Size: rec.Size, Modified: rec.modified()}, nil
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
	}
	t, err := f.c.newTransfer(e, f)
	if err != nil {
		return nil, err
	}
	t.want = f.Digest
	rec, err := t.get(ctx)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(e.path(rec.content()))
	if err != nil {
		return nil, fmt.Errorf("opening what %s gave: %w", f.URL, err)
	}
	return &Content{File: file, Size: rec.Size, Modified: rec.modified()}, nil
}

// openVerified opens a cached content, whose name is its digest; nil if it is not what its name says. Each is read once for that
// in the life of a client: nothing was synced, so a power failure may have torn it.
func (c *Client) openVerified(ctx context.Context, name string) *os.File {
	file, err := os.Open(name)
	if err != nil {
		return nil
	}
	c.mu.Lock()
	ok := c.verified[name]
	c.mu.Unlock()
	if ok {
		return file
	}
	h := sha256.New()
	_, err = io.Copy(h, readerFunc(func(b []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return file.Read(b)
	}))
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil || "sha256-"+hex.EncodeToString(h.Sum(nil)) != filepath.Base(name) {
		_ = file.Close()
		return nil
	}
	c.markVerified(name)
	return file
}

func (c *Client) markVerified(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verified[name] = true
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		var ue *url.Error // holds the URL, which may hold a password
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("malformed URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%s is no http or https URL", redacted(u))
	}
	return u, nil
}

// entryDir is the folder for what is at u. The fragment is not sent to a server, so it does not count.
func (c *Client) entryDir(u *url.URL) string {
	whole := *u
	whole.Fragment = ""
	sum := sha256.Sum256([]byte("1\x00" + whole.String()))
	return filepath.Join(c.opt.Dir, "http", hex.EncodeToString(sum[:]))
}

// authorization is the header for u from the build's secrets; a token counts more than a header, as in BuildKit.
func (c *Client) authorization(u *url.URL) (string, error) {
	host := u.Hostname()
	id, v, err := c.secret("HTTP_AUTH_TOKEN_"+host, "HTTP_AUTH_HEADER_"+host)
	if err != nil || id == "" {
		return "", err
	}
	if strings.HasPrefix(id, "HTTP_AUTH_TOKEN_") {
		v = "Bearer " + v
	}
	return v, nil
}

// maxRedirects is how many redirects are followed.
const maxRedirects = 10

// checkRedirect follows a redirect, without credentials if it leads to another host. (Go itself would also send them to
// other ports and to subdomains.)
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errRedirects
	}
	if !sameHost(via[0].URL, req.URL) {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	req.Header.Del("Referer") // it may hold a signature
	return nil
}

var errRedirects = fmt.Errorf("more than %d redirects", maxRedirects)

// sameHost says whether credentials for a may go to b: the same host and port, or the same host by HTTPS instead of HTTP.
func sameHost(a, b *url.URL) bool {
	if a.Scheme == b.Scheme {
		return strings.EqualFold(a.Host, b.Host)
	}
	return a.Scheme == "http" && b.Scheme == "https" && a.Port() == "" && strings.EqualFold(a.Host, b.Host)
}
