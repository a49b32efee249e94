package ui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/dockerfile"
)

var start = time.Unix(1000, 0)

func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

// play sends a small build with one cached, one good and one failing step.
func play(d Display) {
	out := func(ms int, vertex, text string) {
		d.Sink(progress.Event{Time: at(ms), Kind: progress.Output, Vertex: vertex, Stream: progress.Stdout, Data: []byte(text)})
	}
	for _, v := range []string{"a", "b", "c", "d"} {
		d.Sink(progress.Event{Time: at(0), Kind: progress.Declared, Vertex: v, Name: "[" + v + "] RUN"})
	}
	d.Sink(progress.Event{Time: at(1), Kind: progress.Cached, Vertex: "a"})
	d.Sink(progress.Event{Time: at(2), Kind: progress.Completed, Vertex: "a"})
	d.Sink(progress.Event{Time: at(9), Kind: progress.Missed, Vertex: "b", Data: []byte("RUN: x\x1b[2J changed")})
	d.Sink(progress.Event{Time: at(10), Kind: progress.Started, Vertex: "b"})
	d.Sink(progress.Event{Time: at(20), Kind: progress.Started, Vertex: "c"})
	out(30, "b", "one\ntw")
	out(40, "c", "\x1b[31mred\x1b[0m \x1b[2J\x1b]0;title\x07bad\r\n")
	out(50, "b", "o\n")
	out(60, "c", "no end")
	d.Sink(progress.Event{Time: at(70), Kind: progress.Warned, Vertex: "b", Data: []byte("careful")})
	d.Sink(progress.Event{Time: at(310), Kind: progress.Completed, Vertex: "b"})
	d.Sink(progress.Event{Time: at(400), Kind: progress.Completed, Vertex: "c", Err: errors.New("exit code: 1")})
	d.Sink(progress.Event{Time: at(400), Kind: progress.Completed, Vertex: "d", Err: context.Canceled})
	d.Close()
	d.Close()
}

func TestPlain(t *testing.T) {
	var b bytes.Buffer
	play(Plain(&b))
	want := "#1 [a] RUN\n#1 CACHED\n#2 [b] RUN\n#2 miss: RUN: x changed\n#3 [c] RUN\n#2 0.020 one\n#3 0.020 \x1b[31mred\x1b[0m bad\n#2 0.040 two\n" +
		"#2 WARN: careful\n#2 DONE 0.3s\n#3 0.380 no end\n#3 ERROR: exit code: 1\n" +
		"------\n > [c] RUN:\n\x1b[31mred\x1b[0m bad\nno end\n------\n"
	if b.String() != want {
		t.Errorf("got\n%q\nwant\n%q", b.String(), want)
	}
}

func TestQuiet(t *testing.T) {
	var b bytes.Buffer
	play(Quiet(&b))
	if want := "------\n > [c] RUN:\n\x1b[31mred\x1b[0m bad\nno end\n------\n"; b.String() != want {
		t.Errorf("got\n%q\nwant\n%q", b.String(), want)
	}
}

func TestTTYEndsWithTheWholeStory(t *testing.T) {
	var b bytes.Buffer
	play(TTY(&b, func() int { return 40 }))
	got := b.String()
	for _, want := range []string{" => CACHED [a] RUN", " => [b] RUN  0.3s", " => ERROR [c] RUN", "bad\nno end\n------\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%q", want, got)
		}
	}
	if strings.Contains(got, "\x1b]0") || strings.Contains(got, "[2J") {
		t.Errorf("a step's escape sequence reached the terminal: %q", got)
	}
}

func TestTTYRedraws(t *testing.T) {
	var b bytes.Buffer
	d := &tty{w: &b, width: func() int { return 30 }, now: func() time.Time { return at(1500) }, stop: make(chan struct{})}
	d.Sink(progress.Event{Time: at(0), Kind: progress.Declared, Vertex: "a", Name: "[a 1/2] RUN something that is much too long for it"})
	d.Sink(progress.Event{Time: at(0), Kind: progress.Started, Vertex: "a"})
	for i := range 9 {
		d.Sink(progress.Event{Time: at(1), Kind: progress.Output, Vertex: "a", Data: fmt.Appendf(nil, "line %d\n", i)})
	}
	d.draw()
	first := b.String()
	if d.drawn != 1+shownLines {
		t.Errorf("drew %d lines, want %d", d.drawn, 1+shownLines)
	}
	if !strings.Contains(first, "1.5s") || strings.Contains(first, "line 4") || !strings.Contains(first, "line 8") {
		t.Errorf("unexpected area: %q", first)
	}
	b.Reset()
	d.draw()
	if !strings.Contains(b.String(), "\x1b[5A") {
		t.Errorf("the second redraw does not begin where the first did: %q", b.String())
	}
}

func TestPlainConcurrent(t *testing.T) {
	var b bytes.Buffer
	d := Plain(&b)
	var wg sync.WaitGroup
	for v := range 8 {
		wg.Go(func() {
			id := fmt.Sprint(v)
			d.Sink(progress.Event{Time: start, Kind: progress.Started, Vertex: id})
			for range 100 {
				d.Sink(progress.Event{Time: start, Kind: progress.Output, Vertex: id, Data: []byte("ab")})
				d.Sink(progress.Event{Time: start, Kind: progress.Output, Vertex: id, Data: []byte("c\n")})
			}
		})
	}
	wg.Wait()
	d.Close()
	if n := strings.Count(b.String(), " abc\n"); n != 800 {
		t.Errorf("%d whole lines, want 800", n)
	}
}

