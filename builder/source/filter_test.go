package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"

	"github.com/strake-build/strake/layer/rootfs"
)

// taken names what a selection takes, "item:path" for what is below an item; a folder on the way stands in brackets.
func taken(t testing.TB, tr *Tree, s Selection) (string, error) {
	t.Helper()
	ctx := context.Background()
	items, err := tr.Select(ctx, s)
	if err != nil {
		return "", err
	}
	var out []string
	for _, it := range items {
		if !it.Dir {
			out = append(out, it.Path)
			continue
		}
		f, err := tr.Folder(it)
		if err != nil {
			return "", err
		}
		if err := below(ctx, tr, f, it.Path+":", &out); err != nil {
			return "", err
		}
	}
	return strings.Join(out, " "), nil
}

func below(ctx context.Context, tr *Tree, f Folder, prefix string, out *[]string) error {
	infos, err := tr.Read(ctx, f)
	for _, info := range infos {
		switch name := prefix + info.Name; {
		case info.Way:
			*out = append(*out, "("+name+")")
		default:
			*out = append(*out, name)
		}
		if info.Folder.d != nil {
			err = errors.Join(err, below(ctx, tr, info.Folder, prefix+info.Name+"/", out))
		}
	}
	return err
}

func TestParents(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{
		"left/n.cfg": "l", "right/n.cfg": "r", "a/b/f": "f", "a/other": "o", "c/g": "g", "top.go": "t", "a/x.go": "x", "a/b/x.go": "y",
		"a/b/c/x.go": "z", "e/": "", "l->": "a", "a/l->": "b", "f->": "top.go", "src/one/./two/k": "k", "!x/y": "!", "sp ace/[z]/w": "w",
	})
	tr := open(t, dir, Options{})
	for _, c := range []struct{ patterns, want string }{
		{"left/n.cfg right/n.cfg", "(.:left) .:left/n.cfg (.:right) .:right/n.cfg"},
		{"/left/n.cfg", "(.:left) .:left/n.cfg"},
		{"./left/n.cfg", "(.:left) .:left/n.cfg"},
		{"../left//n.cfg/", "(.:left) .:left/n.cfg"},
		{"a/b", "(.:a) .:a/b .:a/b/c .:a/b/c/x.go .:a/b/f .:a/b/x.go"},
		{"a/b/c/ c", "(.:a) (.:a/b) .:a/b/c .:a/b/c/x.go .:c .:c/g"},
		{"*/*.go", "(.:a) .:a/x.go"},
		{"**/*.go", "(.:a) (.:a/b) (.:a/b/c) .:a/b/c/x.go .:a/b/x.go .:a/x.go .:top.go"},
		{"a/**/x.go", "(.:a) (.:a/b) (.:a/b/c) .:a/b/c/x.go .:a/b/x.go .:a/x.go"},
		{"e/**", ""},
		{"c/**", "(.:c) .:c/g"},
		{"a/*.nope", ""},
		{"nope/*", ""},
		{"e", ".:e"},
		{"a/./b/f", "(a:b) a:b/f"},
		{"a/./b/./f", "(a:b) a:b/f"},
		{"l/./b/f", "(a:b) a:b/f"}, // links lead to the root
		{"a/l", "(.:a) .:a/l"},     // but are copied below it
		{"[ac]/./*.go", "a:x.go"},  // c has none, but is there
		{"x*/./*.go", ""},          // no root at all
		{"f/./*", "top.go"},        // the root is a file
		{"[lr]*/n.cfg", "(.:left) .:left/n.cfg (.:right) .:right/n.cfg"},
		{"sp*ace/\\[z]/w", "(.:sp ace) (.:sp ace/[z]) .:sp ace/[z]/w"},
		{"sp ace/**", "(.:sp ace) .:sp ace/[z] .:sp ace/[z]/w"},
		{"!x/*", ""}, // a "!" takes back
		{"/!x/y*", ""},
	} {
		got, err := taken(t, tr, Selection{Patterns: split(c.patterns), Parents: true})
		if err != nil || got != c.want {
			t.Errorf("%s: %v\ngot  %s\nwant %s", c.patterns, err, got, c.want)
		}
	}
}

// split splits at blanks, but those of "sp ace".
func split(patterns string) []string {
	list := strings.Fields(strings.ReplaceAll(patterns, "sp ace", "sp\x00ace"))
	for i := range list {
		list[i] = strings.ReplaceAll(list[i], "\x00", " ")
	}
	return list
}

