package ignore

import (
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
)

// rule is one pattern.
type rule struct {
	text    string // without "!"
	include bool   // it had a "!"
	matcher *patternmatcher.PatternMatcher
	err     error // the pattern cannot be compiled; an error once it is needed

	// What every path that matches begins with, ends with and contains; empty when nothing is known.
	prefix, suffix, middle string
	// folders are the pattern's components when each stands for exactly one of the path, else nil.
	folders []string
}

func newRule(p *patternmatcher.Pattern) (rule, error) {
	r := rule{text: p.String(), include: p.Exclusion()}
	// On its own, and without the "!", so that it can be asked alone.
	alone, err := patternmatcher.New([]string{protect(r.text)})
	if err != nil {
		return rule{}, err
	}
	r.matcher = alone
	// Patterns are compiled when they are first used, which is not safe in parallel: use it.
	_, _, r.err = alone.MatchesUsingParentResults("a", patternmatcher.MatchInfo{})
	r.analyse()
	return r, nil
}

// protect keeps patternmatcher, which has taken "!" and blanks off the ends already, from doing so again.
func protect(text string) string {
	if first, size := utf8.DecodeRuneInString(text); first == '!' || unicode.IsSpace(first) {
		text = "[" + text[:size] + "]" + text[size:]
	}
	if last, size := utf8.DecodeLastRuneInString(text); unicode.IsSpace(last) {
		text = text[:len(text)-size] + "[" + text[len(text)-size:] + "]"
	}
	return text
}

// meta are the characters that stand for others, or make the next one do so.
const meta = `*?[]\^`

// analyse finds what can be known of a path that matches without the regular expression.
func (r *rule) analyse() {
	if !utf8.ValidString(r.text) || strings.ContainsAny(r.text, "^|{}") {
		return // patternmatcher leaves these signs to the regular expression, and bad bytes match one another
	}
	first := strings.IndexAny(r.text, meta)
	if first < 0 {
		r.prefix, r.suffix = r.text, r.text
	} else {
		r.prefix = r.text[:first]
		last := strings.LastIndexAny(r.text, meta)
		rest := r.text[last+1:]
		if r.text[last] == '\\' && rest != "" {
			_, size := utf8.DecodeRuneInString(rest) // is escaped, or a class of characters
			rest = rest[size:]
		}
		r.suffix = afterStars(r.text[:last+1], rest)
	}
	if strings.ContainsAny(r.text, `[]\`) {
		return
	}
	r.middle = longest(r.text)
	if !strings.Contains(r.text, "**") {
		r.folders = strings.Split(r.text, "/")
	}
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

// quick says whether name can match at all.
func (r *rule) quick(name string) bool {
	return strings.HasPrefix(name, r.prefix) && strings.HasSuffix(name, r.suffix) && strings.Contains(name, r.middle)
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
