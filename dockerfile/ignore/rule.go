package ignore

import (
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
)

// kind is how patternmatcher understands a pattern.
type kind int

const (
	expression kind = iota // has a regular expression, which patternmatcher makes and asks
	exact                  // is the path
	starts                 // "x**": is how the path starts
	ends                   // "**x" and "**/x": is how the path ends
)

// rule is one pattern.
type rule struct {
	text    string // without "!"
	include bool   // it had a "!"
	kind    kind
	end     string // of a path that an ends rule matches

	// Of an expression.
	matcher *patternmatcher.PatternMatcher
	parent  patternmatcher.MatchInfo // says that the folder above a path does not match
	err     error                    // the pattern cannot be compiled; an error once it is needed

	// What every path that matches begins with, ends with and contains; empty when nothing is known.
	prefix, suffix, middle string
	// folders are the pattern's components when each stands for exactly one of the path, else nil.
	folders []string
}

const (
	// meta are the characters that stand for others, or make the next one do so.
	meta = `*?[]\`
	// unsure are the characters that patternmatcher leaves to the regular expression, where they can mean something else.
	unsure = `\^|{}`
	// mark is the byte order mark, which patternmatcher takes for nothing in front of an expression.
	mark = "\ufeff"
	// maxDoubleStars bounds the "**" of a pattern. Each becomes a group of the regular expression, and the memory that is needed to match one
	// grows with their square: 256 need 3 MB, and the 20,000 that a line has room for gigabytes.
	maxDoubleStars = 256
)

func newRule(p *patternmatcher.Pattern) (rule, error) {
	r := rule{text: p.String(), include: p.Exclusion()}
	r.classify()
	if r.kind == expression {
		if err := r.compile(); err != nil {
			return rule{}, err
		}
	}
	r.analyse()
	return r, nil
}

// classify finds the kind. Bytes are compared as they are, whatever they are, unless the rule is an expression.
func (r *rule) classify() {
	first := strings.IndexAny(r.text, meta)
	switch {
	case first < 0:
		r.kind = exact
	case first == len(r.text)-2 && r.text[first:] == "**" && strings.TrimPrefix(r.text, mark) != "**":
		r.kind = starts
	case strings.HasPrefix(strings.TrimPrefix(r.text, mark), "**") && strings.LastIndexAny(r.text, meta) == first+1:
		// Two bytes are taken off, and be it of the mark.
		r.kind, r.end = ends, r.text[2:]
	}
}

// compile makes the matcher of an expression, which can be asked alone.
func (r *rule) compile() error {
	if strings.Count(r.text, "**") > maxDoubleStars {
		return fmt.Errorf("the pattern %.100q… has more than %d \"**\": write a shorter one", r.text, maxDoubleStars)
	}
	text := printable(r.text)
	// patternmatcher has taken blanks off the ends and "!" off the start, and would do so again.
	if last, _ := utf8.DecodeLastRuneInString(text); unicode.IsSpace(last) {
		text += "/."
	}
	var err error
	if r.include {
		r.matcher, err = patternmatcher.New([]string{"**", "!" + text})
	} else {
		if first, _ := utf8.DecodeRuneInString(text); unicode.IsSpace(first) {
			text = "./" + text
		}
		r.matcher, err = patternmatcher.New([]string{text})
	}
	if err != nil {
		return err
	}
	// Patterns are compiled when they are first used, which is not safe in parallel: use it.
	_, _, r.err = r.matcher.MatchesUsingParentResults("a", patternmatcher.MatchInfo{})
	r.parent, err = noMatch(r.include)
	return err
}

// noMatch makes patternmatcher's note that the pattern did not match the folder above.
func noMatch(include bool) (patternmatcher.MatchInfo, error) {
	patterns := []string{"a"}
	if include {
		patterns = []string{"**", "!a"}
	}
	pm, err := patternmatcher.New(patterns)
	if err != nil {
		return patternmatcher.MatchInfo{}, err
	}
	_, info, err := pm.MatchesUsingParentResults("b", patternmatcher.MatchInfo{})
	return info, err
}

// printable is an expression that means the same as text, without what patternmatcher's scanner complains of on
// the standard error: bytes that are not UTF-8, each of which it takes for U+FFFD, and NUL.
func printable(text string) string {
	if utf8.ValidString(text) && !strings.Contains(text, "\x00") {
		return text
	}
	var b strings.Builder
	escaped := false
	for _, c := range text { // gives U+FFFD for each bad byte
		switch {
		case c == 0 && escaped:
			b.WriteString("x00")
		case c == 0:
			b.WriteString(`\x00`)
		default:
			b.WriteRune(c)
		}
		escaped = c == '\\' && !escaped
	}
	return b.String()
}

// analyse finds what can be known of a path that matches without the regular expression.
func (r *rule) analyse() {
	if r.kind == ends {
		r.suffix = strings.TrimPrefix(r.end, "/")
		return
	}
	if r.kind == expression && !Plain(r.text) {
		return
	}
	first := strings.IndexAny(r.text, meta)
	if first < 0 {
		r.prefix, r.suffix = r.text, r.text
	} else {
		r.prefix = r.text[:first]
		last := strings.LastIndexAny(r.text, meta)
		r.suffix = afterStars(r.text[:last+1], r.text[last+1:])
	}
	if strings.ContainsAny(r.text, "[]") {
		return
	}
	r.middle = longest(r.text)
	if !strings.Contains(r.text, "**") {
		r.folders = strings.Split(r.text, "/")
	}
}

// Plain says whether each character of a pattern means what it means in a shell, so that the pattern can be taken apart. Others may
// mean something of a regular expression, as in BuildKit: "a|*" matches all that begins with an "a".
func Plain(pattern string) bool {
	if !strings.ContainsAny(pattern, meta) {
		return true
	}
	return utf8.ValidString(pattern) && !strings.ContainsAny(pattern, unsure+"\x00") && !strings.HasPrefix(pattern, mark)
}

// afterStars is what is certain of rest, fixed text that follows before: "**/x" matches "x" too.
func afterStars(before, rest string) string {
	if strings.HasSuffix(before, "**") {
		return strings.TrimPrefix(rest, "/")
	}
	return rest
}

// longest is the longest fixed text in a pattern of "*" and "?".
func longest(pattern string) string {
	var best string
	for i := 0; i < len(pattern); {
		n := strings.IndexAny(pattern[i:], meta)
		if n < 0 {
			n = len(pattern) - i
		}
		if fixed := afterStars(pattern[:i], pattern[i:i+n]); len(fixed) > len(best) {
			best = fixed
		}
		i += n + 1
	}
	return best
}

// match asks the rule about name itself.
func (r *rule) match(name string) (bool, error) {
	switch r.kind {
	case exact:
		return name == r.text, nil
	case starts:
		return strings.HasPrefix(name, r.text[:len(r.text)-2]), nil
	case ends:
		return strings.HasSuffix(name, r.end) || strings.HasPrefix(r.end, "/") && name == r.end[1:], nil
	case expression:
	}
	if r.err != nil {
		return false, r.err
	}
	if !strings.HasPrefix(name, r.prefix) || !strings.HasSuffix(name, r.suffix) || !strings.Contains(name, r.middle) {
		return false, nil
	}
	matched, _, err := r.matcher.MatchesUsingParentResults(name, r.parent)
	return matched != r.include, err
}

// below says whether something below folder can match.
func (r *rule) below(folder string) bool {
	if len(r.prefix) > len(folder) {
		if !strings.HasPrefix(r.prefix, folder) || r.prefix[len(folder)] != '/' {
			return false
		}
	} else if !strings.HasPrefix(folder+"/", r.prefix) {
		return false
	}
	if r.folders == nil {
		return true
	}
	parts := strings.Split(folder, "/")
	if len(parts) >= len(r.folders) {
		return false
	}
	for i, part := range parts {
		if ok, err := path.Match(r.folders[i], part); err == nil && !ok {
			return false
		}
	}
	return true
}
