package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/remotetest"
)

const (
	keyID  = remotetest.S3Key
	secret = remotetest.S3Secret
)

// gateway runs a server that checks signatures.
func gateway(t testing.TB) Options {
	return Options{
		Bucket: remotetest.S3Bucket, Region: remotetest.S3Region, Endpoint: remotetest.StartS3(t), Prefix: "a b/ü+",
		Credentials: Credentials{AccessKeyID: keyID, SecretAccessKey: secret}, Now: time.Now,
	}
}

func open(t testing.TB, opt Options) *Backend {
	t.Helper()
	b, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	b.client.Pause = time.Millisecond
	return b
}

func TestGateway(t *testing.T) {
	opt := gateway(t)
	remotetest.Exercise(t, func() remote.Backend { return open(t, opt) })

	t.Run("parts", func(t *testing.T) {
		b := open(t, opt)
		b.single, b.part = 6<<20, 5<<20
		data, d := remotetest.Blob(t, 77, 23<<20+17)
		if err := b.Put(t.Context(), d, remotetest.From(data, nil)); err != nil {
			t.Fatal(err)
		}
		if got, err := remotetest.Fetch(t.Context(), b, d); err != nil || !bytes.Equal(got, data) {
			t.Errorf("comes back with %d bytes, %v", len(got), err)
		}
		_, short := remotetest.Blob(t, 78, 12<<20)
		if err := b.Put(t.Context(), short, remotetest.From(data[:7<<20], nil)); err == nil || !strings.Contains(err.Error(), "reading what to send") {
			t.Errorf("a short blob: %v", err)
		}
		if _, err := remotetest.Fetch(t.Context(), b, short); !errors.Is(err, remote.ErrNotFound) {
			t.Errorf("a short blob is there: %v", err)
		}
	})
	t.Run("wrong bytes", func(t *testing.T) {
		_, d := remotetest.Blob(t, 79, 1000)
		b := open(t, opt)
		if err := b.Put(t.Context(), d, remotetest.From(make([]byte, 1000), nil)); err == nil {
			t.Error("a blob of another digest was stored")
		}
	})
	for name, tt := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"wrong secret": {func(o *Options) { o.Credentials.SecretAccessKey = "other-secret" }, "secret access key is not the one"},
		"unknown key":  {func(o *Options) { o.Credentials.AccessKeyID = "NOBODY" }, "XAdminUserNotFound"}, // AWS says InvalidAccessKeyId
		"no bucket":    {func(o *Options) { o.Bucket = "elsewhere" }, "there is no bucket elsewhere"},
		"late clock":   {func(o *Options) { o.Now = func() time.Time { return time.Now().Add(-time.Hour) } }, "clock is 1h0m0s behind the server's"},
		"early clock":  {func(o *Options) { o.Now = func() time.Time { return time.Now().Add(20 * time.Hour) } }, "clock is 20h0m0s ahead of the server's"},
		"nothing": {func(o *Options) {
			o.Credentials = Credentials{}
		}, "AccessDenied"},
	} {
		t.Run(name, func(t *testing.T) {
			opt := opt
			tt.change(&opt)
			b := open(t, opt)
			_, err := b.Records(t.Context(), make([]cache.Key, 2))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
			if s := fmt.Sprint(err, b.Name()); strings.Contains(s, secret) || strings.Contains(s, "other-secret") || strings.Contains(s, "Signature=") {
				t.Errorf("a secret is in %s", s)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	good := Options{Bucket: "bkt", Region: "r1", Now: time.Now}
	for name, change := range map[string]func(*Options){
		"bucket is a path":  func(o *Options) { o.Bucket = "../x" },
		"no bucket":         func(o *Options) { o.Bucket = "" },
		"no region":         func(o *Options) { o.Region = "" },
		"region is a host":  func(o *Options) { o.Region = "x.example/y" },
		"half a key":        func(o *Options) { o.Credentials.AccessKeyID = "a" },
		"endpoint of files": func(o *Options) { o.Endpoint = "file:///etc" },
		"endpoint's query":  func(o *Options) { o.Endpoint = "http://x/?a" },
	} {
		opt := good
		change(&opt)
		if _, err := New(opt); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for want, change := range map[string]func(*Options){
		"https://bucket1.s3.r1.amazonaws.com/p/blobs/":            func(*Options) {},
		"https://s3.r1.amazonaws.com/bucket1/p/blobs/":            func(o *Options) { o.PathStyle = true },
		"https://s3.r1.amazonaws.com/bucket.1/p/blobs/":           func(o *Options) { o.Bucket = "bucket.1" },
		"http://127.0.0.1:9000/bucket1/p/blobs/":                  func(o *Options) { o.Endpoint = "http://127.0.0.1:9000" },
		"http://bucket1.minio.example:9000/sub/p/blobs/":          func(o *Options) { o.Endpoint = "http://minio.example:9000/sub/" },
		"https://bucket1.s3.cn-1.amazonaws.com.cn/p/blobs/":       func(o *Options) { o.Region, o.Endpoint = "cn-1", "" },
		"http://minio.example/bucket1/p/layers/":                  func(o *Options) { o.Endpoint, o.PathStyle, o.Blobs = "http://minio.example", true, "layers/" },
		"https://bucket1.s3.us-gov-west-1.amazonaws.com/p/blobs/": func(o *Options) { o.Region = "us-gov-west-1" },
	} {
		opt := Options{Bucket: "bucket1", Region: "r1", Prefix: "p/", Now: time.Now}
		change(&opt)
		_, d := remotetest.Blob(t, 1, 1)
		b := open(t, opt)
		if got := b.request("GET", b.blob(d), emptySum).URL.String(); got != want+"sha256%3A"+d.Digest.Hex {
			t.Errorf("got %s, not %s…", got, want)
		}
	}
}

// fake answers with what a test says.
func fake(t *testing.T, h http.HandlerFunc) *Backend {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return open(t, Options{Bucket: "bkt", Region: "r1", Endpoint: s.URL, Now: time.Now, Credentials: Credentials{AccessKeyID: keyID, SecretAccessKey: secret}})
}

func TestServersThatFail(t *testing.T) {
	data, d := remotetest.Blob(t, 1, 300_000)
	t.Run("slow down", func(t *testing.T) {
		var n atomic.Int32
		b := fake(t, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1)%3 != 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = io.WriteString(w, "<Error><Code>SlowDown</Code></Error>")
				return
			}
			_, _ = w.Write(data)
		})
		if got, err := remotetest.Fetch(t.Context(), b, d); err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	})
	t.Run("joining fails", func(t *testing.T) {
		var aborted atomic.Bool
		b := fake(t, func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			switch {
			case r.Method == http.MethodHead:
				w.WriteHeader(http.StatusNotFound)
			case q.Has("uploads"):
				_, _ = io.WriteString(w, "<InitiateMultipartUploadResult><UploadId>u&amp;1</UploadId></InitiateMultipartUploadResult>")
			case r.Method == http.MethodDelete:
				aborted.Store(q.Get("uploadId") == "u&1")
			case r.Method == http.MethodPost:
				_, _ = io.WriteString(w, "<Error><Code>InternalError</Code></Error>")
			default:
				_, _ = io.Copy(io.Discard, r.Body)
			}
		})
		b.single, b.part = 1000, 70_000
		if err := b.Put(t.Context(), d, remotetest.From(data, nil)); err == nil || !strings.Contains(err.Error(), "InternalError") {
			t.Errorf("got %v", err)
		}
		if !aborted.Load() {
			t.Error("the upload was left behind")
		}
	})
	t.Run("canceled", func(t *testing.T) {
		var aborted atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		b := fake(t, func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			switch {
			case r.Method == http.MethodHead:
				w.WriteHeader(http.StatusNotFound)
			case q.Has("uploads"):
				_, _ = io.WriteString(w, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
			case r.Method == http.MethodDelete:
				aborted.Store(true)
			default:
				_, _ = io.Copy(io.Discard, r.Body)
				cancel()
			}
		})
		b.single, b.part = 1000, 50_000
		b.opt.Parallel = 1
		if err := b.Put(ctx, d, remotetest.From(data, nil)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if !aborted.Load() {
			t.Error("the upload was left behind")
		}
	})
	t.Run("another region", func(t *testing.T) {
		b := fake(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusMovedPermanently)
			_, _ = io.WriteString(w, "<Error><Code>PermanentRedirect</Code><Region>mars-1</Region></Error>")
		})
		if _, err := b.Records(t.Context(), make([]cache.Key, 1)); err == nil || !strings.Contains(err.Error(), "in the region mars-1") {
			t.Errorf("got %v", err)
		}
	})
}

// A blob that is shorter than it says was torn by a server; it is stored again.
func TestTornBlobIsStoredAgain(t *testing.T) {
	data, d := remotetest.Blob(t, 1, 1000)
	var put atomic.Bool
	b := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Length", "10")
			return
		}
		body, _ := io.ReadAll(r.Body)
		put.Store(bytes.Equal(body, data))
	})
	if err := b.Put(t.Context(), v1.Descriptor{Digest: d.Digest, Size: d.Size}, remotetest.From(data, nil)); err != nil || !put.Load() {
		t.Errorf("got %v, stored %v", err, put.Load())
	}
}
