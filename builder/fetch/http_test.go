package fetch

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func sha(s string) v1.Hash {
	sum := sha256.Sum256([]byte(s))
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

func client(t *testing.T, opt Options) *Client {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	if opt.Path == "" {
		opt.Path = os.Getenv("PATH")
	}
	opt.UserAgent = "strake/test"
	c, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.pause = time.Millisecond
	return c
}

// site is a server that notes what it is asked.
type site struct {
	*httptest.Server
	mu  sync.Mutex
	log []string
}

func serve(t *testing.T, h http.HandlerFunc) *site {
	s := &site{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.log = append(s.log, r.Method+" "+r.URL.Path)
		s.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// asked returns what was asked since the last call.
func (s *site) asked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.log, ", ")
	s.log = nil
	return out
}

func get(t *testing.T, c *Client, req HTTPRequest) (*File, string) {
	t.Helper()
	f, err := c.HTTP(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return f, content(t, f)
}

func content(t *testing.T, f *File) string {
	t.Helper()
	r, err := f.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if r.Size != int64(len(b)) {
		t.Errorf("Size is %d, there are %d bytes", r.Size, len(b))
	}
	if sha(string(b)) != f.Digest {
		t.Errorf("the content is not that of the digest")
	}
	return string(b)
}

const long = "Thu, 02 Jan 2020 03:04:05 GMT"

func TestRevalidation(t *testing.T) {
	tests := map[string]struct {
		header, etag string // of the response
		noHead       bool
		again        string // what a second client asks
	}{
		"etag":           {"ETag", `"one"`, false, "HEAD /f"},
		"weak etag":      {"ETag", `W/"one"`, false, "HEAD /f"},
		"etag, no HEAD":  {"ETag", `"one"`, true, "HEAD /f, GET /f"},
		"last modified":  {"Last-Modified", long, false, "GET /f"},
		"no validator":   {"X-None", "", false, "GET /f"},
		"fresh modified": {"Last-Modified", time.Now().UTC().Format(http.TimeFormat), false, "GET /f"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bodies := 0
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set(tt.header, tt.etag)
				match := r.Header.Get("If-None-Match")
				switch {
				case r.Method == http.MethodHead && tt.noHead:
					w.WriteHeader(http.StatusMethodNotAllowed)
				case match != "" && strings.TrimPrefix(tt.etag, "W/") == match || r.Header.Get("If-Modified-Since") == long:
					w.WriteHeader(http.StatusNotModified)
				case r.Method == http.MethodGet:
					bodies++
					io.WriteString(w, "hello")
				}
			})
			dir := t.TempDir()
			c := client(t, Options{Dir: dir})
			if f, got := get(t, c, HTTPRequest{URL: s.URL + "/f"}); got != "hello" || f.Name != "f" {
				t.Errorf("got %q, named %q", got, f.Name)
			}
			get(t, c, HTTPRequest{URL: s.URL + "/f"})
			if got := s.asked(); got != "GET /f" {
				t.Errorf("one client asked: %s", got)
			}
			if _, got := get(t, client(t, Options{Dir: dir}), HTTPRequest{URL: s.URL + "/f"}); got != "hello" {
				t.Errorf("the second time: %q", got)
			}
			if got := s.asked(); got != tt.again {
				t.Errorf("the second client asked: %s; want %s", got, tt.again)
			}
			want := 1
			if tt.header == "X-None" || name == "fresh modified" {
				want = 2
			}
			if bodies != want {
				t.Errorf("%d transfers, want %d", bodies, want)
			}
		})
	}
}

func TestChangedContent(t *testing.T) {
	body := "one"
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+body+`"`)
		w.Header().Set("Last-Modified", long)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
	})
	dir := t.TempDir()
	for _, b := range []string{"one", "two", "three", "four", "five", "six", "five"} {
		body = b
		f, got := get(t, client(t, Options{Dir: dir}), HTTPRequest{URL: s.URL + "/f"})
		if got != b {
			t.Errorf("got %q, want %q", got, b)
		}
		if f.Modified.Format(http.TimeFormat) != long {
			t.Errorf("Modified is %v", f.Modified)
		}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "http", "*", "sha256-*"))
	if len(files) != keepRecords {
		t.Errorf("%d contents are kept, want %d", len(files), keepRecords)
	}
}

