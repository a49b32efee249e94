package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache/remote/wire"
)

const (
	maxParts  = 10_000 // "Amazon S3 multipart upload limits"
	abortTime = 10 * time.Second
)

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// part is one that the server has.
type part struct {
	Number int    `xml:"PartNumber"`
	ETag   string `xml:"ETag"`
}

// multipart uploads a large blob in parts, some at once; a part that fails is sent again from memory. An upload that
// does not come to its end is taken back, as its parts would be paid for.
func (b *Backend) multipart(ctx context.Context, d v1.Descriptor, open func(context.Context) (io.ReadCloser, error)) (err error) {
	object := b.blob(d)
	id, err := b.begin(ctx, object)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
		defer cancel()
		if resp, e := b.client.Do(ctx, b.query(http.MethodDelete, object, emptySum, url.Values{"uploadId": {id}})); e == nil {
			wire.Drain(resp)
		}
	}()
	src, err := open(ctx)
	if err != nil {
		return fmt.Errorf("reading what to send: %w", err)
	}
	defer src.Close()
	parts, err := b.parts(ctx, src, d, id)
	if err != nil {
		return err
	}
	return b.complete(ctx, object, id, parts)
}

// query is a request with a query.
func (b *Backend) query(method, object, sum string, q url.Values) wire.Request {
	r := b.request(method, object, sum)
	r.URL.RawQuery = canonicalQuery(q)
	return r
}

func (b *Backend) begin(ctx context.Context, object string) (id string, err error) {
	resp, err := b.client.Do(ctx, b.query(http.MethodPost, object, emptySum, url.Values{"uploads": {""}}))
	if err != nil {
		return "", err
	}
	text, err := wire.ReadAll(resp, maxReply)
	if err != nil {
		return "", err
	}
	var begun struct {
		UploadID string `xml:"UploadId"`
	}
	if err := xml.Unmarshal(text, &begun); err != nil || begun.UploadID == "" {
		return "", errors.New("the server began no upload in parts")
	}
	return begun.UploadID, nil
}

// parts reads src and uploads it.
func (b *Backend) parts(ctx context.Context, src io.Reader, d v1.Descriptor, id string) ([]part, error) {
	size := max(b.part, (d.Size+maxParts-1)/maxParts)
	parts := make([]part, (d.Size+size-1)/size)
	err := wire.Parts(ctx, src, d.Size, size, b.opt.Parallel, func(ctx context.Context, i int, data []byte) error {
		tag, err := b.uploadPart(ctx, b.blob(d), id, i+1, data)
		parts[i] = part{i + 1, tag}
		return err
	})
	return parts, err
}

func (b *Backend) uploadPart(ctx context.Context, object, id string, number int, data []byte) (tag string, err error) {
	r := b.query(http.MethodPut, object, sumOf(data), url.Values{"partNumber": {strconv.Itoa(number)}, "uploadId": {id}})
	r.Body = func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	r.Size = int64(len(data))
	resp, err := b.client.Do(ctx, r)
	if err != nil {
		return "", err
	}
	wire.Drain(resp)
	return resp.Header.Get("ETag"), nil
}

// complete joins the parts. The server may answer 200 before it knows, and say in the body that it failed.
func (b *Backend) complete(ctx context.Context, object, id string, parts []part) error {
	body, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"CompleteMultipartUpload"`
		Parts   []part   `xml:"Part"`
	}{Parts: parts})
	if err != nil {
		return fmt.Errorf("encoding the list of parts: %w", err)
	}
	r := b.query(http.MethodPost, object, sumOf(body), url.Values{"uploadId": {id}})
	r.Body, r.Size = wire.Bytes(body), int64(len(body))
	resp, err := b.client.Do(ctx, r)
	if err != nil {
		return err
	}
	text, err := wire.ReadAll(resp, maxReply)
	if err != nil {
		return err
	}
	var a answer
	if err := xml.Unmarshal(text, &a); err != nil || a.XMLName.Local != "CompleteMultipartUploadResult" {
		return fmt.Errorf("the server did not join the parts of an upload: %s", wire.Clean(a.Code))
	}
	return nil
}
