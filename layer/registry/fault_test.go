package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// cut ends a connection in the middle of an answer.
func cut(w http.ResponseWriter) {
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// blobServer serves one blob with a fault in each request that faults knows, and rightly after that.
func blobServer(t *testing.T, content []byte, faults ...http.HandlerFunc) (host string, requests *atomic.Int32) {
	requests = new(atomic.Int32)
	host = fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		n := int(requests.Add(1))
		if n <= len(faults) && faults[n-1] != nil {
			faults[n-1](w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	return host, requests
}

// part serves the bytes that are asked for up to end, and then cuts the connection.
func part(content []byte, end int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		from := 0
		if s := r.Header.Get("Range"); s != "" {
			_, _ = fmt.Sscanf(s, "bytes=%d-", &from)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
			w.Header().Set("Content-Length", strconv.Itoa(len(content)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		}
		_, _ = w.Write(content[from:end])
		cut(w)
	}
}

func status(code int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
	}
}

func TestFetchFaults(t *testing.T) {
	content := random(1 << 20)
	whole := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) } // chunked, and deaf to ranges
	other := bytes.Clone(content)
	other[len(other)/2] ^= 1
	for _, tt := range []struct {
		name     string
		faults   []http.HandlerFunc
		requests int32
		errors   []string
	}{
		{"resumed", []http.HandlerFunc{part(content, 1000), part(content, 500_000)}, 3, nil},
		{"resumed without ranges", []http.HandlerFunc{part(content, 700_000), whole}, 2, nil},
		{"busy", []http.HandlerFunc{status(503), status(429, "Retry-After", "0"), status(500)}, 4, nil},
		{"busy in the middle", []http.HandlerFunc{part(content, 1000), status(502), status(504)}, 4, nil},
		{
			"cut for ever",
			[]http.HandlerFunc{part(content, 10), part(content, 20), part(content, 30), part(content, 40), part(content, 50), part(content, 60)},
			5,
			[]string{"after 5 attempts", "50 of 1048576 bytes"},
		},
		{
			"wrong digest",
			[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(other) }},
			1,
			[]string{sum(other).String(), sum(content).String()},
		},
		{
			"short",
			[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "9")
				_, _ = w.Write(content[:9])
			}},
			1,
			[]string{"has 9 bytes, the manifest says 1048576"},
		},
		{
			"long",
			[]http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content); _, _ = w.Write(content) }},
			1,
			[]string{"more than the 1048576 bytes"},
		},
		{"wrong range", []http.HandlerFunc{part(content, 10), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 20-1048575/1048576")
			w.WriteHeader(http.StatusPartialContent)
		}}, 2, []string{"bytes from 20 on, 10 was asked for"}},
		{"broken range", []http.HandlerFunc{part(content, 10), status(206, "Content-Range", "pages 1-2")}, 2, []string{`"pages 1-2"`}},
		{"a long wait", []http.HandlerFunc{status(429, "Retry-After", "7200")}, 1, []string{"asks to wait for 2h0m0s"}},
		{"forbidden", []http.HandlerFunc{status(403)}, 1, []string{"may not be accessed without a login"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, requests := blobServer(t, content, tt.faults...)
			b, err := pull(t, client(t, Options{}), host+"/r", blob(content))
			if tt.errors != nil {
				wantError(t, err, append(tt.errors, sum(content).String())...)
			} else if err != nil || !bytes.Equal(b, content) {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			if n := requests.Load(); n != tt.requests {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
		})
	}
}

func TestFetchRetryAfter(t *testing.T) {
	content := random(100)
	host, _ := blobServer(t, content, status(429, "Retry-After", "1"))
	start := time.Now()
	if _, err := pull(t, client(t, Options{}), host+"/r", blob(content)); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < time.Second {
		t.Errorf("tried again after %s, want 1s", d)
	}
}

