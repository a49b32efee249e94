// Package ignore decides which paths of a build context a .dockerignore excludes.
//
// The patterns are those of github.com/moby/patternmatcher and the file is read as BuildKit reads it: a byte order mark and lines that start
// with "#" are dropped, patterns are trimmed and cleaned, a leading slash is removed, "!" takes back, the last
// pattern that matches a path or a folder above it decides.
//
// Two things are faster here than in that package. A pattern is compared byte by byte, with its fixed start and end before its
// regular expression is run, and a walk neither matches a folder twice nor enters one in which no "!" pattern can match anything.
// A pattern that is more of a regular expression than it looks is left to that package alone.
package ignore

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Matcher holds the rules of one file. The nil Matcher excludes nothing. It is safe for concurrent use.
type Matcher struct {
	rules []rule
	// lastInclude is the index of the last "!" rule, or -1.
	lastInclude int
}

// Parse reads a .dockerignore. name is what errors call it.
func Parse(name string, r io.Reader) (*Matcher, error) {
	patterns, err := ignorefile.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	m, err := New(patterns)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// New makes a Matcher of patterns, as they stand in the lines of a .dockerignore.
func New(patterns []string) (*Matcher, error) {
	// The check of all together is patternmatcher's own, and so are its errors and what it takes each pattern for.
	all, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	m := &Matcher{lastInclude: -1}
	for i, p := range all.Patterns() {
		r, err := newRule(p)
		if err != nil {
			return nil, err
		}
		m.rules = append(m.rules, r)
		if r.include {
			m.lastInclude = i
		}
	}
	return m, nil
}

// Patterns are the rules as patternmatcher has them: cleaned, "!" in front where it was. For messages.
func (m *Matcher) Patterns() []string {
	if m == nil {
		return nil
	}
	list := make([]string, len(m.rules))
	for i, r := range m.rules {
		list[i] = r.text
		if r.include {
			list[i] = "!" + r.text
		}
	}
	return list
}

// Exclusions says whether there are "!" patterns, so that a path below an excluded one may be included.
func (m *Matcher) Exclusions() bool { return m != nil && m.lastInclude >= 0 }

// Dir carries the state of a walk: what is known of the folder, so that its entries need not be matched from the root again.
// It is not changed once made, so entries of a folder may be matched at the same time.
type Dir struct {
	matched []bool // for each rule, whether the folder or one above it matches; nil is none
}

// Root is the Dir of the context's root.
func (m *Matcher) Root() Dir { return Dir{} }

// Match says whether path (slash-separated, relative to the context, in the folder of which parent was
// made) is excluded. skip says, for a folder, that nothing below it can be re-included, so a walk need not enter it. The
// returned Dir is for entries of path.
func (m *Matcher) Match(parent Dir, path string) (excluded, skip bool, dir Dir, err error) {
	if m == nil || len(m.rules) == 0 {
		return false, false, Dir{}, nil
	}
	dir = parent
	own := false // dir.matched is a copy
	last := -1   // the rule that decided
	for i := range m.rules {
		r := &m.rules[i]
		match := parent.matched != nil && parent.matched[i]
		// A rule is not asked when its answer would change nothing, and counts as no match, for entries below too.
		if !match && r.include == excluded {
			if match, err = r.match(path); err != nil {
				return false, false, Dir{}, err
			}
			if match {
				if !own {
					dir.matched, own = m.copy(parent.matched), true
				}
				dir.matched[i] = true
			}
		}
		if match {
			excluded, last = !r.include, i
		}
	}
	return excluded, excluded && !m.reaches(last, path), dir, nil
}

func (m *Matcher) copy(matched []bool) []bool {
	if matched == nil {
		return make([]bool, len(m.rules))
	}
	return slices.Clone(matched)
}

// reaches says whether a "!" rule after the one that excluded folder can match something below it.
func (m *Matcher) reaches(rule int, folder string) bool {
	for i := rule + 1; i <= m.lastInclude; i++ {
		if m.rules[i].include && m.rules[i].below(folder) {
			return true
		}
	}
	return false
}

// Excludes says whether a single path is excluded, by its own name or a parent's. It is what a walk to path finds.
func (m *Matcher) Excludes(path string) (bool, error) {
	if m == nil || len(m.rules) == 0 {
		return false, nil
	}
	path = strings.Trim(path, "/")
	if path == "" || path == "." {
		return false, nil
	}
	dir := m.Root()
	for i := 0; ; {
		n := strings.IndexByte(path[i:], '/')
		if n < 0 {
			excluded, _, _, err := m.Match(dir, path)
			return excluded, err
		}
		_, skip, next, err := m.Match(dir, path[:i+n])
		if err != nil || skip {
			return skip, err
		}
		dir, i = next, i+n+1
	}
}

// CopySources is what a lint rule asks of the source of a COPY, a path as it stands in a Dockerfile, cleaned: whether it is kept out of the
// context. It is nil where that cannot be told from the patterns: there are none, or a "!" one. The whole context (".") is kept out
// only by a pattern for everything.
func (m *Matcher) CopySources() func(path string) bool {
	if m == nil || len(m.rules) == 0 || m.Exclusions() {
		return nil
	}
	return func(path string) bool {
		if path == "." || path == "/" {
			return slices.ContainsFunc(m.rules, func(r rule) bool { return r.text == "*" || r.text == "**" || r.text == "**/*" })
		}
		if strings.HasPrefix(path, "/") {
			return false // as in BuildKit, which compares it with patterns that have lost their slash
		}
		excluded, err := m.Excludes(path)
		return err == nil && excluded
	}
}
