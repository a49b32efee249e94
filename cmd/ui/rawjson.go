package ui

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/dockerfile"
)

// RawJSON writes a line of JSON for each event, as "docker buildx build --progress=rawjson" does: BuildKit's client.SolveStatus.
// What belongs to the build and to no step is of a vertex of its own, the first.
func RawJSON(w io.Writer) Display {
	return &rawJSON{enc: json.NewEncoder(w), vertexes: map[string]*vertexStatus{}}
}

// solveStatus, and what it holds, have BuildKit's field names. Bytes are in base64.
type solveStatus struct {
	Vertexes []*vertexStatus `json:"vertexes,omitempty"`
	Statuses []subStatus     `json:"statuses,omitempty"`
	Logs     []stepLog       `json:"logs,omitempty"`
	Warnings []stepWarning   `json:"warnings,omitempty"`
}

type vertexStatus struct {
	Digest    string     `json:"digest"`
	Name      string     `json:"name"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
	Cached    bool       `json:"cached,omitempty"`
	Error     string     `json:"error,omitempty"`
}

// subStatus is of something that a step does, or that is told of it.
type subStatus struct {
	ID        string     `json:"id"`
	Vertex    string     `json:"vertex"`
	Total     int64      `json:"total,omitempty"`
	Current   int64      `json:"current"`
	Timestamp time.Time  `json:"timestamp"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
}

type stepLog struct {
	Vertex    string    `json:"vertex"`
	Stream    int       `json:"stream,omitempty"`
	Data      []byte    `json:"data"`
	Timestamp time.Time `json:"timestamp"`
}

type stepWarning struct {
	Vertex string        `json:"vertex"`
	Level  int           `json:"level"`
	Short  []byte        `json:"short"`
	Detail [][]byte      `json:"detail,omitempty"`
	URL    string        `json:"url,omitempty"`
	Source *sourceInfo   `json:"sourceInfo,omitempty"`
	Range  []sourceRange `json:"range,omitempty"`
}

type sourceInfo struct {
	Filename string `json:"filename"`
	Data     []byte `json:"data"`
	Language string `json:"language"`
}

type sourceRange struct {
	Start sourcePosition `json:"start"`
	End   sourcePosition `json:"end"`
}

type sourcePosition struct {
	Line int `json:"line"`
}

type rawJSON struct {
	mu       sync.Mutex
	enc      *json.Encoder
	vertexes map[string]*vertexStatus
	closed   bool
}

// vertexDigest names a vertex as BuildKit does.
func vertexDigest(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Sink writes what an event changes.
func (r *rawJSON) Sink(e progress.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	v := r.vertexes[e.Vertex]
	if v == nil {
		v = &vertexStatus{Digest: vertexDigest(e.Vertex), Name: e.Vertex}
		r.vertexes[e.Vertex] = v
	}
	var s solveStatus
	switch e.Kind {
	case progress.Declared, progress.Started, progress.Cached, progress.Completed:
		if !v.change(e) {
			return
		}
		s.Vertexes = []*vertexStatus{v}
	case progress.Output:
		s.Logs = []stepLog{{v.Digest, e.Stream, e.Data, e.Time}}
	case progress.Transfer:
		t := subStatus{ID: "transferring", Vertex: v.Digest, Total: e.Total, Current: e.Current, Timestamp: e.Time, Started: v.Started}
		if e.Total > 0 && e.Current >= e.Total {
			t.Completed = &e.Time
		}
		s.Statuses = []subStatus{t}
	case progress.Missed:
		s.Statuses = []subStatus{{ID: "miss: " + string(e.Data), Vertex: v.Digest, Timestamp: e.Time, Started: &e.Time, Completed: &e.Time}}
	case progress.Warned:
		s.Warnings = []stepWarning{{Vertex: v.Digest, Level: 1, Short: e.Data}}
	}
	_ = r.enc.Encode(s) // to a reader that is gone
}

// change says whether an event changes what is to be told of a vertex. One that was canceled before it began is not told of.
func (v *vertexStatus) change(e progress.Event) bool {
	switch e.Kind {
	case progress.Declared:
		v.Name = e.Name
		if e.Vertex == "" { // the build: it is no work
			v.Started, v.Completed = &e.Time, &e.Time
		}
	case progress.Started:
		v.Started = &e.Time
	case progress.Cached:
		v.Started, v.Cached = &e.Time, true
	case progress.Completed:
		if e.Err != nil && canceled(e.Err) && v.Started == nil {
			return false
		}
		v.Completed = &e.Time
		if e.Err != nil {
			v.Error = reason(e.Err)
		}
	case progress.Output, progress.Transfer, progress.Warned, progress.Missed: // are not of the vertex itself
	}
	return true
}

// Close drops what comes later: all else is written.
func (r *rawJSON) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// RawJSONLint writes the findings of lint rules as RawJSON writes warnings.
func RawJSONLint(w io.Writer, file string, source []byte, found []dockerfile.Warning) error {
	if len(found) == 0 {
		return nil
	}
	var s solveStatus
	for _, f := range found {
		s.Warnings = append(s.Warnings, stepWarning{
			Vertex: vertexDigest(""), Level: 1, Short: fmt.Appendf(nil, "%s: %s (line %d)", f.Rule, f.Message, f.Range.Start),
			Detail: [][]byte{[]byte(f.Description)}, URL: f.URL, Source: &sourceInfo{file, source, "Dockerfile"},
			Range: []sourceRange{{sourcePosition{f.Range.Start}, sourcePosition{f.Range.End}}},
		})
	}
	return json.NewEncoder(w).Encode(s)
}
