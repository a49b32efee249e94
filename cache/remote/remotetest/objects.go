package remotetest

import (
	"io"
	"net/http"
	"strconv"
	"sync"
)

// Objects keeps what it is given by its path. That is enough for Bazel's protocol, and for S3's with the bucket in the path
// where nobody checks signatures. The zero value is empty.
type Objects struct {
	mu    sync.Mutex
	files map[string][]byte
}

func (o *Objects) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	o.mu.Lock()
	defer o.mu.Unlock()
	data, ok := o.files[r.URL.Path]
	switch {
	case err != nil:
	case r.Method == http.MethodPut:
		if o.files == nil {
			o.files = map[string][]byte{}
		}
		o.files[r.URL.Path] = body
	case !ok:
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<Error><Code>NoSuchKey</Code></Error>")
	default:
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data)
	}
}