func TestParentsErrors(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"a/b/f": "f", "l->": "a", "file": "f", "ign": "i"})
	tr := open(t, dir, Options{Ignore: matcher(t, "ign")})
	for _, c := range []struct{ pattern, exclude, want string }{
		{"nope", "", `"/nope": not found`},
		{"a/nope/./x", "", `"/a/nope": not found`},
		{"a/./b/g", "", `"/a/b/g": not found (did you mean "/a/b/f"?)`},
		{"ign", "", `"/ign": not found (it exists, but .dockerignore excludes it)`},
		{"l/b", "", `"/l/b": not found (it exists, but --exclude leaves it out or it is behind a link, which --parents does not follow)`},
		{"file", "f*", `"/file": not found (it exists, but --exclude leaves it out or it is behind a link, which --parents does not follow)`},
		{".", "", `"/": not found`},
		{"a/./.", "", `"/a": not found (it exists, but --exclude leaves it out or it is behind a link, which --parents does not follow)`},
		{"file/./x", "", `"/file/x": not found`},
		{"[a", "", `invalid --parents pattern "[a": syntax error in pattern`},
		{"a", "[b", `invalid --exclude pattern in ["[b"]: syntax error in pattern`},
	} {
		s := Selection{Patterns: []string{c.pattern}, Parents: true}
		if c.exclude != "" {
			s.Exclude = []string{c.exclude}
		}
		if _, err := tr.Select(context.Background(), s); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.pattern, err, c.want)
		}
	}
}

func TestExclude(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"d/a.txt": "a", "d/b.md": "b", "d/sub/c.txt": "c", "d/sub/e.md": "e", "d/x/keep": "k", "d/x/y": "y", "z.txt": "z"})
	tr := open(t, dir, Options{})
	all := "d:a.txt d:b.md d:sub d:sub/c.txt d:sub/e.md d:x d:x/keep d:x/y"
	for _, c := range []struct{ patterns, exclude, want string }{
		{"d", "", all},
		{"d", "nope", all},
		{"d", "d/a.txt", all},
		{"d", "*.txt", "d:b.md d:sub d:sub/c.txt d:sub/e.md d:x d:x/keep d:x/y"},
		{"d", "/*.txt", all}, // other than in a .dockerignore
		{"d", "**/*.txt x", "d:b.md d:sub d:sub/e.md"},
		{"d", "*", ""},
		{"d", "x !x/keep sub **/*.md", "d:a.txt (d:x) d:x/keep"},
		{"d", "* !x/keep", "(d:x) d:x/keep"},
		{"z.txt", "*.txt", "z.txt"}, // a source is not left out
		{"*.txt", "*.txt", "z.txt"},
		{"*", "*.txt", "d:b.md d:sub d:sub/c.txt d:sub/e.md d:x d:x/keep d:x/y z.txt"},
		{"d/sub d/x", "*.md y", "d/sub:c.txt d/x:keep"},
		{".", "d/**/*.txt z.txt", ".:d .:d/b.md .:d/sub .:d/sub/e.md .:d/x .:d/x/keep .:d/x/y"},
	} {
		got, err := taken(t, tr, Selection{Patterns: strings.Fields(c.patterns), Exclude: strings.Fields(c.exclude)})
		if err != nil || got != c.want {
			t.Errorf("%s without %s: %v\ngot  %s\nwant %s", c.patterns, c.exclude, err, got, c.want)
		}
	}
	got, err := taken(t, tr, Selection{Patterns: []string{"d/**"}, Exclude: []string{"d/sub", "**/y"}, Parents: true})
	if want := "(.:d) .:d/a.txt .:d/b.md .:d/x .:d/x/keep"; err != nil || got != want {
		t.Errorf("both: %v\ngot  %s\nwant %s", err, got, want)
	}
}

