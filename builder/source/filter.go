package source

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/strake-build/strake/dockerfile/ignore"
)

// filter is what --parents and --exclude say of the things below one source.
type filter struct {
	// include takes what it "excludes"; nil takes everything.
	include *ignore.Matcher
	path    []component // of include, for what need not be walked
	exclude *ignore.Matcher
}

// component is a part of an include pattern that stands for one name, up to where one can stand for several.
type component struct {
	open    bool   // from here on anything may match
	pattern string // of filepath.Match, if not
}

// newExclude compiles the patterns of --exclude; nil for none.
func newExclude(patterns []string) (*ignore.Matcher, error) {
	if len(patterns) == 0 {
		return nil, nil //nolint:nilnil // the nil Matcher excludes nothing
	}
	m, err := ignore.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("invalid --exclude pattern in %q: %w", patterns, err)
	}
	return m, nil
}

// newInclude makes the filter of one --parents pattern, relative and clean.
func newInclude(pattern string, exclude *ignore.Matcher) (*filter, error) {
	m, err := ignore.New([]string{pattern})
	if err != nil {
		return nil, fmt.Errorf("invalid --parents pattern %q: %w", pattern, err)
	}
	f := &filter{include: m, exclude: exclude}
	for _, p := range m.Patterns() { // one, as the matcher understands it, or none
		if !ignore.Plain(p) {
			f.path = []component{{open: true}}
			break
		}
		for comp := range strings.SplitSeq(p, "/") {
			c := newComponent(comp)
			f.path = append(f.path, c)
			if c.open {
				break
			}
		}
	}
	return f, nil
}

func newComponent(comp string) component {
	return component{open: strings.Contains(comp, "**") || !simpleClasses(comp), pattern: comp}
}

// simpleClasses says whether the classes of a part are of ASCII letters and digits alone. Others may not end where they
// seem to, or contain the slash, as in BuildKit: "[.-0]" does.
func simpleClasses(comp string) bool {
	for {
		fixed, rest, found := strings.Cut(comp, "[")
		if strings.Contains(fixed, "]") {
			return false
		}
		if !found {
			return true
		}
		class, after, closed := strings.Cut(rest, "]")
		if !closed || class == "" || class[0] == '-' || strings.Contains(class, "--") {
			return false
		}
		for _, c := range class {
			if c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
				return false
			}
		}
		comp = after
	}
}

// match says whether name can be what the part stands for.
func (c *component) match(name string) bool {
	ok, err := filepath.Match(c.pattern, name)
	return ok || err != nil
}

// mark is what a filter knows of a folder on the way down.
type mark struct {
	include, exclude ignore.Dir
	all              bool // include takes everything below
	depth            int  // components that matched; -1 once anything may
}

func (f *filter) root() mark {
	return mark{include: f.include.Root(), exclude: f.exclude.Root(), all: f.include == nil}
}

// match says whether an entry is taken. enter says, for a folder, whether something below it can be, and
// next is the mark for that.
func (f *filter) match(m mark, path, name string, isDir bool) (take, enter bool, next mark, err error) {
	next.all = m.all
	if !m.all {
		if next.all, _, next.include, err = f.include.Match(m.include, path); err != nil {
			return false, false, next, fmt.Errorf("matching %s with --parents: %w", path, err)
		}
	}
	excluded, skip := false, false
	if f.exclude != nil {
		if excluded, skip, next.exclude, err = f.exclude.Match(m.exclude, path); err != nil {
			return false, false, next, fmt.Errorf("matching %s with --exclude: %w", path, err)
		}
	}
	take = next.all && !excluded
	if !isDir || excluded && skip {
		return take, false, next, nil
	}
	if next.all {
		return take, true, next, nil
	}
	enter, next.depth = f.reaches(m.depth, name)
	return take, enter, next, nil
}

// reaches says whether a match can be below the folder called name, in one in which depth components of the pattern matched.
func (f *filter) reaches(depth int, name string) (ok bool, next int) {
	if depth < 0 {
		return true, -1
	}
	if depth >= len(f.path) {
		return false, 0
	}
	c := &f.path[depth]
	if c.open {
		return true, -1
	}
	if depth == len(f.path)-1 {
		return false, 0 // it would match itself
	}
	return c.match(name), depth + 1
}

// view is the part of a folder that a filter takes.
type view struct {
	entries []viewEntry // sorted by name
}

type viewEntry struct {
	n   *node
	sub *view // of a directory of which not everything is taken; nil takes it whole
	way bool  // the directory itself is not taken, it is on the way to something that is
}

// view finds what f takes of d, which is called path from the source on. It lists the folders that can hold
// something, and stats nothing.
func (t *Tree) view(ctx context.Context, f *filter, d *dir, path string, m mark) (*view, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := t.list(d); err != nil {
		return nil, err
	}
	v := &view{}
	type walk struct {
		entry int
		mark  mark
	}
	var walks []walk // the folders that may not be taken whole
	for i := range d.nodes {
		n := &d.nodes[i]
		name := join(path, n.Name)
		take, enter, next, err := f.match(m, name, n.Name, n.dir != nil)
		if err != nil {
			return nil, err
		}
		if !take && !enter {
			continue
		}
		if whole := take && f.exclude == nil; enter && !whole {
			walks = append(walks, walk{len(v.entries), next})
		}
		v.entries = append(v.entries, viewEntry{n: n, way: !take})
	}
	err := t.each(ctx, len(walks), func(i int) (err error) {
		e := &v.entries[walks[i].entry]
		e.sub, err = t.view(ctx, f, e.n.dir, join(path, e.n.Name), walks[i].mark)
		return err
	})
	if err != nil {
		return nil, err
	}
	v.drop()
	return v, nil
}

// drop takes out the folders that lead to nothing.
func (v *view) drop() {
	kept := v.entries[:0]
	for _, e := range v.entries {
		if !e.way || len(e.sub.entries) > 0 {
			kept = append(kept, e)
		}
	}
	clear(v.entries[len(kept):])
	v.entries = kept
}

// Folder is a directory of a Tree as a copy takes it: whole, or what --parents and --exclude leave of it.
type Folder struct {
	d *dir
	v *view // nil takes it whole
}

func (f Folder) len() int {
	if f.v == nil {
		return len(f.d.nodes)
	}
	return len(f.v.entries)
}

func (f Folder) node(i int) *node {
	if f.v == nil {
		return &f.d.nodes[i]
	}
	return f.v.entries[i].n
}

// sub is the folder of the i-th entry, if it is one.
func (f Folder) sub(i int) (sub Folder, ok bool) {
	n := f.node(i)
	if n.dir == nil {
		return Folder{}, false
	}
	sub.d = n.dir
	if f.v != nil {
		sub.v = f.v.entries[i].sub
	}
	return sub, true
}

func (f Folder) way(i int) bool { return f.v != nil && f.v.entries[i].way }