func TestSpool(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var s spool
	defer s.discard()
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	for range 100 { // 6.4 MB: in the file
		s.Write(chunk)
	}
	s.Write([]byte("end"))
	var b bytes.Buffer
	s.writeTo(&b, 0)
	if b.Len() != 100*len(chunk)+4 || !strings.HasSuffix(b.String(), "xend\n") {
		t.Errorf("got %d bytes ending in %q", b.Len(), b.String()[b.Len()-5:])
	}
	b.Reset()
	s.writeTo(&b, 10)
	if want := "[6.554MB of output above]\nxxxxxxxend\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	for s.size() < spoolFile+10<<20 {
		s.Write(chunk)
	}
	s.Write([]byte("the end"))
	b.Reset()
	s.writeTo(&b, 0)
	if !strings.HasSuffix(b.String(), "the end\n") || !strings.Contains(b.String(), "of output dropped]") {
		t.Error("the end of a long output is lost, or nothing says what was dropped")
	}
	if int64(b.Len()) > spoolFile+spoolTail+100 {
		t.Errorf("kept %d bytes", b.Len())
	}
}

func TestSpoolWithoutTempDir(t *testing.T) {
	t.Setenv("TMPDIR", "/nonexistent")
	var s spool
	for range 10 {
		s.Write(bytes.Repeat([]byte("x"), spoolMemory/2))
	}
	s.Write([]byte("end"))
	var b bytes.Buffer
	s.writeTo(&b, 0)
	if !strings.HasSuffix(b.String(), "xend\n") || s.size() != 5*spoolMemory+3 {
		t.Errorf("size %d, ends in %q", s.size(), b.String()[b.Len()-5:])
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 999: "999B", 1000: "1kB", 1234567: "1.235MB", 999_999: "1MB", 4_260_000: "4.26MB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{999_900: "1MB", 4_261_550: "4.26MB", 77_800_000: "77.8MB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext":               "plain\ttext",
		"\x1b[1;31mred\x1b[m":       "\x1b[1;31mred\x1b[m",
		"\x1b[38:5:1mred":           "\x1b[38:5:1mred",
		"a\x1b[2Jb\x1b[10;10Hc":     "abc",
		"a\x1b[?25lb\x1b[>4;2mc":    "abc",
		"a\x1b]0;x\x07b\x1b]8;;u":   "ab",
		"a\x1bP1$r\x1b\\b":          "ab",
		"a\x1bcb\x1b(Bc":            "abc",
		"bell\a back\b del\x7f":     "bell back del",
		"ümlaut €":                  "ümlaut €",
		"c1 \u009b2J":               "c1 2J",
		"broken \xff":               "broken \uFFFD",
		"cut \x1b":                  "cut ",
		"cut \x1b[3":                "cut ",
		"\x1b[3\x1b[31mred":         "\x1b[31mred",
		"\x1b]0;never ends\x1b[31m": "",
	} {
		if got := string(Printable([]byte(in))); got != want {
			t.Errorf("Printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add([]byte("a\x1b[31mb\x1b]0;x\x07\x9b2J"))
	f.Fuzz(func(t *testing.T, in []byte) {
		out := Printable(in)
		for i, c := range out {
			if c == 0x1b {
				if n, keep := escape(out[i:]); !keep || n == 0 {
					t.Fatalf("a sequence is left in %q", out)
				}
			} else if c < ' ' && c != '\t' || c == 0x7f {
				t.Fatalf("a control character is left in %q", out)
			}
		}
	})
}

func TestReport(t *testing.T) {
	var b bytes.Buffer
	Report(&b, fmt.Errorf("building: %w", errors.New("it broke\nbadly\x1b[2J")))
	if want := "error: building: it broke\n  badly\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	b.Reset()
	Report(&b, &dockerfile.Error{
		File: "Dockerfile", Source: []byte("FROM scratch\nRUN false\n"), Range: dockerfile.Range{Start: 2, End: 2},
		Err: errors.New(`process "/bin/sh -c false" did not complete successfully: exit code: 1`), Hint: "try true",
	})
	got := b.String()
	if !strings.HasPrefix(got, "Dockerfile:2\n") ||
		!strings.HasSuffix(got, "error: process \"/bin/sh -c false\" did not complete successfully: exit code: 1\nhint: try true\n") {
		t.Errorf("got\n%s", got)
	}
	b.Reset()
	Report(&b, &dockerfile.Error{
		Source: []byte("FROM scratch\n"), Range: dockerfile.Range{Start: 1, End: 1}, Stage: "s", Instruction: "RUN " + strings.Repeat("x", 2000), Err: errors.New("no"),
	})
	if got := b.String(); len(got) > 1200 || !strings.HasSuffix(got, "xx…: no\n") {
		t.Errorf("%d bytes: %s", len(got), got)
	}
	b.Reset()
	Report(&b, nil)
	if b.Len() > 0 {
		t.Errorf("nil is reported as %q", b.String())
	}
}
