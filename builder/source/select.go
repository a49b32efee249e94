package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/dockerfile/ignore"
)

// maxLinks is how many symbolic links the lookup of one source follows.
const maxLinks = 255

// Selection says what a COPY or ADD takes of a tree.
type Selection struct {
	Patterns []string // the sources as they are written; "" is the root
	// Literal: the patterns are names, in which no character is a wildcard, as the sources of mounts are. What follows is of patterns alone.
	Literal bool
	// Exclude leaves out what it matches below a source that is a folder, relative to it, in the syntax of .dockerignore. The
	// source itself is never left out, nor is a match of a wildcard: each is a source. This is so in BuildKit, whose manual says otherwise.
	Exclude []string
	// Parents keeps the path of what is copied, from the root or from the first "/./" on: see Select.
	Parents bool
	// Taken is what all steps take of the tree; nil is everything.
	Taken *Taken
}

// Taken is what the steps of a build take of a context.
type Taken struct {
	Patterns []string // as in Selection
}

// Select finds what the patterns of a COPY mean (filepath.Match in each component, links followed inside the
// tree, ".." clipped at the root). A pattern without wildcards that matches nothing is a *NotFoundError; one with
// wildcards matches nothing silently, as in BuildKit, so the answer may be empty. The folder before the first
// wildcard must exist, and of a local context something must be taken of it (Taken): BuildKit is sent nothing else.
//
// Links are followed in the components before the first wildcard, and each match is followed
// if it is a link; the components between do not lead through links.
//
// With Parents the source is the folder before "/./", a pattern as above or the root without it, and an item is such a folder with only those things
// in it that match the rest, which is in the syntax of .dockerignore ("**" stands for any number of folders, links are not followed), with all below them, and with the
// folders on the way. A pattern without wildcards that takes nothing is a *NotFoundError; the root itself is never taken, as in BuildKit.
//
// Only folders are listed in which something can match; nothing is stat'ed.
func (t *Tree) Select(ctx context.Context, s Selection) ([]Item, error) {
	exclude, err := newExclude(s.Exclude)
	if err != nil {
		return nil, err
	}
	var items []Item
	for _, p := range s.Patterns {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if strings.IndexByte(p, 0) >= 0 {
			return nil, fmt.Errorf("source %q: the name holds a zero byte", p)
		}
		var found []Item
		switch {
		case s.Literal:
			found = make([]Item, 1)
			found[0], err = t.follow(path.Clean("/" + p)[1:])
		case s.Parents:
			found, err = t.selectParents(ctx, p, exclude)
		default:
			found, err = t.selectOne(ctx, path.Clean("/" + p)[1:])
			if err == nil && len(found) == 0 && t.opt.Local && s.Taken != nil {
				err = t.notMatched(ctx, path.Clean("/" + p)[1:], s.Taken)
			}
			if err == nil && exclude != nil {
				err = t.narrow(ctx, found, &filter{exclude: exclude})
			}
		}
		if err != nil {
			return nil, err
		}
		items = append(items, found...)
	}
	return items, nil
}

// selectParents finds the folders that a pattern of --parents starts at, and what it takes of each.
func (t *Tree) selectParents(ctx context.Context, source string, exclude *ignore.Matcher) ([]Item, error) {
	root, pattern, pivot := strings.Cut(source, "/./")
	if !pivot {
		root, pattern = "", source
	}
	root, pattern = path.Clean("/" + root)[1:], path.Clean("/" + pattern)[1:]
	f, err := newInclude(pattern, exclude)
	if err != nil {
		return nil, err
	}
	items, err := t.selectOne(ctx, root)
	if err != nil {
		return nil, err
	}
	if err := t.narrow(ctx, items, f); err != nil {
		return nil, err
	}
	if !hasWildcard(root) && !hasWildcard(pattern) && (items[0].view == nil || len(items[0].view.entries) == 0) {
		return nil, t.notTaken(path.Join(root, pattern))
	}
	return items, nil
}

