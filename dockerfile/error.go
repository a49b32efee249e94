package dockerfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Range is a span of lines, counted from 1, both ends included.
type Range struct{ Start, End int }

// String is "7" or "7-9".
func (r Range) String() string {
	if r.End <= r.Start {
		return fmt.Sprint(r.Start)
	}
	return fmt.Sprintf("%d-%d", r.Start, r.End)
}

// Error is the only error this package returns: something in a Dockerfile that the person who wrote it can mend.
type Error struct {
	File        string // as given to Parse
	Source      []byte // the whole text, for the excerpt
	Range       Range  // zero when no line is at fault
	Stage       string // the stage's name, "stage-2" for the third that has none; may be empty
	Instruction string // the instruction's text, may be empty
	Hint        string // such as `did you mean COPY?`, may be empty
	Err         error
	// Warnings are the lint findings before the error, which no File, Graph or State tells of because of it.
	Warnings []Warning

	syntax bool // the instruction could not be read
}

// Error is "FILE:LINE: message (hint)", on one line.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Range.Start > 0 {
			fmt.Fprintf(&b, ":%d", e.Range.Start)
		}
		b.WriteString(": ")
	}
	b.WriteString(strings.ReplaceAll(e.message(), "\n", " "))
	return b.String()
}

// message is the error without its place.
func (e *Error) message() string {
	var text string
	if e.Err != nil {
		text = e.Err.Error()
	}
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// withFindings gives an *Error what was found before it.
func withFindings(err error, found []Warning) error {
	if e, ok := errors.AsType[*Error](err); ok && len(found) > 0 {
		e.Warnings = append(slices.Clone(found), e.Warnings...)
	}
	return err
}

// Unwrap is the reason without its place.
func (e *Error) Unwrap() error { return e.Err }

const (
	excerptContext = 2   // lines that an excerpt shows before and after those at fault
	excerptLines   = 40  // of those at fault, half of them their last ones
	excerptWidth   = 400 // bytes of a line
)

// Excerpt shows the lines at fault, marked with ">>>", and two lines on each side; of very many or long ones, a part. It is empty when
// no line is at fault.
func (e *Error) Excerpt() string {
	return excerpt(e.Source, e.Range)
}

func excerpt(source []byte, r Range) string {
	lines := bytes.Split(bytes.TrimSuffix(source, []byte("\n")), []byte("\n"))
	if r.Start < 1 || r.Start > len(lines) {
		return ""
	}
	last := min(max(r.End, r.Start), len(lines))
	var b strings.Builder
	for n := max(r.Start-excerptContext, 1); n <= min(last+excerptContext, len(lines)); n++ {
		if skipped := last - r.Start + 1 - excerptLines; skipped > 0 && n == r.Start+excerptLines/2 {
			fmt.Fprintf(&b, "     | … %d lines\n", skipped)
			n += skipped
		}
		mark := "   "
		if n >= r.Start && n <= last {
			mark = ">>>"
		}
		text := strings.TrimRight(string(lines[n-1]), " \t\r")
		if len(text) > excerptWidth {
			text = strings.ToValidUTF8(text[:excerptWidth], "") + "…"
		}
		fmt.Fprintf(&b, "%s\n", strings.TrimRight(fmt.Sprintf("%4d | %s %s", n, mark, text), " "))
	}
	return b.String()
}

// fail makes err an *Error at r or, for a zero r, where err itself says that it is.
func (f *File) fail(r Range, err error) error {
	return f.failIn("", "", r, err)
}

// tooLong returns the line that is too long for the parser, which gives the place of the one before it. It is zero if err is of something else.
func (f *File) tooLong(err error) Range {
	if !strings.Contains(err.Error(), "line greater than max allowed size") {
		return Range{}
	}
	n := 0
	for line := range bytes.Lines(f.Source) {
		n++
		if len(line) >= bufio.MaxScanTokenSize {
			return Range{Start: n, End: n}
		}
	}
	return Range{}
}

// failIn makes err, which came up in an instruction of a stage, an *Error. One that is an *Error already stays as it is.
func (f *File) failIn(stage, text string, r Range, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if located, ok := errors.AsType[*parser.LocationError](err); ok && r == (Range{}) {
		for _, l := range located.Locations {
			if r = toRange(l); r.Start > 0 {
				break
			}
		}
	}
	if lines := bytes.Count(f.Source, []byte("\n")) + 1; r.Start > lines {
		r = Range{Start: lines, End: lines}
	}
	message, hint := splitHint(err.Error())
	if hint != "" {
		err = &plain{text: message, err: err}
	}
	return &Error{File: f.Name, Source: f.Source, Range: r, Stage: stage, Instruction: strings.TrimSpace(text), Hint: hint, Err: err}
}

// plain is an error that is told in other words than its own.
type plain struct {
	text string
	err  error
}

func (p *plain) Error() string { return p.text }
func (p *plain) Unwrap() error { return p.err }

var hintPattern = regexp.MustCompile(`^(?s)(.*) \((did you mean .*\?)\)$`)

// splitHint parts BuildKit's suggestion from the message that it is appended to.
func splitHint(text string) (message, hint string) {
	if m := hintPattern.FindStringSubmatch(text); m != nil {
		return m[1], m[2]
	}
	return text, ""
}

// toRange is the span of BuildKit's list of ranges, one for each line.
func toRange(ranges []parser.Range) Range {
	var r Range
	for i, l := range ranges {
		if i == 0 || l.Start.Line < r.Start {
			r.Start = l.Start.Line
		}
		r.End = max(r.End, l.End.Line, l.Start.Line)
	}
	return r
}