func TestChecksum(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Last-Modified", long)
		io.WriteString(w, "hello")
	})
	dir := t.TempDir()
	c := client(t, Options{Dir: dir})
	f, err := c.HTTP(t.Context(), HTTPRequest{URL: s.URL + "/f", Checksum: sha("hello")})
	if err != nil || s.asked() != "" || f.Digest != sha("hello") {
		t.Fatalf("resolving with a checksum: %v", err)
	}
	if content(t, f) != "hello" {
		t.Error("wrong content")
	}
	s.Close()
	f, _ = get(t, client(t, Options{Dir: dir}), HTTPRequest{URL: s.URL + "/f", Checksum: sha("hello")})
	r, err := f.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.MTime().UTC().Format(http.TimeFormat) != long {
		t.Errorf("from the cache, the time is %v", r.MTime())
	}
	if _, err := c.HTTP(t.Context(), HTTPRequest{URL: s.URL, Checksum: v1.Hash{Algorithm: "sha512", Hex: strings.Repeat("0", 128)}}); err == nil {
		t.Error("sha512 was taken")
	}
}

func TestChecksumMismatch(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	dir := t.TempDir()
	f, err := client(t, Options{Dir: dir}).HTTP(t.Context(), HTTPRequest{URL: s.URL + "/f", Checksum: sha("other")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Open(t.Context())
	want := "digest mismatch for " + s.URL + "/f: " + sha("hello").String() + " (expected: " + sha("other").String() + ")"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "http", "*", "*")); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
}

func TestBrokenCacheIsAMiss(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"x"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("hello"))
	})
	for name, harm := range map[string]func(dir string) error{
		"index": func(d string) error {
			return os.WriteFile(filepath.Join(d, "index.json"), []byte(`[{"sha256":"../x"}`), 0o600)
		},
		"content": func(d string) error {
			return os.WriteFile(filepath.Join(d, "sha256-"+sha("hello").Hex), []byte("HELLO"), 0o600)
		},
		"short": func(d string) error { return os.Truncate(filepath.Join(d, "sha256-"+sha("hello").Hex), 2) },
		"gone":  os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			get(t, client(t, Options{Dir: dir}), HTTPRequest{URL: s.URL + "/f"})
			dirs, _ := filepath.Glob(filepath.Join(dir, "http", "*"))
			if err := harm(dirs[0]); err != nil {
				t.Fatal(err)
			}
			if _, got := get(t, client(t, Options{Dir: dir}), HTTPRequest{URL: s.URL + "/f"}); got != "hello" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	for status, asked := range map[int]int{404: 1, 500: 1, 401: 1, 304: 1, 206: 1, 503: attempts} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		_, err := client(t, Options{}).HTTP(t.Context(), HTTPRequest{URL: strings.Replace(s.URL, "//", "//me:hush@", 1) + "/f?q=1"})
		if err == nil || status != 304 && !strings.Contains(err.Error(), "invalid response status "+strconv.Itoa(status)) {
			t.Errorf("status %d: %v", status, err)
		} else if strings.Contains(err.Error(), "hush") {
			t.Errorf("the password is in %v", err)
		}
		if n := strings.Count(s.asked(), "GET"); n != asked {
			t.Errorf("status %d: asked %d times, want %d", status, n, asked)
		}
	}
}