func TestFetchStall(t *testing.T) {
	content := random(100_000)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	host, requests := blobServer(t, content, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content[:50_000])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	c := client(t, Options{})
	c.pace.stall = 100 * time.Millisecond
	r, err := c.open(t.Context(), repository(t, host+"/r"), blob(content))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	wait := r.wait
	r.wait = func(try int, err error) error {
		r.stall = time.Hour // of the second connection, which a busy machine may serve slowly
		return wait(try, err)
	}
	b, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(b, content) || requests.Load() != 2 {
		t.Fatalf("%d bytes, %v, %d requests", len(b), err, requests.Load())
	}
}

func TestFetchCancel(t *testing.T) {
	content := random(100_000)
	started := make(chan struct{}, 1)
	host, _ := blobServer(t, content, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content[:50_000])
		_ = http.NewResponseController(w).Flush()
		started <- struct{}{}
		<-r.Context().Done()
	})
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	c := client(t, Options{})
	c.pace.stall = time.Hour // nothing else ends it
	r, err := c.FetchBlob(ctx, host+"/r", blob(content))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() { <-started; cancel(why) }()
	if _, err := io.ReadAll(r); !errors.Is(err, why) {
		t.Errorf("error %v, want the cause", err)
	}
}

// TestRedirect follows a blob to another host, which must not see the credentials.
func TestRedirect(t *testing.T) {
	content := random(100_000)
	var leaked atomic.Bool
	var ranges atomic.Int32
	storage := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Referer") != "" {
			leaked.Store(true)
		}
		if r.Header.Get("Range") == "" {
			part(content, 10)(w, r)
		}
		ranges.Add(1)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	_, port, _ := strings.Cut(storage, ":")
	host := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path != "/v2/" {
			http.Redirect(w, r, "http://localhost:"+port+"/blob?signature=verysecret", http.StatusTemporaryRedirect)
		}
	})
	c := client(t, Options{AuthFiles: []string{auths(t, host, userAuth())}})
	b, err := pull(t, c, host+"/r", blob(content))
	if err != nil || !bytes.Equal(b, content) || ranges.Load() != 1 {
		t.Fatalf("%d bytes, %v, %d ranges", len(b), err, ranges.Load())
	}
	if leaked.Load() {
		t.Error("the storage saw credentials or where they came from")
	}
}

func TestRedirectRefused(t *testing.T) {
	for _, tt := range []struct{ from, to, want string }{
		{"https://registry.example/v2/x", "http://storage.example/x", "from HTTPS to http"},
		{"https://registry.example/v2/x", "https://169.254.169.254/latest", "address of this machine"},
		{"https://registry.example/v2/x", "https://[::ffff:169.254.169.254]/latest", "address of this machine"},
		{"https://registry.example/v2/x", "https://localhost/x", "address of this machine"},
		{"https://registry.example/v2/x", "https://10.0.0.1/x", ""},
		{"http://127.0.0.1:5000/v2/x", "http://localhost:9000/x", ""},
	} {
		from, to := httptest.NewRequest(http.MethodGet, tt.from, nil), httptest.NewRequest(http.MethodGet, tt.to, nil)
		to.Header.Set("Authorization", "Basic x")
		err := checkRedirect(to, []*http.Request{from})
		if tt.want != "" {
			wantError(t, err, tt.want)
		} else if err != nil {
			t.Errorf("%s to %s: %v", tt.from, tt.to, err)
		}
		if to.Header.Get("Authorization") != "" {
			t.Errorf("%s to %s carries credentials", tt.from, tt.to)
		}
	}
}

