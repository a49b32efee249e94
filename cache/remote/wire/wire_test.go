package wire_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strake-build/strake/cache/remote/wire"
)

func serve(t *testing.T, h http.HandlerFunc) (*wire.Client, *url.URL) {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL + "/secret-path?sig=secret-query")
	if err != nil {
		t.Fatal(err)
	}
	c := wire.New(nil)
	c.Pause = time.Millisecond
	return c, u
}

// body opens text, and counts in n.
func body(text string, n *atomic.Int32) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		n.Add(1)
		return io.NopCloser(strings.NewReader(text)), nil
	}
}

// answer is a server whose answers are text; if it stalls, they have no end. It needs no network, and so follows a clock of tests.
type answer struct {
	text   string
	stalls bool
}

// RoundTrip implements http.RoundTripper.
func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	body := answerBody{strings.NewReader(a.text), a.stalls, r.Context().Done()}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(body)}, nil
}

type answerBody struct {
	io.Reader
	stalls bool
	done   <-chan struct{} // the request was given up
}

func (b answerBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.stalls && n == 0 {
		<-b.done
	}
	select {
	case <-b.done:
		return 0, errors.New("broken connection")
	default:
		return n, err
	}
}

// ask asks a server that is quiet for too long after a minute.
func ask(t *testing.T, server answer) *wire.Answer {
	t.Helper()
	c := wire.New(nil)
	c.HTTP.Transport, c.Quiet = server, time.Minute
	a, err := c.Do(t.Context(), wire.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestStalledAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		data, err := wire.ReadAll(ask(t, answer{"begin", true}), 100)
		if took := time.Since(start); err == nil || !strings.Contains(err.Error(), "no byte came") || took != time.Minute {
			t.Errorf("got %q, %v after %v", data, err, took)
		}
	})
}

// An answer that nobody reads for a while is not given up.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := ask(t, answer{"text", false})
		time.Sleep(time.Hour)
		if data, err := wire.ReadAll(a, 100); err != nil || string(data) != "text" {
			t.Errorf("got %q, %v", data, err)
		}
	})
}

func TestAttempts(t *testing.T) {
	for name, tt := range map[string]struct {
		status     []int // of the answers; then 200
		retryAfter string
		attempts   int32
		ok         bool
	}{
		"at once":        {nil, "", 1, true},
		"busy":           {[]int{503, 500, 502}, "", 4, true},
		"too busy":       {[]int{503, 503, 503, 503, 503}, "", 4, false},
		"no":             {[]int{403}, "", 1, false},
		"limit":          {[]int{429}, "0", 2, true},
		"limit for long": {[]int{429}, "3600", 1, false},
		"redirect":       {[]int{302}, "", 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			var asked, opened atomic.Int32
			c, u := serve(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				n := int(asked.Add(1))
				if n > len(tt.status) {
					return
				}
				w.Header().Set("Location", "/elsewhere")
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				w.WriteHeader(tt.status[n-1])
			})
			a, err := c.Do(t.Context(), wire.Request{Method: http.MethodPut, URL: u, Body: body("text", &opened), Size: 4})
			if err == nil {
				wire.Drain(a)
			}
			if (err == nil) != tt.ok || asked.Load() != tt.attempts || opened.Load() != tt.attempts {
				t.Errorf("%d attempts, %d bodies, %v", asked.Load(), opened.Load(), err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the address is in %v", err)
			}
		})
	}
}

// What is to be sent and cannot be read is no trouble of the server.
func TestBrokenSource(t *testing.T) {
	var asked atomic.Int32
	c, u := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
	})
	broken := errors.New("disk on fire")
	_, err := c.Do(t.Context(), wire.Request{Method: http.MethodPut, URL: u, Size: 100, Body: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader("x"), iotestErr{broken})), nil
	}})
	if !errors.Is(err, broken) || asked.Load() > 1 {
		t.Errorf("got %v after %d attempts", err, asked.Load())
	}
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"a\n\tb\x1b[31m": "a b[31m", "": "", "\xff\xfe": "", strings.Repeat("x", 400): strings.Repeat("x", 300) + "…",
	} {
		if got := wire.Clean(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestPartsAreInOrderAndWhole(t *testing.T) {
	const total, size = 1000, 77
	text := strings.Repeat("0123456789", total/10)
	got := make([]string, (total+size-1)/size)
	err := wire.Parts(t.Context(), strings.NewReader(text), total, size, 3, func(_ context.Context, i int, data []byte) error {
		got[i] = string(data)
		return nil
	})
	if err != nil || strings.Join(got, "") != text {
		t.Errorf("got %q, %v", got, err)
	}
	no := errors.New("no")
	var sent atomic.Int32
	err = wire.Parts(t.Context(), strings.NewReader(text), total, 1, 3, func(context.Context, int, []byte) error {
		sent.Add(1)
		return no
	})
	if !errors.Is(err, no) || sent.Load() > 10 {
		t.Errorf("got %v after %d parts", err, sent.Load())
	}
}