func TestNames(t *testing.T) {
	for url, want := range map[string]string{
		"http://h/a/b.txt?x=y#z": "b.txt", "http://h": "__unnamed__", "http://h/": "__unnamed__", "http://h/a/": "a",
		"http://h/a%2fb": "b", "http://h/..": "download", "http://h/%0a": "download", "http://h/a%20b": "a b",
	} {
		if got := nameOf(url); got != want {
			t.Errorf("%s: got %q, want %q", url, got, want)
		}
	}
	for _, url := range []string{"ftp://h/f", "f", "http:///f", "file:///etc/passwd", "http://me:hush@h:port/", "%"} {
		_, err := client(t, Options{}).HTTP(t.Context(), HTTPRequest{URL: url})
		if err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestCredentials(t *testing.T) {
	var got []string
	var mu sync.Mutex
	note := func(r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.URL.Path+"="+r.Header.Get("Authorization")+" "+r.UserAgent())
	}
	other := serve(t, func(w http.ResponseWriter, r *http.Request) { note(r); io.WriteString(w, "hello") })
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		note(r)
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, other.URL+"/there?sig=hush", http.StatusFound)
		case "/around":
			http.Redirect(w, r, "/here", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop?hush", http.StatusFound)
		case "/broken":
			http.Redirect(w, r, "http://127.0.0.1:1/?sig=hush", http.StatusFound)
		}
	})
	secrets := map[string]string{"HTTP_AUTH_TOKEN_127.0.0.1": "tok\n", "HTTP_AUTH_HEADER_127.0.0.1": "never"}
	opt := Options{Secret: func(id string) (string, bool, error) { v, ok := secrets[id]; return v, ok, nil }}
	for url, want := range map[string]string{
		"/f":      "[/f=Bearer tok strake/test]",
		"/around": "[/around=Bearer tok strake/test /here=Bearer tok strake/test]",
		"/away":   "[/away=Bearer tok strake/test /there= strake/test]",
	} {
		got = nil
		get(t, client(t, opt), HTTPRequest{URL: s.URL + url})
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", url, got, want)
		}
	}
	for _, path := range []string{"/loop", "/broken"} {
		_, err := client(t, opt).HTTP(t.Context(), HTTPRequest{URL: s.URL + path})
		if err == nil || strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "tok") {
			t.Errorf("%s: %v", path, err)
		}
	}
	secrets["HTTP_AUTH_TOKEN_127.0.0.1"] = "hush\nX-Evil: yes"
	if _, err := client(t, opt).HTTP(t.Context(), HTTPRequest{URL: s.URL + "/f"}); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("a secret of two lines: %v", err)
	}
	opt.Secret = func(string) (string, bool, error) { return "", false, errors.New("no such file") }
	if _, err := client(t, opt).HTTP(t.Context(), HTTPRequest{URL: s.URL + "/f"}); err == nil {
		t.Error("an unreadable secret was ignored")
	}
}

func TestResume(t *testing.T) {
	data := strings.Repeat("0123456789", 10_000)
	tests := map[string]struct {
		header  string
		ranges  bool // the server knows Range
		changed bool // the content changes after the first break
		breaks  int
		wantErr bool
	}{
		"range":               {`"v"`, true, false, 3, false},
		"no range":            {`"v"`, false, false, 1, false},
		"no validator":        {"", true, false, 1, false},
		"weak validator":      {`W/"v"`, true, false, 1, false},
		"changed in between":  {`"v"`, true, true, 1, false},
		"breaks for ever":     {`"v"`, true, false, 1000, true},
		"breaks from nothing": {"", false, false, 1000, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n, resumed := 0, 0
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				n++
				body, tag := data, tt.header
				if tt.changed && n > 1 {
					body, tag = strings.ToUpper(strings.ReplaceAll(data, "0", "x")), `"w"`
				}
				if tag != "" {
					w.Header().Set("ETag", tag)
				}
				from := 0
				if rng := r.Header.Get("Range"); rng != "" && tt.ranges && r.Header.Get("If-Range") == tag {
					fmt.Sscanf(rng, "bytes=%d-", &from)
					resumed++
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
				}
				w.Header().Set("Content-Length", strconv.Itoa(len(body)-from))
				if from > 0 {
					w.WriteHeader(http.StatusPartialContent)
				}
				if n <= tt.breaks {
					io.WriteString(w, body[from:from+(len(body)-from)/2])
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				}
				io.WriteString(w, body[from:])
			})
			c := client(t, Options{})
			f, err := c.HTTP(t.Context(), HTTPRequest{URL: s.URL + "/f"})
			if tt.wantErr {
				if err == nil || n != attempts {
					t.Errorf("after %d requests: %v", n, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := data
			if tt.changed {
				want = strings.ToUpper(strings.ReplaceAll(data, "0", "x"))
			}
			if content(t, f) != want {
				t.Error("wrong content")
			}
			if name == "range" && resumed != 3 || name != "range" && resumed != 0 {
				t.Errorf("resumed %d times", resumed)
			}
		})
	}
}