// uploads is a small registry for pushes whose faults are set by step ("POST", "PATCH", "PUT") and number of the request.
type uploads struct {
	mu     sync.Mutex
	count  map[string]int
	faults map[string]http.HandlerFunc // by "PATCH 1"
	got    []byte
	stored map[string][]byte
	expect []string
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.count[r.Method]++
	fault := u.faults[fmt.Sprintf("%s %d", r.Method, u.count[r.Method])]
	u.mu.Unlock()
	if fault != nil {
		fault(w, r)
		return
	}
	switch r.Method {
	case http.MethodHead:
		w.WriteHeader(http.StatusNotFound)
	case http.MethodPost:
		w.Header().Set("Location", "uploads/1?state=a%2Fb") // relative, with a query
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPatch:
		b, _ := io.ReadAll(r.Body)
		u.mu.Lock()
		u.got = b
		u.expect = append(u.expect, r.Header.Get("Expect"))
		u.mu.Unlock()
		w.Header().Set("Location", r.URL.RequestURI())
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPut:
		u.mu.Lock()
		u.stored[r.URL.Query().Get("digest")+" "+r.URL.Query().Get("state")] = u.got
		u.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
	}
}

// slowly reads a part of an upload before f answers.
func slowly(n int64, f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, n)
		f(w, r)
	}
}

func TestPushFaults(t *testing.T) {
	content := random(1 << 20)
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for _, tt := range []struct {
		name   string
		faults map[string]http.HandlerFunc
		patch  int
		errors []string
	}{
		{"good", nil, 1, nil},
		{"busy", map[string]http.HandlerFunc{"POST 1": status(503), "POST 2": status(429, "Retry-After", "0")}, 1, nil},
		{"cut in the middle", map[string]http.HandlerFunc{"PATCH 1": slowly(1000, abort), "PATCH 2": slowly(500_000, abort)}, 3, nil},
		{"server error at the end", map[string]http.HandlerFunc{"PUT 1": status(500)}, 2, nil},
		{"upload lost", map[string]http.HandlerFunc{"PUT 1": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown to registry"}]}`)
		}}, 2, nil},
		{"too large", map[string]http.HandlerFunc{"PATCH 1": slowly(1<<20, status(413))}, 1, []string{"too large", "client_max_body_size"}},
		{"refused", map[string]http.HandlerFunc{"POST 1": status(403)}, 0, []string{"may not be accessed"}},
		{"no location", map[string]http.HandlerFunc{"POST 1": status(202)}, 0, []string{"does not tell where to upload to"}},
		{"other location", map[string]http.HandlerFunc{"POST 1": status(202, "Location", "https://169.254.169.254/x")}, 0, []string{"address of this machine"}},
		{"wrong digest stored", map[string]http.HandlerFunc{"PUT 1": status(201, "Docker-Content-Digest", sum(nil).String())}, 1, []string{sum(nil).String(), sum(content).String()}},
		{"no repository", map[string]http.HandlerFunc{"POST 1": status(404)}, 0, []string{"not found in the registry"}},
	} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s known=%t", tt.name, known), func(t *testing.T) {
				u := &uploads{count: map[string]int{}, faults: tt.faults, stored: map[string][]byte{}}
				host := fake(t, u.ServeHTTP)
				c := client(t, Options{})
				d, err := c.PushBlob(t.Context(), repository(t, host+"/r"), upload(content, known))
				u.mu.Lock() // a request that was given up may still be served
				defer u.mu.Unlock()
				if n := u.count[http.MethodPatch]; n != tt.patch {
					t.Errorf("%d PATCHes, want %d", n, tt.patch)
				}
				if tt.errors != nil {
					wantError(t, err, tt.errors...)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if d.Digest != sum(content) || d.Size != int64(len(content)) || d.MediaType == "" {
					t.Errorf("descriptor %+v", d)
				}
				if !bytes.Equal(u.stored[sum(content).String()+" a/b"], content) {
					t.Error("the blob is not stored as it is")
				}
			})
		}
	}
}

