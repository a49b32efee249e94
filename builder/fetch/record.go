package fetch

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// record is what the cache knows of one content that a URL had.
type record struct {
	Hex  string `json:"sha256"`
	Size int64  `json:"size"`
	// ETag is without the mark of weakness, as servers are inconsistent with it.
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"lastModified,omitempty"`
	// Dated: LastModified may be used as a validator (RFC 9110 §8.8.2.2).
	Dated bool `json:"dated,omitempty"`
}

// keepRecords is how many contents are kept for a URL: servers that alternate exist, endless ones too.
const keepRecords = 4

// indexLimit bounds what is read of an index, in bytes.
const indexLimit = 1 << 20

func (r record) hash() v1.Hash   { return v1.Hash{Algorithm: "sha256", Hex: r.Hex} }
func (r record) content() string { return "sha256-" + r.Hex }

func (r record) modified() time.Time {
	t, err := http.ParseTime(r.LastModified)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// newRecord takes the validators from the header of a response.
func newRecord(h http.Header) record {
	r := record{ETag: etag(h), LastModified: h.Get("Last-Modified")}
	modified := r.modified()
	if modified.IsZero() {
		r.LastModified = ""
		return r
	}
	// A file may change twice in a second: its time says something only if it was old when it was served.
	date, err := http.ParseTime(h.Get("Date"))
	r.Dated = err == nil && date.Sub(modified) >= time.Minute
	return r
}

func etag(h http.Header) string { return strings.TrimPrefix(h.Get("ETag"), "W/") }

// records are the contents of a URL that the cache has, the newest first. A broken index is an empty one.
// Preconditions: e is locked, here and below.
func (e *entry) records() []record {
	name := e.path("index.json")
	if fi, err := os.Stat(name); err != nil || fi.Size() > indexLimit {
		return nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	var all []record
	if json.Unmarshal(b, &all) != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(r record) bool {
		if _, err := v1.NewHash("sha256:" + r.Hex); err != nil {
			return true
		}
		fi, err := os.Lstat(e.path(r.content()))
		return err != nil || !fi.Mode().IsRegular() || fi.Size() != r.Size
	})
}

// add puts r first and drops what is too much. The content is in place already.
func (e *entry) add(r record) error {
	all := []record{r}
	for _, old := range e.records() {
		if old.Hex != r.Hex && len(all) < keepRecords {
			all = append(all, old)
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encoding an index: %w", err)
	}
	temp := e.path("index.new") // under lock: nobody else writes it
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return fmt.Errorf("writing an index: %w", err)
	}
	if err := os.Rename(temp, e.path("index.json")); err != nil {
		return fmt.Errorf("writing an index: %w", err)
	}
	e.sweep(all)
	return nil
}

// sweep removes the contents that no record names.
func (e *entry) sweep(keep []record) {
	names, err := fs.Glob(os.DirFS(e.path(".")), "sha256-*")
	if err != nil {
		return
	}
	for _, n := range names {
		if !slices.ContainsFunc(keep, func(r record) bool { return r.content() == n }) {
			_ = os.Remove(e.path(n))
		}
	}
}