// The folders that a selection lists are those in which something can match.
func TestListsLittle(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		for j := range 5 {
			tree(t, dir, map[string]string{fmt.Sprintf("p%02d/m%d/deep/f.go", i, j): "f", fmt.Sprintf("p%02d/m%d/x.txt", i, j): "x"})
		}
	}
	for _, c := range []struct {
		s    Selection
		most int
	}{
		{Selection{Patterns: []string{"p0*/m1/x.txt"}}, 1 + 10 + 10},
		{Selection{Patterns: []string{"p03/*/x*"}}, 1 + 1 + 5},
		{Selection{Patterns: []string{"p03/m1/x.txt"}, Parents: true}, 3},
		{Selection{Patterns: []string{"p03/m[1]/*.txt"}, Parents: true}, 3},
		{Selection{Patterns: []string{"p03/m?/*.txt"}, Parents: true}, 1 + 1 + 5},
		{Selection{Patterns: []string{"p03/m2/**/*.go"}, Parents: true}, 4},
		{Selection{Patterns: []string{"p03/./m2/deep"}, Parents: true}, 4},
		{Selection{Patterns: []string{"p03"}, Exclude: []string{"m*"}}, 2},
		{Selection{Patterns: []string{"."}, Exclude: []string{"p*", "!p07/m1"}}, 1 + 1 + 2},
	} {
		tr := open(t, dir, Options{})
		ctx := context.Background()
		items, err := tr.Select(ctx, c.s)
		if err == nil {
			_, err = tr.Digest(ctx, items)
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := lists(tr.top); n > c.most || n == 0 {
			t.Errorf("%v: %d folders were listed, want at most %d", c.s, n, c.most)
		}
	}
}

func lists(d *dir) (n int) {
	if d.listed {
		n++
	}
	for i := range d.nodes {
		if sub := d.nodes[i].dir; sub != nil {
			n += lists(sub)
		}
	}
	return n
}