func TestPushStall(t *testing.T) {
	u := &uploads{count: map[string]int{}, stored: map[string][]byte{}}
	hang := make(chan struct{})
	host := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch && r.Header.Get("Expect") == "" { // the first attempt
			slowly(1000, func(http.ResponseWriter, *http.Request) { <-hang })(w, r)
			return
		}
		u.ServeHTTP(w, r)
	})
	t.Cleanup(func() { close(hang) }) // before the server is closed
	c := client(t, Options{})
	c.pace.stall = 500 * time.Millisecond
	up := upload(random(32<<20), false) // more than the buffers in between
	opened, open := 0, up.Open
	up.Open = func(ctx context.Context) (io.ReadCloser, error) {
		if opened++; opened > 1 {
			c.pace.stall = time.Hour // a busy machine may be slow to take what it takes
		}
		return open(ctx)
	}
	if _, err := c.PushBlob(t.Context(), repository(t, host+"/r"), up); err != nil {
		t.Fatal(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.stored) != 1 || opened != 2 {
		t.Errorf("stored %d after %d attempts", len(u.stored), opened)
	}
}

// waiting is a source that gives some bytes, says that it has, and then waits for its context.
type waiting struct {
	io.Reader
	ctx    context.Context //nolint:containedctx // it is a test's source
	given  func()
	closed chan struct{}
}

func (w waiting) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err == io.EOF {
		w.given()
		<-w.ctx.Done()
		return 0, w.ctx.Err()
	}
	return n, err
}

func (w waiting) Close() error { close(w.closed); return nil }

func TestPushCancel(t *testing.T) {
	u := &uploads{count: map[string]int{}, stored: map[string][]byte{}}
	host := fake(t, u.ServeHTTP)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	closed := make(chan struct{})
	_, err := client(t, Options{}).PushBlob(ctx, repository(t, host+"/r"), Upload{Open: func(ctx context.Context) (io.ReadCloser, error) {
		return waiting{bytes.NewReader(random(1000)), ctx, cancel, closed}, nil
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Error("the source was not closed")
	}
}

func TestPushBadSource(t *testing.T) {
	host := fake(t, (&uploads{count: map[string]int{}, stored: map[string][]byte{}}).ServeHTTP)
	c := client(t, Options{})
	for _, tt := range []struct {
		name string
		up   func(u *Upload)
		want string
	}{
		{"open", func(u *Upload) {
			u.Open = func(context.Context) (io.ReadCloser, error) { return nil, errors.New("no disk") }
		}, "no disk"},
		{"read", func(u *Upload) {
			u.Open = func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(strings.NewReader("abc"), failing{})), nil
			}
		}, "bad sector"},
		{"long", func(u *Upload) { u.Known.Size-- }, "not the 99 that were announced"},
		{"short", func(u *Upload) { u.Known.Size++ }, "not the 101 that were announced"},
	} {
		u := upload(random(100), true)
		tt.up(&u)
		_, err := c.PushBlob(t.Context(), repository(t, host+"/r"), u)
		wantError(t, err, tt.want, "reading the blob")
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("bad sector") }

// TestTokenRunsOut meets a 401 in the middle of an upload and of a download.
func TestTokenRunsOut(t *testing.T) {
	content := random(1 << 20)
	var tokens, patches atomic.Int32
	var realm string
	refuse := func(w http.ResponseWriter) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="s",scope="repository:r:pull,push",error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	up := &uploads{count: map[string]int{}, stored: map[string][]byte{}}
	host := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			fmt.Fprintf(w, `{"access_token":"token-%d","expires_in":3600}`, tokens.Add(1))
			return
		}
		var n int32
		_, _ = fmt.Sscanf(r.Header.Get("Authorization"), "Bearer token-%d", &n)
		switch {
		case n == 0 || n < tokens.Load():
			refuse(w)
		case r.Method == http.MethodPatch && patches.Add(1) == 1, r.Header.Get("Range") != "" && n == 2:
			_, _ = io.CopyN(io.Discard, r.Body, 1000)
			refuse(w)
		case r.Method == http.MethodGet && n == 2:
			part(content, 1000)(w, r)
		case r.Method == http.MethodGet:
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		default:
			up.ServeHTTP(w, r)
		}
	})
	realm = "http://" + host + "/token"
	c := client(t, Options{})
	if _, err := c.PushBlob(t.Context(), repository(t, host+"/r"), upload(content, false)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(up.stored[sum(content).String()+" a/b"], content) {
		t.Error("the blob is not stored as it is")
	}
	tokens.Store(1)
	b, err := pull(t, client(t, Options{}), host+"/r", blob(content))
	if err != nil || !bytes.Equal(b, content) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if n := tokens.Load(); n != 3 {
		t.Errorf("%d tokens, want 3", n)
	}
}

