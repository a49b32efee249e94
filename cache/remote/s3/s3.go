// Package s3 keeps the remote cache in a bucket of Amazon S3 or of a server that speaks its protocol. Objects never
// change, so that builders beside each other do not overwrite what the other one wrote:
//
//	PREFIX + "blobs/" + "sha256:…"                    a layer
//	PREFIX + "manifests/" + NAME + "/1/" + TIME-RANDOM a bundle of entries
//
// The bundle of a build has the entries of those that it found, which it removes: usually there is one, and an import
// is two requests.
package s3

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/wire"
)

const (
	maxReply = 1 << 20 // bytes of an answer in XML
	maxSkew  = 5 * time.Minute
)

// Options say where the cache is. They are named as the attributes of BuildKit's type=s3.
type Options struct {
	Bucket, Region string
	Endpoint       string // "" is that of AWS in the region
	PathStyle      bool   // the bucket is in the path, not in the host's name
	Prefix         string // of all names of objects
	Blobs          string // what follows it for blobs; "" is "blobs/"
	Manifests      string // and for entries; "" is "manifests/"
	Name           string // separates the entries of caches that share blobs; "" is "strake"
	Credentials    Credentials
	Parallel       int // parts of a blob that are uploaded at once, each held in memory; 0 is 4
	Proxy          func(*http.Request) (*url.URL, error)
	Now            func() time.Time
}

// Backend is a remote.Backend.
type Backend struct {
	opt    Options
	base   *url.URL // with the bucket
	client *wire.Client
	// Blobs longer than single go up in parts of at least part bytes.
	single, part int64

	mu     sync.Mutex        // guards what follows, and is held while bundles are read and written
	read   map[string]bundle // by name, what was read and written so far
	known  []remote.Held     // the entries of all, the newest of each key
	loaded bool              // they were read once
	keeps  bool              // bundles cannot be removed
}