// What is left out does not count, what is taken does.
func TestDigestSelection(t *testing.T) {
	dir := t.TempDir()
	index := filepath.Join(t.TempDir(), "index")
	tree(t, dir, map[string]string{"d/a.txt": "a", "d/b.md": "b", "d/sub/c.txt": "c", "d/sub/e.md": "e", "d/empty/": ""})
	selections := []Selection{
		{Patterns: []string{"d"}, Exclude: []string{"**/*.txt"}},
		{Patterns: []string{"d/**/*.md"}, Parents: true},
		{Patterns: []string{"d"}},
		{Patterns: []string{"d/*.md", "d/*"}},
	}
	sums := func(opt Options) (list []Digest) {
		tr := open(t, dir, opt)
		for _, s := range selections {
			items, err := tr.Select(context.Background(), s)
			if err != nil {
				t.Fatal(err)
			}
			sum, err := tr.Digest(context.Background(), items)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, sum)
		}
		if err := tr.Close(); err != nil {
			t.Fatal(err)
		}
		return list
	}
	last := sums(Options{Index: index})
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		changes    []bool
	}{
		{name: "d/a.txt", text: "A", changes: []bool{false, false, true, true}},
		{name: "d/sub/c.txt", text: "C", changes: []bool{false, false, true, true}},
		{name: "d/sub/e.md", text: "E", changes: []bool{true, true, true, true}},
		{name: "d/sub", mode: 0o700, changes: []bool{true, true, true, false}}, // of a source only the contents
		{name: "d", mode: 0o700, changes: []bool{false, true, false, false}},
		{name: "d/new.md", text: "n", changes: []bool{true, true, true, true}},
		{name: "d/new.txt", text: "n", changes: []bool{false, false, true, true}},
	} {
		p := filepath.Join(dir, c.name)
		err := error(nil)
		if c.mode != 0 {
			err = os.Chmod(p, c.mode)
		} else {
			err = os.WriteFile(p, []byte(c.text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		now := sums(Options{Index: index})
		if plain := sums(Options{}); !slices.Equal(plain, now) {
			t.Errorf("%s: with an index the digests are others", c.name)
		}
		for i := range now {
			if (now[i] != last[i]) != c.changes[i] {
				t.Errorf("%s: digest %d changes: %v", c.name, i, now[i] != last[i])
			}
		}
		last = now
	}
}

func TestDigestPath(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"d/f": "f", "e/f": "f", "l->": "d", "g": "f", "ign": "x"})
	sum := func(name string) Digest {
		t.Helper()
		d, err := open(t, dir, Options{Ignore: matcher(t, "ign")}).DigestPath(context.Background(), name)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := sum("d")
	if sum("/e") != d || sum("l/") != d || sum("d/f") != sum("g") || sum("g") == d || sum("") == d || sum("/") != sum(".") {
		t.Error("a digest counts more or less than what a mount shows")
	}
	if err := os.Chmod(filepath.Join(dir, "e"), 0o700); err != nil {
		t.Fatal(err)
	}
	if sum("e") == d {
		t.Error("the folder's own mode does not count")
	}
	top := sum("")
	if err := os.WriteFile(filepath.Join(dir, "ign"), []byte("y"), 0o644); err != nil {
		t.Fatal(err)
	}
	if sum("") != top {
		t.Error("what is ignored counts")
	}
	_, err := open(t, dir, Options{}).DigestPath(context.Background(), "nope")
	if _, ok := errors.AsType[*NotFoundError](err); !ok {
		t.Error(err)
	}
}

// FuzzFilter compares what --parents and --exclude take with a walk of everything as BuildKit does it.
func FuzzFilter(f *testing.F) {
	for _, seed := range [][2]string{
		{"a/b", ""},
		{"**/b.c", "a"},
		{"a/**", "*/b !a/b/ab"},
		{"*/[ab]/?", "!a"},
		{"a**b", "**"},
		{"[a/b]b", "a"},
		{"a\\/b", "[^a]"},
		{"!a", "!b"},
		{" a", " !a"},
		{"*/a ", "{a|b}"},
		{"[a-", "a"},
		{"a^b/(b)", ""},
		{".", "."},
		{"[]a]/b", ""},
		{"a/b*/\xff", ""},
		{"[!a]/*", ""},
		{"b", "{a|b}"},
		{"*/x|b/a", "\\PP"},
		{"a/{b|c}", "\xff*"},
		{"a[.-0]b/[a-c]*", ""},
	} {
		f.Add(seed[0], seed[1])
	}
	names := []string{"a", "b", "b.c", "ab", "!a"}
	dir := f.TempDir()
	var paths []string
	for _, x := range names {
		for _, y := range names {
			if err := os.MkdirAll(filepath.Join(dir, x, y, "a"), 0o755); err != nil {
				f.Fatal(err)
			}
			for _, z := range names[1:] {
				if err := os.WriteFile(filepath.Join(dir, x, y, z), nil, 0o644); err != nil {
					f.Fatal(err)
				}
			}
		}
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	defer root.Close()
	_ = filepath.WalkDir(dir, func(p string, _ os.DirEntry, _ error) error {
		if p != dir {
			paths = append(paths, p[len(dir)+1:])
		}
		return nil
	})
	f.Fuzz(func(t *testing.T, pattern, exclude string) {
		if len(pattern)+len(exclude) > 100 || strings.Contains(pattern, "/./") || strings.ContainsRune(pattern, 0) {
			t.Skip()
		}
		tr := open(t, dir, Options{})
		s := Selection{Patterns: []string{pattern}, Exclude: strings.Fields(exclude), Parents: true}
		got, err := taken(t, tr, s)
		want, ok := walkAll(paths, strings.TrimPrefix(filepath.Join("/", pattern), "/"), s.Exclude)
		if _, notFound := errors.AsType[*NotFoundError](err); notFound && want == "" {
			return
		}
		if (err == nil) != ok {
			t.Fatalf("%v, want none: %v", err, ok)
		}
		if err == nil && got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// walkAll is what BuildKit takes of paths, which are sorted, parents first.
func walkAll(paths []string, include string, exclude []string) (string, bool) {
	in, err := patternmatcher.New([]string{include})
	ex, err2 := patternmatcher.New(exclude)
	if err != nil || err2 != nil {
		return "", false
	}
	type state struct {
		in, ex patternmatcher.MatchInfo
		take   bool
	}
	states := map[string]state{}
	need := map[string]bool{}
	for _, p := range paths {
		var s state
		up := states[filepath.Dir(p)]
		included, info, err := in.MatchesUsingParentResults(p, up.in)
		if err != nil {
			return "", false
		}
		excluded := false
		s.in = info
		if len(exclude) > 0 {
			if excluded, s.ex, err = ex.MatchesUsingParentResults(p, up.ex); err != nil {
				return "", false
			}
		}
		s.take = included && !excluded
		states[p] = s
		for d := filepath.Dir(p); s.take && d != "."; d = filepath.Dir(d) {
			need[d] = true
		}
	}
	var out []string
	for _, p := range paths {
		switch {
		case states[p].take:
			out = append(out, ".:"+p)
		case need[p]:
			out = append(out, "(.:"+p+")")
		}
	}
	return strings.Join(out, " "), true
}