// TestSecrets lets a registry echo everything that it is sent: none of it may come out.
func TestSecrets(t *testing.T) {
	const password = "hunter2hunter2"
	var realm, scheme string
	host := fake(t, func(w http.ResponseWriter, r *http.Request) {
		_, p, _ := r.BasicAuth()
		echo := r.Header.Get("Authorization") + " " + p
		if r.URL.Path == "/token" {
			_, _ = io.WriteString(w, `{"token":"tokentokentoken"}`)
			return
		}
		if r.URL.Path == "/v2/" || r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", scheme+` realm="`+realm+`"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"errors":[{"code":"X","message":"you sent %s"}]}`, echo)
	})
	realm = "http://" + host + "/token"
	for _, scheme = range []string{"Basic", "Bearer"} {
		c := client(t, Options{AuthFiles: []string{auths(t, host, map[string]string{"username": "u", "password": password})}})
		_, err := c.Resolve(t.Context(), reference(t, c, host+"/r"), amd64)
		wantError(t, err, "you sent", "***")
		for _, secret := range []string{password, "tokentokentoken", "aHVudGVyMmh1bnRlcjI", basic(credential{AuthConfig: v1AuthConfig("u", password)})} {
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, errors.Unwrap(err)), secret) {
				t.Errorf("%s: the error tells %q: %v", scheme, secret, err)
			}
		}
	}
}

func TestECRHint(t *testing.T) {
	err := &StatusError{Status: 404, Code: "NAME_UNKNOWN"}
	got := withCreateHint(repository(t, "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/app"), err)
	wantError(t, got, "aws ecr create-repository --region eu-west-1 --repository-name team/app")
	if got := withCreateHint(repository(t, "ghcr.io/team/app"), err); !errors.Is(got, err) || got.Error() != err.Error() {
		t.Errorf("a hint for another registry: %v", got)
	}
}

func TestPushManifestImmutable(t *testing.T) {
	raw := []byte(`{"schemaVersion":2,"config":{},"layers":[]}`)
	digest := sum(raw)
	host := fake(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPut:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"errors":[{"code":"TAG_INVALID","message":"The image tag '1' already exists and cannot be overwritten because the tag is immutable."}]}`)
		case http.MethodHead:
			w.Header().Set("Docker-Content-Digest", digest.String())
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Content-Length", "43")
		}
	})
	c := client(t, Options{})
	ref := reference(t, c, host+"/r:1")
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	if err := c.PushManifest(t.Context(), ref, raw, mediaType); err != nil {
		t.Errorf("the same manifest: %v", err)
	}
	digest = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}
	wantError(t, c.PushManifest(t.Context(), ref, raw, mediaType), "exists with other content", "immutable")
}

// sleepy is a source that takes an hour for each read.
type sleepy struct{}

func (sleepy) Read(p []byte) (int, error) {
	time.Sleep(time.Hour)
	return len(p), nil
}

func (sleepy) Close() error { return nil }

// TestPushSlowSource has a source that is slower than a connection may be.
func TestPushSlowSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pace := pace{request: time.Minute, stall: time.Minute, commit: time.Minute}
		s := newSource(sleepy{}, Upload{}, pace)
		ctx, cancel := context.WithCancelCause(t.Context())
		s.watch(cancel)
		for range 3 {
			if _, err := s.Read(make([]byte, 1000)); err != nil || ctx.Err() != nil {
				t.Fatalf("%v, %v while the source was read", err, context.Cause(ctx))
			}
		}
		time.Sleep(2 * pace.stall)
		if cause := context.Cause(ctx); !errors.Is(cause, errStalled) {
			t.Errorf("%v after the connection took nothing for too long", cause)
		}
		s.stop()
	})
}