var bucketName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$`)

// New checks the options; it sends nothing.
func New(opt Options) (*Backend, error) {
	switch {
	case !bucketName.MatchString(opt.Bucket):
		return nil, fmt.Errorf("%q is no name of a bucket", opt.Bucket)
	case opt.Region == "":
		return nil, errors.New("the s3 cache needs a region: give region=, or set AWS_REGION")
	case !bucketName.MatchString(opt.Region): // it becomes part of a host's name
		return nil, fmt.Errorf("%q is no name of a region", opt.Region)
	case (opt.Credentials.AccessKeyID == "") != (opt.Credentials.SecretAccessKey == ""):
		return nil, errors.New("the s3 cache needs both access_key_id and secret_access_key, or neither")
	}
	opt.Blobs, opt.Manifests, opt.Name = or(opt.Blobs, "blobs/"), or(opt.Manifests, "manifests/"), or(opt.Name, "strake")
	domain := "amazonaws.com"
	if strings.HasPrefix(opt.Region, "cn-") {
		domain += ".cn"
	}
	opt.Endpoint = or(opt.Endpoint, "https://s3."+opt.Region+"."+domain)
	if opt.Parallel <= 0 {
		opt.Parallel = 4
	}
	u, err := url.Parse(opt.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("endpoint_url must be like https://host")
	}
	u.RawPath, u.Path = "", strings.TrimRight(u.Path, "/")+"/"
	// An address has no names below it, and no certificate holds for two labels.
	if opt.PathStyle || net.ParseIP(u.Hostname()) != nil || strings.Contains(opt.Bucket, ".") && u.Scheme == "https" {
		u.Path += opt.Bucket + "/"
	} else {
		u.Host = opt.Bucket + "." + u.Host
	}
	return &Backend{opt: opt, base: u, client: wire.New(opt.Proxy), single: 64 << 20, part: 16 << 20, read: map[string]bundle{}}, nil
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// Name is what warnings call it.
func (b *Backend) Name() string { return "s3 " + b.opt.Bucket + "/" + b.opt.Prefix }

func (b *Backend) blob(d v1.Descriptor) string { return b.opt.Prefix + b.opt.Blobs + d.Digest.String() }

// request is for an object; sum is that of the body.
func (b *Backend) request(method, object, sum string) wire.Request {
	u := *b.base
	u.Path += object
	u.RawPath = escape(u.Path, true)
	return wire.Request{
		Method: method, URL: &u, Header: http.Header{}, Explain: b.explain,
		Sign: func(r *http.Request) { b.opt.Credentials.sign(r, b.opt.Region, sum, b.opt.Now()) },
	}
}

// answer is what S3 says in XML of an error.
type answer struct {
	XMLName xml.Name
	Code    string `xml:"Code"`
	Message string `xml:"Message"`
	Region  string `xml:"Region"`
}

// explain puts an error in words. Messages of S3 may hold the key's id but no secret; only those that help are shown.
func (b *Backend) explain(h http.Header, body []byte) string {
	var a answer
	_ = xml.Unmarshal(body, &a) // what cannot be read has no code
	server, err := http.ParseTime(h.Get("Date"))
	skew := b.opt.Now().Sub(server)
	switch {
	case a.Code == "RequestTimeTooSkewed" || err == nil && skew.Abs() > maxSkew && (a.Code == "" || strings.Contains(a.Code, "Expired") || a.Code == "AccessDenied"):
		if err != nil {
			return "this machine's clock differs too much from the server's; set it"
		}
		way := "ahead of"
		if skew < 0 {
			way = "behind"
		}
		return fmt.Sprintf("this machine's clock is %s %s the server's; set it", skew.Abs().Round(time.Minute), way)
	case a.Code == "NoSuchBucket":
		return "there is no bucket " + b.opt.Bucket
	case a.Code == "AccessDenied":
		return "AccessDenied: the key needs s3:GetObject, s3:PutObject, s3:AbortMultipartUpload and s3:ListBucket (without which S3 does not tell what is missing)"
	case a.Code == "SignatureDoesNotMatch":
		return "the secret access key is not the one of the access key id, or region= is not the server's"
	case a.Code == "InvalidAccessKeyId":
		return "the server does not know the access key id"
	case a.Code == "AuthorizationHeaderMalformed" || a.Code == "PermanentRedirect" || h.Get("X-Amz-Bucket-Region") != "" && h.Get("X-Amz-Bucket-Region") != b.opt.Region:
		if r := or(a.Region, h.Get("X-Amz-Bucket-Region")); r != "" {
			return "the bucket is in the region " + r
		}
		return a.Code + ": check region= and endpoint_url="
	}
	return a.Code
}

// get fetches an object. That there is no such bucket, or key of access, is another error than that there is no such object.
func (b *Backend) get(ctx context.Context, object string) (*wire.Answer, error) {
	r := b.request(http.MethodGet, object, emptySum)
	r.Pass = []int{http.StatusNotFound}
	resp, err := b.client.Do(ctx, r)
	if err != nil || resp.Status != http.StatusNotFound {
		return resp, err
	}
	text, err := wire.ReadAll(resp, maxReply)
	if err != nil {
		return nil, err
	}
	var a answer
	if xml.Unmarshal(text, &a) == nil && a.Code != "" && a.Code != "NoSuchKey" {
		return nil, errors.New(wire.Clean(b.explain(resp.Header, text)))
	}
	return nil, remote.ErrNotFound
}

// Open streams a blob.
func (b *Backend) Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	resp, err := b.get(ctx, b.blob(d))
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", d.Digest, err)
	}
	return resp.Body, nil
}

// Put stores a blob.
func (b *Backend) Put(ctx context.Context, d v1.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	head := b.request(http.MethodHead, b.blob(d), emptySum)
	head.Pass = []int{http.StatusNotFound}
	resp, err := b.client.Do(ctx, head)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", d.Digest, err)
	}
	wire.Drain(resp)
	if resp.Status != http.StatusNotFound && resp.Size == d.Size {
		return nil
	}
	if d.Size > b.single {
		err = b.multipart(ctx, d, open)
	} else {
		err = b.put(ctx, b.blob(d), d.Digest.Hex, d.Size, open)
	}
	if err != nil {
		return fmt.Errorf("storing %s: %w", d.Digest, err)
	}
	return nil
}

func (b *Backend) put(ctx context.Context, object, sum string, size int64, open func(context.Context) (io.ReadCloser, error)) error {
	r := b.request(http.MethodPut, object, sum)
	r.Body, r.Size = open, size
	resp, err := b.client.Do(ctx, r)
	if err != nil {
		return err
	}
	wire.Drain(resp)
	return nil
}
