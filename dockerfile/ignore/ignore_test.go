package ignore_test

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/strake-build/strake/dockerfile/ignore"
)

func parse(t testing.TB, text string) *ignore.Matcher {
	t.Helper()
	m, err := ignore.Parse(".dockerignore", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestExcludes(t *testing.T) {
	tests := []struct {
		name, text         string
		excluded, included []string
	}{
		{"empty", "", nil, []string{"a", "a/b"}},
		{"comments and blanks", "# a\n\n  \n  b  \n #c\n", []string{"b", "b/x", "#c"}, []string{"a", "# a"}},
		{"byte order mark", "\ufeffa\n", []string{"a"}, []string{"b"}},
		{"crlf", "a\r\nb/\r\n", []string{"a", "b", "b/c"}, []string{"c"}},
		{"cleaned", "./a/../b//c/\n/d\n", []string{"b/c", "d"}, []string{"a", "b", "x/d"}},
		{"whole names only", "a\n", []string{"a", "a/b"}, []string{"ab", "b/a"}},
		{"star", "*.md\n", []string{"x.md", "x.md/y"}, []string{"a/x.md", "x.mdx"}},
		{"question mark", "a?\n", []string{"ab"}, []string{"a", "abc", "a/b"}},
		{"class", "[a-c]x\n", []string{"ax", "cx"}, []string{"dx", "x"}},
		{"two stars", "**/*.o\n", []string{"a.o", "a/b.o", "a/b/c.o"}, []string{"a.oo"}},
		{"two stars at the end", "a/**\n", []string{"a/b", "a/b/c"}, []string{"a", "b"}},
		{"two stars in between", "a/**/z\n", []string{"a/z", "a/b/z", "a/b/c/z"}, []string{"z", "a/zz", "b/z"}},
		{"name anywhere", "**/node_modules\n", []string{"node_modules", "a/node_modules", "a/node_modules/x"}, []string{"node_modules2"}},
		{"taken back", "*\n!src\n!go.*\n", []string{"x", "docs/src"}, []string{"src", "src/a/b", "go.mod"}},
		{"the last one wins", "*.md\n!README*.md\nREADME-secret.md\n", []string{"a.md", "README-secret.md"}, []string{"README.md"}},
		{"taken back for nothing", "!a\n*\n", []string{"a"}, nil},
		{"below an excluded folder", "a\n!a/b/c\n", []string{"a", "a/x", "a/b", "a/b/x"}, []string{"a/b/c", "a/b/c/d"}},
		{"blanks after the mark", "*\n! a\n", []string{"b"}, []string{"a"}},
		{"escaped", "\\*\n\\!x\n", []string{"*", "!x"}, []string{"a", "x"}},
		{"dot", ".\n", nil, []string{"a", "b/c"}},
		{"regular expression signs", "a.b+(c)$\n", []string{"a.b+(c)$"}, []string{"axb+(c)$"}},
		{"unicode", "ü*/é\n", []string{"üx/é"}, []string{"u/é"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := parse(t, test.text)
			for _, p := range test.excluded {
				if got, err := m.Excludes(p); err != nil || !got {
					t.Errorf("%q is not excluded: %v", p, err)
				}
			}
			for _, p := range test.included {
				if got, err := m.Excludes(p); err != nil || got {
					t.Errorf("%q is excluded: %v", p, err)
				}
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"!\n":                      `d/.dockerignore: illegal exclusion pattern: "!"`,
		"[a\n":                     "d/.dockerignore: syntax error in pattern",
		"a\\\n":                    "d/.dockerignore: syntax error in pattern",
		strings.Repeat("x", 1<<17): "reading d/.dockerignore: bufio.Scanner: token too long",
	} {
		_, err := ignore.Parse("d/.dockerignore", strings.NewReader(text))
		if err == nil || err.Error() != want {
			t.Errorf("%.20q: %v, want %s", text, err, want)
		}
	}
}

// patternmatcher's scanner writes about bad bytes to the standard error.
func TestQuiet(t *testing.T) {
	stderr := os.Stderr
	defer func() { os.Stderr = stderr }()
	var err error
	if os.Stderr, err = os.Create(filepath.Join(t.TempDir(), "stderr")); err != nil {
		t.Fatal(err)
	}
	defer os.Stderr.Close()
	m := parse(t, "\xff\n\xfe**\n**/\xfd\n?\xfc\xfb*\n\x00\n*\x00\n[\x00b]\\\x00\nz*\n!z\xff*\n")
	for p, want := range map[string]bool{
		"\xff": true, "\xfe/a": true, "a/\xfd": true, "a\xfc\xfbb": true, "a\xfc": false, "\xfd\xff": false, "a": false, "zz": true, "z\xff": false,
	} {
		if got, err := m.Excludes(p); err != nil || got != want {
			t.Errorf("%q: %v, %v", p, got, err)
		}
	}
	if text, err := os.ReadFile(os.Stderr.Name()); err != nil || len(text) > 0 {
		t.Errorf("%q, %v", text, err)
	}
}

func TestNil(t *testing.T) {
	var m *ignore.Matcher
	if excluded, skip, _, err := m.Match(m.Root(), "a"); excluded || skip || err != nil {
		t.Error(excluded, skip, err)
	}
	if excluded, err := m.Excludes("a"); excluded || err != nil {
		t.Error(excluded, err)
	}
	if m.Patterns() != nil || m.Exclusions() {
		t.Error("patterns of nothing")
	}
}

func TestPatterns(t *testing.T) {
	m := parse(t, "/a\n! b/\n")
	if got := m.Patterns(); !slices.Equal(got, []string{"a", "!b"}) || !m.Exclusions() {
		t.Error(got, m.Exclusions())
	}
}

func TestSkip(t *testing.T) {
	tests := []struct {
		text, folder string
		skip         bool
	}{
		{"node_modules\n", "node_modules", true},
		{"*\n!src\n", "docs", true},
		{"*\n!src/a\n", "src", false},
		{"*\n!src/a\n", "srcs", true},
		{"*\n!src/*.go\n", "docs", true},
		{"*\n!src/*.go\n", "src", false},
		{"*\n!src/*.go\n", "src/deep", true},
		{"*\n!*/keep\n", "any", false},
		{"*\n!*/keep\n", "any/other", true},
		{"*\n!*/keep/*\n", "any/other", true},
		{"*\n!*/keep/*\n", "any/keep", false},
		{"*\n!**/keep\n", "a/b/c", false},
		{"!docs/x\ndocs\n", "docs", true},
		{"*\n!do[c]s/x\n", "docs", false},
		{"*\n!do[c]s/x\n", "src", true},
	}
	for _, test := range tests {
		m := parse(t, test.text)
		dir, excluded, skip := m.Root(), false, false
		parts := strings.Split(test.folder, "/")
		for i := range parts {
			var err error
			if excluded, skip, dir, err = m.Match(dir, strings.Join(parts[:i+1], "/")); err != nil {
				t.Fatal(err)
			}
		}
		if !excluded || skip != test.skip {
			t.Errorf("%q, %s: excluded %v, skip %v, want %v", test.text, test.folder, excluded, skip, test.skip)
		}
	}
}

// A Dir is shared by all entries of a folder.
func TestParallel(t *testing.T) {
	m := parse(t, "**/*.o\n*/tmp\n!**/keep.o\n")
	_, _, dir, err := m.Match(m.Root(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				name := fmt.Sprintf("a/%d-%d.o", i, j)
				if excluded, _, _, err := m.Match(dir, name); err != nil || !excluded {
					t.Errorf("%s: %v, %v", name, excluded, err)
				}
			}
		})
	}
	wg.Wait()
}

// reference is a walk as BuildKit does it, with patternmatcher alone.
func reference(t testing.TB, pm *patternmatcher.PatternMatcher, paths []string) map[string]bool {
	out := map[string]bool{}
	infos := map[string]patternmatcher.MatchInfo{}
	for _, p := range paths {
		excluded, info, err := pm.MatchesUsingParentResults(p, infos[path.Dir(p)])
		if err != nil {
			t.Skip("a bad pattern")
		}
		infos[p], out[p] = info, excluded
	}
	return out
}

// tree is every path of up to three of the names, folders first.
func tree(names []string) []string {
	level, all := names, slices.Clone(names)
	for range 2 {
		var next []string
		for _, p := range level {
			for _, n := range names {
				next = append(next, p+"/"+n)
			}
		}
		level, all = next, append(all, next...)
	}
	return all
}

// FuzzIgnore compares a walk with BuildKit's, and what is skipped with what BuildKit would have found there.
func FuzzIgnore(f *testing.F) {
	for _, seed := range []string{
		"", "# comment\n\n.git\nnode_modules\n**/*.log\n", "*\n!src\n!go.mod\n!go.sum\n", "a\n!a/b\na/b/c\n", "a/b\n!a\n",
		"**/a\n!b/**\n", "!a\n*\n", "[a-c]\n!?/b\n", "*/a\n!*/a/b.c\n", "\\a\n!!a\n", "! ./ a\n/\n.\n", "a^b\n**\n!a*/[^b]\n", "!\n", "..\n!../a\n",
		"a**b\n!***/a\n", "\xff\n!\xfe*\n", "\\PP\n", "*\n!!|\n", "{a|b}\n", "\ufeff**\n!\ufeff*\n", "*/\xff\n!**/\xff\n!b\xff**\n",
		"**/ /.\n!../a*\n", "\\Qa\\E*\n!(a)$?\n",
	} {
		f.Add(seed)
	}
	paths := tree([]string{"a", "b", "b.c", "!a", "b|\xff", " "})
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 200 || strings.ContainsRune(text, 0) {
			t.Skip()
		}
		patterns, err := ignorefile.ReadAll(strings.NewReader(text))
		if err != nil {
			t.Skip()
		}
		pm, err := patternmatcher.New(patterns)
		m, ours := ignore.New(patterns)
		if (err == nil) != (ours == nil) {
			t.Fatalf("error %v, want %v", ours, err)
		}
		if err != nil {
			return
		}
		want := reference(t, pm, paths)
		dirs, skipped := map[string]ignore.Dir{}, map[string]bool{}
		for _, p := range paths {
			if skipped[path.Dir(p)] {
				skipped[p] = true
				if !want[p] {
					t.Errorf("%q: skipped, but BuildKit includes it", p)
				}
				continue
			}
			excluded, skip, dir, err := m.Match(dirs[path.Dir(p)], p)
			if err != nil || excluded != want[p] {
				t.Errorf("%q: %v, %v, want %v", p, excluded, err, want[p])
			}
			if one, err := m.Excludes(p); err != nil || one != want[p] {
				t.Errorf("Excludes(%q) is %v, %v, want %v", p, one, err, want[p])
			}
			dirs[p], skipped[p] = dir, skip
		}
	})
}

// BenchmarkMatch walks 50,000 files with a usual file of patterns.
func BenchmarkMatch(b *testing.B) {
	m := parse(b, ".git\n**/node_modules\n**/*.log\n**/.DS_Store\ndist\nbuild/*\n*.md\n!README.md\n**/*_test.go\n/docs\n!docs/api/*.json\n**/tmp/**\n")
	var folders, files []string
	for i := range 500 {
		folders = append(folders, fmt.Sprintf("src/pkg%d", i))
	}
	for i := range 100 {
		files = append(files, fmt.Sprintf("file%d.go", i))
	}
	for b.Loop() {
		_, _, src, _ := m.Match(m.Root(), "src")
		for _, folder := range folders {
			_, _, dir, _ := m.Match(src, folder)
			for _, file := range files {
				if excluded, _, _, err := m.Match(dir, folder+"/"+file); err != nil || excluded {
					b.Fatal(file, err)
				}
			}
		}
	}
}

func TestCopySources(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "a\n!a/b\n"} {
		if parse(t, text).CopySources() != nil {
			t.Errorf("%q: not nil", text)
		}
	}
	ignored := parse(t, "dist\n**/*.log\n").CopySources()
	for path, want := range map[string]bool{".": false, "/": false, "dist": true, "dist/a": true, "/dist": false, "a/b.log": true, "src": false, "../dist": false} {
		if got := ignored(path); got != want {
			t.Errorf("%s: got %v", path, got)
		}
	}
	for _, text := range []string{"*", "**", "/**/*"} {
		if !parse(t, text).CopySources()(".") {
			t.Errorf("%s does not keep all out", text)
		}
	}
}

// A pattern may be as nested as anybody writes one, but the memory that it takes to match is bounded.
func TestManyDoubleStars(t *testing.T) {
	m := parse(t, strings.Repeat("**/", 256)+"a*\n")
	if excluded, err := m.Excludes("x/y/ab"); err != nil || !excluded {
		t.Errorf("not excluded: %v", err)
	}
	_, err := ignore.Parse(".dockerignore", strings.NewReader(strings.Repeat("**/", 20_000)+"a\n"))
	if want := `has more than 256 "**": write a shorter one`; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}