func TestCompressedTransfer(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			t.Error("gzip is not offered, as BuildKit does")
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		io.WriteString(z, "hello")
		z.Close()
	})
	if _, got := get(t, client(t, Options{}), HTTPRequest{URL: s.URL + "/f"}); got != "hello" {
		t.Errorf("got %q", got)
	}
}

func TestStall(t *testing.T) {
	release := make(chan struct{})
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/header" {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "hel")
			w.(http.Flusher).Flush()
		}
		if r.URL.Path == "/canceled" {
			cancel(cause)
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	for _, path := range []string{"/header", "/body"} {
		_, err := client(t, Options{Stall: 20 * time.Millisecond}).HTTP(t.Context(), HTTPRequest{URL: s.URL + path})
		if !errors.Is(err, errStalled) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := client(t, Options{}).HTTP(ctx, HTTPRequest{URL: s.URL + "/canceled"}); !errors.Is(err, cause) {
		t.Errorf("canceled: %v", err)
	}
}

func TestHugeHeader(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Huge", strings.Repeat("x", 2<<20))
		io.WriteString(w, "hello")
	})
	if _, err := client(t, Options{}).HTTP(t.Context(), HTTPRequest{URL: s.URL + "/f"}); err == nil {
		t.Error("a header of 2 MiB was taken")
	}
}

func TestConcurrent(t *testing.T) {
	n := 0
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		n++
		time.Sleep(20 * time.Millisecond)
		io.WriteString(w, "hello")
	})
	c := client(t, Options{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			f, err := c.HTTP(t.Context(), HTTPRequest{URL: s.URL + "/f"})
			if err != nil {
				t.Error(err)
				return
			}
			r, err := f.Open(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			r.Close()
		})
	}
	wg.Wait()
	if n != 1 {
		t.Errorf("%d transfers", n)
	}
}

func TestProgress(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	var done, total int64
	get(t, client(t, Options{}), HTTPRequest{URL: s.URL + "/f", Progress: func(d, n int64) { done, total = d, n }})
	if done != 5 || total != 5 {
		t.Errorf("progress ended at %d of %d", done, total)
	}
}

func FuzzNameOf(f *testing.F) {
	f.Add("http://h/a/b")
	f.Add("http://h/%2e%2e%2f")
	f.Fuzz(func(t *testing.T, url string) {
		name := nameOf(url)
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00\n") {
			t.Errorf("%q is named %q", url, name)
		}
	})
}

// A redirect leads to the content; its identity and its cache entry are those of the URL that was asked for.
func TestRedirects(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/old.txt":
			http.Redirect(w, r, "/new.bin?signature=hush", http.StatusFound)
		case "/new.bin":
			w.Header().Set("ETag", `"v"`)
			w.Header().Set("Content-Disposition", `attachment; filename="evil"`)
			if r.Header.Get("If-None-Match") == `"v"` {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			io.WriteString(w, "hello")
		case "/gone":
			http.Redirect(w, r, "/missing?signature=hush", http.StatusFound)
		case "/missing":
			w.WriteHeader(http.StatusNotFound)
		case "/file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		default:
			http.Redirect(w, r, r.URL.Path+"x", http.StatusMovedPermanently)
		}
	})
	dir := t.TempDir()
	for range 2 {
		f, got := get(t, client(t, Options{Dir: dir}), HTTPRequest{URL: s.URL + "/old.txt"})
		if got != "hello" || f.Name != "old.txt" || f.URL != s.URL+"/old.txt" {
			t.Errorf("got %q: %s from %s", got, f.Name, f.URL)
		}
	}
	if n := strings.Count(s.asked(), "GET /new.bin"); n != 1 {
		t.Errorf("the content was asked for %d times: %s", n, s.asked())
	}
	for path, want := range map[string]string{"/loop": "more than 10 redirects", "/gone": "404", "/file": "unsupported protocol scheme"} {
		_, err := client(t, Options{}).HTTP(t.Context(), HTTPRequest{URL: s.URL + path})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