// narrow reduces those items that are directories to what f takes.
func (t *Tree) narrow(ctx context.Context, items []Item, f *filter) error {
	for i := range items {
		item := &items[i]
		if !item.Dir {
			continue
		}
		dir, err := t.Folder(*item)
		if err != nil {
			return err
		}
		if item.view, err = t.view(ctx, f, dir.d, ".", f.root()); err != nil {
			return err
		}
	}
	return nil
}

// selectOne returns what one pattern matches, in the order of names.
func (t *Tree) selectOne(ctx context.Context, pattern string) ([]Item, error) {
	base, wild := splitWildcard(pattern)
	if len(wild) == 0 {
		item, err := t.follow(pattern)
		if err != nil {
			return nil, err
		}
		return []Item{item}, nil
	}
	top, err := t.follow(base)
	if err != nil || !top.Dir {
		return nil, err
	}
	for _, w := range wild {
		if _, err := filepath.Match(w, ""); err != nil {
			return nil, fmt.Errorf("source %q: %w", "/"+pattern, err)
		}
	}
	names, err := t.glob(ctx, top.Path, wild, nil)
	if err != nil {
		return nil, err
	}
	items := make([]Item, 0, len(names))
	for _, name := range names {
		item, err := t.follow(name)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

// notMatched finds out what to say of a pattern that matches nothing: nothing, if it starts at the root or in a folder of which something is taken.
func (t *Tree) notMatched(ctx context.Context, pattern string, taken *Taken) error {
	base, _ := splitWildcard(pattern)
	top, err := t.follow(base)
	if err != nil || top.Path == "." {
		return err
	}
	for _, p := range taken.Patterns {
		if strings.Contains(p, "**") {
			return nil // of --parents, and may match anywhere
		}
		items, err := t.selectOne(ctx, path.Clean("/" + p)[1:])
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err == nil && slices.ContainsFunc(items, func(i Item) bool { return within(i.Path, top.Path) || within(top.Path, i.Path) }) {
			return nil
		}
	}
	return &NotFoundError{Path: "/" + pattern, Unmatched: "/" + base}
}

// within says whether a path of a tree is that of dir, or of something below it.
func within(name, dir string) bool {
	return dir == "." || name == dir || strings.HasPrefix(name, dir+"/")
}

// splitWildcard splits a pattern before its first component with a wildcard. As in BuildKit a
// backslash before that component stands for itself.
func splitWildcard(pattern string) (base string, wild []string) {
	comps := strings.Split(pattern, "/")
	for i, c := range comps {
		if hasWildcard(c) {
			return strings.Join(comps[:i], "/"), comps[i:]
		}
	}
	return pattern, nil
}

func hasWildcard(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// glob appends the paths below dir that match the components of wild, entering
// only directories that match.
func (t *Tree) glob(ctx context.Context, dir string, wild, names []string) ([]string, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	d, n, err := t.find(dir)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: dir, Err: err}
	}
	if n != nil {
		d = n.dir
	}
	if err := t.list(d); err != nil {
		return nil, err
	}
	for i := range d.nodes {
		n := &d.nodes[i]
		if ok, _ := filepath.Match(wild[0], n.Name); !ok { // the patterns were checked
			continue
		}
		name := join(dir, n.Name)
		switch {
		case len(wild) == 1:
			names = append(names, name)
		case n.dir != nil:
			if names, err = t.glob(ctx, name, wild[1:], names); err != nil {
				return nil, err
			}
		}
	}
	return names, nil
}

// follow makes an item of a name, following every link in it.
func (t *Tree) follow(name string) (Item, error) {
	real, isDir, err := t.resolve(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Item{}, t.notFound(name)
	case err != nil:
		return Item{}, fmt.Errorf("source %q: %w", "/"+name, err)
	}
	return Item{Path: real, Name: path.Base(name), Dir: isDir}, nil
}

// resolve follows the links of a name among the entries that are not ignored.
func (t *Tree) resolve(name string) (real string, isDir bool, err error) {
	stack := []*dir{t.top}
	links := 0
	for todo := name; todo != ""; {
		comp, rest, more := strings.Cut(todo, "/")
		todo = rest
		switch comp {
		case "", ".":
			continue
		case "..":
			stack = stack[:max(len(stack)-1, 1)]
			continue
		}
		d := stack[len(stack)-1]
		n, err := t.child(d, comp)
		if err != nil {
			return "", false, err
		}
		if n.dir != nil {
			stack = append(stack, n.dir)
			continue
		}
		if n.Type != unix.DT_LNK {
			if more {
				return "", false, fs.ErrNotExist
			}
			return join(d.path, comp), false, nil
		}
		if links++; links > maxLinks {
			return "", false, unix.ELOOP
		}
		target, err := t.root.Readlink(join(d.path, comp))
		if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
			err = &ChangedError{Path: join(d.path, comp)}
		}
		if err != nil {
			return "", false, err
		}
		if strings.HasPrefix(target, "/") {
			stack = stack[:1]
		}
		if more {
			target += "/" + rest
		}
		if todo = target; len(todo) > 64*unix.PathMax {
			return "", false, unix.ENAMETOOLONG
		}
	}
	return stack[len(stack)-1].path, true, nil
}

