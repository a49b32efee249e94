package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/dockerfile"
)

// status is client.SolveStatus, by the names of its fields in JSON (BuildKit, client/graph.go and solver/pb/ops.proto).
type status struct {
	Vertexes []struct {
		Digest    string     `json:"digest"`
		Inputs    []string   `json:"inputs"`
		Name      string     `json:"name"`
		Started   *time.Time `json:"started"`
		Completed *time.Time `json:"completed"`
		Cached    bool       `json:"cached"`
		Error     string     `json:"error"`
	} `json:"vertexes"`
	Statuses []struct {
		ID        string     `json:"id"`
		Vertex    string     `json:"vertex"`
		Name      string     `json:"name"`
		Total     int64      `json:"total"`
		Current   int64      `json:"current"`
		Timestamp time.Time  `json:"timestamp"`
		Started   *time.Time `json:"started"`
		Completed *time.Time `json:"completed"`
	} `json:"statuses"`
	Logs []struct {
		Vertex    string    `json:"vertex"`
		Stream    int       `json:"stream"`
		Data      []byte    `json:"data"`
		Timestamp time.Time `json:"timestamp"`
	} `json:"logs"`
	Warnings []struct {
		Vertex     string   `json:"vertex"`
		Level      int      `json:"level"`
		Short      []byte   `json:"short"`
		Detail     [][]byte `json:"detail"`
		URL        string   `json:"url"`
		SourceInfo *struct {
			Filename string `json:"filename"`
			Data     []byte `json:"data"`
			Language string `json:"language"`
		} `json:"sourceInfo"`
		Range []struct {
			Start, End struct{ Line, Character int }
		} `json:"range"`
	} `json:"warnings"`
}

// tell puts lines of JSON in words, one for each thing that is told.
func tell(t *testing.T, r io.Reader) []string {
	t.Helper()
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	names := map[string]string{}
	var told []string
	say := func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) }
	when := func(t *time.Time) string {
		if t == nil {
			return "-"
		}
		return fmt.Sprint(t.Sub(start).Milliseconds())
	}
	for {
		var s status
		err := d.Decode(&s)
		if err == io.EOF {
			return told
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range s.Vertexes {
			if len(v.Digest) != len("sha256:")+64 {
				t.Errorf("%q is no digest", v.Digest)
			}
			names[v.Digest] = v.Name
			say("%s %s %s cached=%v %s", v.Name, when(v.Started), when(v.Completed), v.Cached, v.Error)
		}
		for _, u := range s.Statuses {
			say("%s: %s %d/%d at %s, %s %s", names[u.Vertex], u.ID, u.Current, u.Total, when(&u.Timestamp), when(u.Started), when(u.Completed))
		}
		for _, l := range s.Logs {
			say("%s: %d %q at %s", names[l.Vertex], l.Stream, l.Data, when(&l.Timestamp))
		}
		for _, w := range s.Warnings {
			say("%s: warning %d %s %s %s %+v", names[w.Vertex], w.Level, w.Short, w.Detail, w.URL, w.Range)
			if w.SourceInfo != nil {
				say("%s %q %s", w.SourceInfo.Filename, w.SourceInfo.Data, w.SourceInfo.Language)
			}
		}
	}
}

// What docker's rawjson is read with reads strake's.
func TestRawJSON(t *testing.T) {
	var b bytes.Buffer
	d := RawJSON(&b)
	d.Sink(progress.Event{Time: at(0), Kind: progress.Declared, Name: "isolation: root"})
	d.Sink(progress.Event{Time: at(0), Kind: progress.Warned, Data: []byte("no cache")})
	d.Sink(progress.Event{Time: at(1), Kind: progress.Declared, Vertex: "l", Name: "load"})
	d.Sink(progress.Event{Time: at(1), Kind: progress.Started, Vertex: "l"})
	d.Sink(progress.Event{Time: at(2), Kind: progress.Transfer, Vertex: "l", Current: 5, Total: 10})
	d.Sink(progress.Event{Time: at(3), Kind: progress.Transfer, Vertex: "l", Current: 10, Total: 10})
	play(d)
	d.Sink(progress.Event{Time: at(9), Kind: progress.Declared, Vertex: "late"})
	found := []dockerfile.Warning{{Rule: "StageNameCasing", Message: "a <b>", URL: "https://x/", Description: "why", Range: dockerfile.Range{Start: 2, End: 3}}}
	for _, f := range [][]dockerfile.Warning{nil, found} {
		if err := RawJSONLint(&b, "Dockerfile", []byte("FROM scratch\n"), f); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(b.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("%s is no line of JSON", line)
		}
	}
	want := []string{
		`isolation: root 0 0 cached=false `,
		`isolation: root: warning 1 no cache []  []`,
		`load - - cached=false `,
		`load 1 - cached=false `,
		`load: transferring 5/10 at 2, 1 -`,
		`load: transferring 10/10 at 3, 1 3`,
		`[a] RUN - - cached=false `,
		`[b] RUN - - cached=false `,
		`[c] RUN - - cached=false `,
		`[d] RUN - - cached=false `,
		`[a] RUN 1 - cached=true `,
		`[a] RUN 1 2 cached=true `,
		"[b] RUN: miss: RUN: x\x1b[2J changed 0/0 at 9, 9 9",
		`[b] RUN 10 - cached=false `,
		`[c] RUN 20 - cached=false `,
		`[b] RUN: 1 "one\ntw" at 30`,
		`[c] RUN: 1 "\x1b[31mred\x1b[0m \x1b[2J\x1b]0;title\abad\r\n" at 40`,
		`[b] RUN: 1 "o\n" at 50`,
		`[c] RUN: 1 "no end" at 60`,
		`[b] RUN: warning 1 careful []  []`,
		`[b] RUN 10 310 cached=false `,
		`[c] RUN 20 400 cached=false exit code: 1`,
		`isolation: root: warning 1 StageNameCasing: a <b> (line 2) [why] https://x/ [{Start:{Line:2 Character:0} End:{Line:3 Character:0}}]`,
		`Dockerfile "FROM scratch\n" Dockerfile`,
	}
	got := tell(t, &b)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("%d:\ngot  %q\nwant %q", i, got[i:min(i+3, len(got))], want[i:min(i+3, len(want))])
		}
	}
}
