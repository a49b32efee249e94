package builder_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/layer/image"
)

// damage is done to what a cache answers with. It gives what is sent, and how long that is said to be.
type damage struct {
	name string
	do   func(data []byte) (sent []byte, size int)
	// mild may leave a record one that can be read, which then says the same or something wrong.
	mild bool
}

func damages() []damage {
	say := func(b []byte) ([]byte, int) { return b, len(b) }
	return []damage{
		{name: "other", do: func(b []byte) ([]byte, int) { return say(bytes.Repeat([]byte("x"), len(b))) }},
		{name: "a bit", mild: true, do: func(b []byte) ([]byte, int) {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 4
			return say(b)
		}},
		{name: "cut", do: func(b []byte) ([]byte, int) { return say(b[:len(b)/2]) }},
		{name: "empty", do: func([]byte) ([]byte, int) { return say(nil) }},
		{name: "longer", mild: true, do: func(b []byte) ([]byte, int) { return say(append(bytes.Clone(b), b...)) }},
		{name: "torn", do: func(b []byte) ([]byte, int) { return b[:len(b)/2], len(b) }},
	}
}

// isLayer says whether an answer is of layers and not of records: an index of records may be compressed too.
func isLayer(b []byte) bool {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return false
	}
	first := make([]byte, 1)
	_, _ = io.ReadFull(z, first)
	return first[0] != '{'
}

// spoil has the server answer with damaged layers, or with damaged records. It counts them.
func (p *places) spoil(layers bool, d damage) *atomic.Int32 {
	var n atomic.Int32
	p.through = func(next http.Handler, w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		body, size := rec.Body.Bytes(), rec.Body.Len()
		found := rec.Code/100 == 2 && (r.Method == http.MethodGet || r.Method == http.MethodPost) && r.URL.Path != "/v2/"
		if found && isLayer(body) == layers {
			n.Add(1)
			body, size = d.do(body)
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		if r.Method != http.MethodHead {
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(body) // a client that has seen enough closes
	}
	return &n
}

// spoilFiles does the same to a cache in a folder.
func (p *places) spoilFiles(at string, layers bool, d damage) int {
	n := 0
	files, err := filepath.Glob(filepath.Join(p.dir, at, "blobs", "sha256", "*"))
	must(p.t, err)
	for _, f := range append(files, filepath.Join(p.dir, at, "index.json")) {
		data, err := os.ReadFile(f)
		must(p.t, err)
		if isLayer(data) == layers {
			n++
			data, _ = d.do(data)
			must(p.t, os.WriteFile(f, data, 0o600))
		}
	}
	return n
}

// insist builds and takes all layers, again without those of caches that turn out not to be what they should, as the command does.
func (w *world) insist(i *remote.Imports, text string) (img *image.Image, lost int) {
	w.t.Helper()
	lost = -1
	err := builder.WithoutLost(i, func() (err error) {
		lost++
		if img, err = w.build(text); err != nil {
			return err
		}
		for _, l := range img.Layers {
			if _, err := w.Layers.Unpacked(w.t.Context(), l, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatalf("after %d lost layers: %v", lost, err)
	}
	return img, lost
}

// checkUsual: the image has what usual makes of usualContext.
func (w *world) checkUsual(img *image.Image) {
	w.t.Helper()
	for name, want := range map[string]string{"app": "x", "top": "1", "last": "z"} {
		if got := w.read(img, name); got != want {
			w.t.Errorf("/%s holds %q, not %q", name, got, want)
		}
	}
}

// Whatever a cache of any kind answers, the image is right: what is damaged is a miss.
func TestDamagedAnswersAreMisses(t *testing.T) {
	for _, layers := range []bool{false, true} {
		for _, d := range damages() {
			t.Run(map[bool]string{false: "records", true: "layers"}[layers]+" "+d.name, func(t *testing.T) {
				t.Parallel()
				p, first := newPlaces(t), newWorld(t)
				first.usualContext()
				p.fillAll(first, "c", usual)
				spoilt := p.spoil(layers, d)
				for _, k := range kinds() {
					spoilt.Store(0)
					if k == "local" {
						spoilt.Store(int32(p.spoilFiles("c", layers, d)))
					}
					w := newWorld(t)
					w.context, w.images = first.context, first.images
					i, warnings := w.imports(p.open(k, "c"))
					img, lost := w.insist(i, usual)
					w.checkUsual(img)
					if spoilt.Load() == 0 {
						t.Errorf("%s: nothing was damaged", k)
					}
					if layers && lost == 0 {
						t.Errorf("%s: no layer was lost", k)
					}
					if !layers && !d.mild && (lost > 0 || len(w.ran) != 3) {
						t.Errorf("%s: %d layers were lost, ran %q", k, lost, w.ran)
					}
					if len(*warnings) > 1+lost {
						t.Errorf("%s: warned %q", k, *warnings)
					}
					if left := w.left(); len(left) > 0 {
						t.Errorf("%s: left %q", k, left)
					}
				}
			})
		}
	}
}

// liar is a cache whose entries name the blobs of others.
type liar struct{ remote.Backend }

func (l liar) Records(ctx context.Context, keys []cache.Key) ([]remote.Entry, error) {
	list, err := l.Backend.Records(ctx, keys)
	lies := slices.Clone(list)
	for i := range lies {
		if other := slices.IndexFunc(list, func(e remote.Entry) bool { return e.DiffID != list[i].DiffID }); other >= 0 {
			lies[i].Blob = list[other].Blob
		}
	}
	return lies, err
}

// Blobs that are what their digest says, and not the layer that the entry says, are a miss too.
func TestEntriesThatLie(t *testing.T) {
	p, first := newPlaces(t), newWorld(t)
	first.usualContext()
	p.fillAll(first, "c", usual)
	for _, k := range []kind{"local", "http", "s3", "gha"} { // others are wrapped, which makes them no repositories
		w := newWorld(t)
		w.context, w.images = first.context, first.images
		i, _ := w.imports(liar{p.open(k, "c")})
		img, lost := w.insist(i, usual)
		w.checkUsual(img)
		if lost == 0 {
			t.Errorf("%s: no layer was lost", k)
		}
	}
}

// A server that is not there, or is of no use, costs a warning and bounded time: some here never end.
func TestUselessServers(t *testing.T) {
	forever := func(w http.ResponseWriter, r *http.Request, do func() error) {
		for r.Context().Err() == nil && do() == nil {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	}
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"dead":    nil,
		"silent":  func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"broken":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"refuses": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"/x", http.StatusFound)
		},
		"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"drips": func(w http.ResponseWriter, r *http.Request) {
			forever(w, r, func() error { _, err := w.Write([]byte{'{'}); return err })
		},
		"floods": func(w http.ResponseWriter, r *http.Request) {
			more := bytes.Repeat([]byte("["), 1<<20)
			forever(w, r, func() error { _, err := w.Write(more); return err })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, first := newPlaces(t), newWorld(t)
			first.usualContext()
			if answer == nil {
				p.server.Close()
			}
			p.through = func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				answer(w, r)
			}
			for _, k := range kinds()[1:] { // a folder is no server
				w := newWorld(t)
				w.context, w.images = first.context, first.images
				i, warnings := w.importsWithin(time.Second, p.open(k, "c"))
				img, _ := w.insist(i, usual)
				w.checkUsual(img)
				if len(w.ran) != 3 || len(*warnings) != 1 || !strings.Contains((*warnings)[0], "is not used") {
					t.Errorf("%s: ran %q, warned %q", k, w.ran, *warnings)
				}
			}
		})
	}
}