// NotFoundError says that a source does not exist in the tree, or that .dockerignore excludes it.
type NotFoundError struct {
	Path    string // as it was written, clean and with a slash before it
	Ignored bool   // it exists, and .dockerignore excludes it
	Left    bool   // it exists, and --exclude leaves it out, or it is behind a link, which --parents does not follow
	Similar string // a path that does exist and looks alike, may be empty
	// Unmatched is the folder that exists, without a match for a wildcard or anything else that is taken; may be empty.
	Unmatched string
}

// Error words it as BuildKit does, with a hint.
func (e *NotFoundError) Error() string {
	msg := fmt.Sprintf("%q: not found", e.Path)
	switch {
	case e.Ignored:
		msg += " (it exists, but .dockerignore excludes it)"
	case e.Left:
		msg += " (it exists, but --exclude leaves it out or it is behind a link, which --parents does not follow)"
	case e.Unmatched != "":
		msg += fmt.Sprintf(" (nothing matches, and nothing else of %q is copied)", e.Unmatched)
	case e.Similar != "":
		msg += fmt.Sprintf(" (did you mean %q?)", e.Similar)
	}
	return msg
}

// notFound finds out what to say of a name that does not exist.
func (t *Tree) notFound(name string) error {
	e := &NotFoundError{Path: "/" + name}
	if t.opt.Ignore != nil {
		_, err := t.root.Stat(name)
		e.Ignored = err == nil
	}
	if !e.Ignored {
		e.Similar = t.similar(name)
	}
	return e
}

// notTaken finds out what to say of a name that --parents does not take.
func (t *Tree) notTaken(name string) error {
	if _, _, err := t.resolve(name); err != nil {
		return t.notFound(name)
	}
	return &NotFoundError{Path: "/" + name, Left: name != ""}
}

// similar looks in the folder where name is missing for a name that a person may have meant.
func (t *Tree) similar(name string) string {
	parent := t.top
	done := ""
	rest := name
	for rest != "" {
		comp, after, _ := strings.Cut(rest, "/")
		real, isDir, err := t.resolve(path.Join(done, comp))
		if err != nil {
			return parent.similar(done, comp)
		}
		if !isDir {
			return ""
		}
		_, n, err := t.find(real)
		if err != nil {
			return ""
		}
		if parent = t.top; n != nil {
			parent = n.dir
		}
		done, rest = path.Join(done, comp), after
	}
	return ""
}

func (d *dir) similar(at, name string) string {
	best, dist := "", 2+min(len(name)/4, 2)
	for i := range d.nodes {
		other := d.nodes[i].Name
		if other == name {
			continue // it is there, but it is a link to nothing
		}
		if n := len(other) - len(name); n >= dist || -n >= dist {
			if strings.TrimSuffix(other, path.Ext(other)) == name && best == "" {
				best = other // the same name with a suffix, unless something is nearer
			}
			continue
		}
		if n := distance(strings.ToLower(other), strings.ToLower(name)); n < dist {
			best, dist = other, n
		}
	}
	if best == "" {
		return ""
	}
	return path.Join("/", at, best)
}

// distance is how many bytes must be put in, taken out, replaced or swapped with
// their neighbour to make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
