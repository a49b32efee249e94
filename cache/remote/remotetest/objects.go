package remotetest

import (
	"bytes"
	"encoding/xml"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Objects keeps what it is given by its path. That is enough for Bazel's protocol, and for S3's with the bucket in the path
// where nobody checks signatures. The zero value is empty.
type Objects struct {
	// Before, if not nil, sees each request first, and says whether it answered it.
	Before func(http.ResponseWriter, *http.Request) bool

	mu    sync.Mutex
	files map[string][]byte
}

// Replace changes the files whose paths hold part, and says how many there are.
func (o *Objects) Replace(part string, change func([]byte) []byte) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for path, data := range o.files {
		if strings.Contains(path, part) {
			o.files[path] = change(bytes.Clone(data))
			n++
		}
	}
	return n
}

func (o *Objects) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if o.Before != nil && o.Before(w, r) {
		return
	}
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
	case r.Method == http.MethodDelete:
		delete(o.files, r.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Query().Get("list-type") == "2":
		o.list(w, r.URL.Path, r.URL.Query().Get("prefix"))
	case !ok:
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<Error><Code>NoSuchKey</Code></Error>")
	default:
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data)
	}
}

// list answers ListObjectsV2.
func (o *Objects) list(w io.Writer, bucket, prefix string) {
	type object struct{ Key string }
	found := struct {
		XMLName  xml.Name `xml:"ListBucketResult"`
		Contents []object
	}{}
	for _, path := range slices.Sorted(maps.Keys(o.files)) {
		if key, ok := strings.CutPrefix(path, bucket); ok && strings.HasPrefix(key, prefix) {
			found.Contents = append(found.Contents, object{key})
		}
	}
	_ = xml.NewEncoder(w).Encode(found) // to a client that is gone
}
