package builder_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"

	"github.com/strake-build/strake/builder/fetch"
)

// site is a host that has what is in the folder site of the context.
const site = "http://site.test/"

// fetcher fetches from there.
func (w *world) fetcher() *fetch.Client {
	w.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		name := filepath.Join(w.path("site"), filepath.Clean(r.URL.Path))
		data, err := os.ReadFile(name)
		if err != nil {
			http.NotFound(out, r)
			return
		}
		out.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(data)))
		http.ServeFile(out, r, name)
	}))
	w.t.Cleanup(server.Close)
	proxy, err := url.Parse(server.URL)
	must(w.t, err)
	c, err := fetch.New(fetch.Options{
		Dir: filepath.Join(w.dir, "remote"), Path: os.Getenv("PATH"), ProxyEnv: []string{"http_proxy=" + server.URL},
		Proxy: func(*http.Request) (*url.URL, error) { return proxy, nil },
	})
	must(w.t, err)
	return c
}
