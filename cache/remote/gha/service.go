package gha

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/strake-build/strake/cache/remote/wire"
)

// The cache service of GitHub Actions, version 2: a method is a POST of JSON (Twirp), which gives the address of a block
// blob of Azure, signed for reading or writing.
const (
	servicePath = "twirp/github.actions.results.api.v1.CacheService"
	maxReply    = 64 << 10
)

// errExists is that of an entry that is there already, or that another job is just making.
var errExists = errors.New("the entry exists")

type service struct {
	base         *url.URL
	token        string
	client       *wire.Client
	single, part int64 // see upload
}

// request are the fields of all methods, as Twirp spells them.
type request struct {
	Key         string   `json:"key"`
	Version     string   `json:"version"`
	RestoreKeys []string `json:"restore_keys,omitempty"`
	SizeBytes   string   `json:"size_bytes,omitempty"` // an int64 in JSON of protocol buffers
}

type reply struct {
	OK                bool   `json:"ok"`
	SignedUploadURL   string `json:"signed_upload_url"`
	SignedDownloadURL string `json:"signed_download_url"`
	MatchedKey        string `json:"matched_key"`
}

// call calls a method of the service (Twirp, with JSON).
func (s *service) call(ctx context.Context, method string, q request) (reply, error) {
	q.Version = entryVersion
	body, err := json.Marshal(q)
	if err != nil {
		return reply{}, fmt.Errorf("encoding a request: %w", err)
	}
	resp, err := s.client.Do(ctx, wire.Request{
		Method: http.MethodPost, URL: s.base.JoinPath(servicePath, method),
		Header:  http.Header{"Authorization": {"Bearer " + s.token}, "Content-Type": {"application/json"}},
		Body:    wire.Bytes(body),
		Size:    int64(len(body)),
		Pass:    []int{http.StatusConflict},
		Explain: explain,
	})
	if err != nil {
		return reply{}, err
	}
	if resp.Status == http.StatusConflict {
		wire.Drain(resp)
		return reply{}, errExists
	}
	raw, err := wire.ReadAll(resp, maxReply)
	if err != nil {
		return reply{}, err
	}
	var r reply
	if err := json.Unmarshal(raw, &r); err != nil {
		return reply{}, errors.New("the answer of the cache service cannot be read")
	}
	return r, nil
}

// explain puts an error of the service in words.
func explain(_ http.Header, body []byte) string {
	var e struct {
		Code string `json:"code"`
		Msg  string `json:"msg"`
	}
	if json.Unmarshal(body, &e) != nil {
		return ""
	}
	switch e.Code {
	case "permission_denied":
		return "this job may not write the cache (jobs of pull requests from forks may not): " + e.Msg
	case "unauthenticated":
		return "the service does not take the token; it is only good while its job runs"
	}
	return e.Code + ": " + e.Msg
}

// azure shows Azure's code of an error. Its messages may repeat the signed address.
func azure(h http.Header, _ []byte) string { return h.Get("X-Ms-Error-Code") }

// address reads a signed address. Who answers decides where data goes, but not over a worse connection than its own.
func (s *service) address(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || s.base.Scheme != "http") {
		return nil, errors.New("the cache service gives an address that cannot be used")
	}
	return u, nil
}

// find returns the address of the entry of that key; nil without an error if there is none.
func (s *service) find(ctx context.Context, key string) (*url.URL, error) {
	r, err := s.call(ctx, "GetCacheEntryDownloadURL", request{Key: key})
	if err != nil || !r.OK || r.MatchedKey != key {
		return nil, err
	}
	return s.address(r.SignedDownloadURL)
}

// newest returns the address and the key of the newest entry whose key begins with prefix; nil without an error if there is none.
func (s *service) newest(ctx context.Context, prefix string) (at *url.URL, key string, err error) {
	r, err := s.call(ctx, "GetCacheEntryDownloadURL", request{Key: prefix, RestoreKeys: []string{prefix}})
	if err != nil || !r.OK || !strings.HasPrefix(r.MatchedKey, prefix) {
		return nil, "", err
	}
	at, err = s.address(r.SignedDownloadURL)
	return at, r.MatchedKey, err
}

// errGone is what download returns for an address that is no good any more, or never was.
var errGone = errors.New("there is nothing at the signed address")

// download streams size bytes of a blob from an offset; all of it if size is 0.
func (s *service) download(ctx context.Context, from *url.URL, offset, size int64) (io.ReadCloser, error) {
	r := wire.Request{Method: http.MethodGet, URL: from, Header: http.Header{}, Explain: azure, Pass: []int{http.StatusForbidden, http.StatusNotFound}}
	if size > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+size-1))
	}
	resp, err := s.client.Do(ctx, r)
	switch {
	case err != nil:
		return nil, err
	case resp.Status/100 != 2:
		wire.Drain(resp)
		return nil, errGone
	case size > 0 && resp.Status != http.StatusPartialContent || size == 0 && resp.Status != http.StatusOK:
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s does not give the part of a file that was asked for", from.Host)
	}
	return resp.Body, nil
}

// create stores an entry. It is an errExists if there is one.
func (s *service) create(ctx context.Context, key string, size int64, open func(context.Context) (io.ReadCloser, error)) error {
	r, err := s.call(ctx, "CreateCacheEntry", request{Key: key})
	if err != nil {
		return err
	}
	if !r.OK {
		return errExists
	}
	to, err := s.address(r.SignedUploadURL)
	if err != nil {
		return err
	}
	if err := s.upload(ctx, to, size, open); err != nil {
		return err
	}
	r, err = s.call(ctx, "FinalizeCacheEntryUpload", request{Key: key, SizeBytes: strconv.FormatInt(size, 10)})
	if err == nil && !r.OK {
		err = errors.New("the cache service does not take what was uploaded")
	}
	return err
}

// parallel is how many parts of a blob go up at once, each held in memory.
const parallel = 4

// upload writes a block blob: at once, or if it is longer than single in blocks of part bytes.
func (s *service) upload(ctx context.Context, to *url.URL, size int64, open func(context.Context) (io.ReadCloser, error)) error {
	if size <= s.single {
		return s.put(ctx, to, "", http.Header{"X-Ms-Blob-Type": {"BlockBlob"}}, size, open)
	}
	src, err := open(ctx)
	if err != nil {
		return fmt.Errorf("reading what to send: %w", err)
	}
	defer src.Close()
	var list struct {
		XMLName xml.Name `xml:"BlockList"`
		Latest  []string `xml:"Latest"`
	}
	for i := range (size + s.part - 1) / s.part {
		list.Latest = append(list.Latest, base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%08d", i)))
	}
	err = wire.Parts(ctx, src, size, s.part, parallel, func(ctx context.Context, i int, data []byte) error {
		return s.put(ctx, to, "comp=block&blockid="+url.QueryEscape(list.Latest[i]), nil, int64(len(data)), wire.Bytes(data))
	})
	if err != nil {
		return err
	}
	body, err := xml.Marshal(list)
	if err != nil {
		return fmt.Errorf("encoding the list of blocks: %w", err)
	}
	return s.put(ctx, to, "comp=blocklist", nil, int64(len(body)), wire.Bytes(body))
}

func (s *service) put(ctx context.Context, to *url.URL, query string, h http.Header, size int64, open func(context.Context) (io.ReadCloser, error)) error {
	u := *to
	if query != "" {
		u.RawQuery += "&" + query
	}
	resp, err := s.client.Do(ctx, wire.Request{Method: http.MethodPut, URL: &u, Header: h, Body: open, Size: size, Explain: azure})
	if err != nil {
		return err
	}
	wire.Drain(resp)
	return nil
}
