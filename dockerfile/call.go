package dockerfile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// This file has what --call answers with. The JSON of each type is that of BuildKit's subrequests "frontend.lint", "frontend.outline"
// and "frontend.targets", and its Text is what buildx makes of it.

// Location is a place in a Dockerfile.
type Location struct {
	SourceIndex int             `json:"sourceIndex,omitempty"` // of the answer's sources
	Ranges      []LocationRange `json:"ranges,omitempty"`      // one for each line
}

// LocationRange is a part of a Location.
type LocationRange struct {
	Start LocationPoint `json:"start"`
	End   LocationPoint `json:"end"`
}

// LocationPoint is a line, counted from 1, and a place in it.
type LocationPoint struct {
	Line      int `json:"line,omitempty"`
	Character int `json:"character,omitempty"`
}

func location(r Range) *Location {
	l := &Location{}
	if r.Start == 0 {
		return l
	}
	for n := r.Start; n <= max(r.Start, r.End); n++ {
		l.Ranges = append(l.Ranges, LocationRange{Start: LocationPoint{Line: n}, End: LocationPoint{Line: n}})
	}
	return l
}

// LintResults is the answer to --call check.
type LintResults struct {
	Warnings []LintWarning `json:"warnings"`
	Sources  []LintSource  `json:"sources"`
	Error    *LintError    `json:"buildError,omitempty"`
}

// LintWarning is a finding.
type LintWarning struct {
	RuleName    string    `json:"ruleName"`
	Description string    `json:"description,omitempty"`
	URL         string    `json:"url,omitempty"`
	Detail      string    `json:"detail,omitempty"`
	Location    *Location `json:"location,omitempty"`
}

// LintSource is the Dockerfile.
type LintSource struct {
	Filename string `json:"filename,omitempty"`
	Data     []byte `json:"data,omitempty"`
	Language string `json:"language,omitempty"`
}

// LintError is why the check went no further.
type LintError struct {
	Message  string   `json:"message"`
	Location Location `json:"location"`
}

// Lint is the answer to --call check for a Dockerfile: all that Graph (or, if it fails, Parse) and Expand have found, and the error, if any,
// that ended it. The findings that an *Error carries are added.
func Lint(name string, source []byte, found []Warning, err error) LintResults {
	r := LintResults{Sources: []LintSource{{Filename: name, Data: source, Language: "Dockerfile"}}}
	if err != nil {
		r.Error = &LintError{Message: err.Error()}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		r.Error.Message = e.message()
		if e.syntax {
			r.Error.Message = fmt.Sprintf("dockerfile parse error on line %d: %s", e.Range.Start, r.Error.Message)
		}
		r.Error.Location = *location(e.Range)
		found = slices.Concat(found, e.Warnings)
	}
	for _, w := range found {
		r.Warnings = append(r.Warnings, LintWarning{
			RuleName: w.Rule, Description: w.Description, URL: w.URL, Detail: w.Message, Location: location(w.Range),
		})
	}
	return r
}

// Failed says whether a check ends with exit code 1.
func (r LintResults) Failed() bool { return len(r.Warnings) > 0 || r.Error != nil }

// Text is the summary and the findings by line, without the error.
func (r LintResults) Text() string {
	var b strings.Builder
	switch n := len(r.Warnings); {
	case n == 1:
		b.WriteString("Check complete, 1 warning has been found!\n")
	case n > 1:
		fmt.Fprintf(&b, "Check complete, %d warnings have been found!\n", n)
	case r.Error == nil:
		b.WriteString("Check complete, no warnings found.\n")
	}
	sorted := slices.Clone(r.Warnings)
	slices.SortStableFunc(sorted, func(a, b LintWarning) int { return cmp.Compare(a.Location.line(), b.Location.line()) })
	for _, w := range sorted {
		b.WriteString("\nWARNING: " + w.RuleName)
		if w.URL != "" {
			b.WriteString(" - " + w.URL)
		}
		b.WriteString("\n" + w.Detail + "\n")
		r.excerpt(&b, w.Location)
	}
	return b.String()
}

// ErrorText is the error with its lines, empty if there is none.
func (r LintResults) ErrorText() string {
	if r.Error == nil {
		return ""
	}
	var b strings.Builder
	b.WriteString(r.Error.Message + "\n")
	r.excerpt(&b, &r.Error.Location)
	return b.String()
}

// line is the first one.
func (l *Location) line() int {
	if l == nil || len(l.Ranges) == 0 {
		return 0
	}
	return l.Ranges[0].Start.Line
}

// excerpt shows the lines of a location as BuildKit does: two around one, one around several.
func (r LintResults) excerpt(b *strings.Builder, at *Location) {
	if at.line() == 0 || at.SourceIndex >= len(r.Sources) {
		return
	}
	source := r.Sources[at.SourceIndex]
	lines := strings.Split(string(source.Data), "\n")
	first, last := at.line(), at.Ranges[len(at.Ranges)-1].End.Line
	if first > len(lines) {
		return
	}
	around := 1
	if first == last {
		around = 2
	}
	fmt.Fprintf(b, "%s:%d\n--------------------\n", source.Filename, first)
	for n := max(1, first-around); n <= min(len(lines), last+around); n++ {
		mark := "   "
		if n >= first && n <= last {
			mark = ">>>"
		}
		fmt.Fprintf(b, " %3d | %s %s\n", n, mark, lines[n-1])
	}
	b.WriteString("--------------------\n")
}

// TargetList is the answer to --call targets.
type TargetList struct {
	Targets []Target `json:"targets"`
	Sources [][]byte `json:"sources"`
}

// Target is a stage that can be built.
type Target struct {
	Name        string    `json:"name,omitempty"`
	Default     bool      `json:"default,omitempty"`
	Description string    `json:"description,omitempty"`
	Base        string    `json:"base,omitempty"`     // as written
	Platform    string    `json:"platform,omitempty"` // as written
	Location    *Location `json:"location,omitempty"`
}

// Targets lists the stages.
func (f *File) Targets() TargetList {
	l := TargetList{Sources: [][]byte{f.Source}}
	for i, s := range f.Stages {
		l.Targets = append(l.Targets, Target{
			Name: s.Name, Default: i == len(f.Stages)-1, Description: s.from.DocComment,
			Base: s.from.BaseName, Platform: s.from.Platform, Location: location(s.Range),
		})
	}
	return l
}

// Text is the list as a table.
func (l TargetList) Text() string {
	rows := [][]string{{"TARGET", "DESCRIPTION"}}
	for _, t := range l.Targets {
		name := t.Name
		if t.Default {
			name = strings.TrimSpace(name + " (default)")
		}
		rows = append(rows, []string{name, t.Description})
	}
	return table(1, rows)
}

// table lines words up, with some blanks between columns.
func table(blanks int, rows [][]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, blanks, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	if w.Flush() != nil { // a strings.Builder takes everything
		return ""
	}
	return b.String()
}
