package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// top is the top of the repository.
const top = "../.."

// readDocument returns the text of a file of the repository.
func readDocument(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documents are the names of all Markdown files.
func documents(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{"bin", ".git", "cases", "golden"}, d.Name()):
			return filepath.SkipDir
		case strings.HasSuffix(name, ".md"):
			rel, err := filepath.Rel(top, name)
			names = append(names, rel)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

var (
	link     = regexp.MustCompile(`\[([^\]\n]*)\]\(([^)\s]+)\)`)
	codeName = regexp.MustCompile("`([^`]+)`")
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// TestLinks checks that what documents link to is there: files, headings, and in a file of Go what the link's text names as code.
func TestLinks(t *testing.T) {
	for _, name := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(readDocument(t, name), -1) {
			text, target := m[1], m[2]
			if strings.Contains(target, "://") {
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			to := path.Join(path.Dir(name), file)
			if file == "" {
				to = name
			}
			if _, err := os.Stat(filepath.Join(top, to)); err != nil {
				t.Errorf("%s: [%s](%s): %v", name, text, target, err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(readDocument(t, to)), anchor) {
				t.Errorf("%s: [%s](%s): %s has no such heading", name, text, target, to)
			}
			if !strings.HasSuffix(to, ".go") {
				continue
			}
			have := declared(t, to)
			for _, c := range codeName.FindAllStringSubmatch(text, -1) {
				if want := c[1]; !slices.Contains(have, want[strings.LastIndex(want, ".")+1:]) {
					t.Errorf("%s: %s does not declare %s", name, to, want)
				}
			}
		}
	}
}

// anchors are what GitHub calls the headings of a document.
func anchors(text string) (names []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		kept := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r > 127:
				return r
			}
			return -1
		}, strings.ToLower(m[1]))
		names = append(names, kept)
	}
	return names
}

// declared are the names of what a file declares, functions, methods and types, and of its package.
func declared(t *testing.T, file string) (names []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(top, file), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names = append(names, f.Name.Name)
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			names = append(names, d.Name.Name)
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if s, ok := s.(*ast.TypeSpec); ok {
					names = append(names, s.Name.Name)
				}
			}
		}
	}
	return names
}

// TestArchitectureDocument checks the form of ARCHITECTURE.md: short, and the terms first.
func TestArchitectureDocument(t *testing.T) {
	text := readDocument(t, "ARCHITECTURE.md")
	if n := strings.Count(text, "\n"); n > 400 {
		t.Errorf("it has %d lines, and may have 400", n)
	}
	if m := heading.FindAllStringSubmatch(text, 2); len(m) != 2 || m[1][1] != "Terms" {
		t.Errorf("it begins with %q", m)
	}
}

// TestDecisions checks that docs/adr/README.md lists every decision by its title, once and in order.
func TestDecisions(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(top, "docs/adr/[0-9]*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, f := range files {
		base := filepath.Base(f)
		title, _, _ := strings.Cut(readDocument(t, path.Join("docs/adr", base)), "\n")
		number, title, _ := strings.Cut(strings.TrimPrefix(title, "# "), ". ")
		if base[:4] != strings.Repeat("0", 4-len(number))+number {
			t.Errorf("%s has the title %s. %s", base, number, title)
		}
		want = append(want, number+". ["+title+"]("+base+")")
	}
	var got []string
	for line := range strings.Lines(readDocument(t, "docs/adr/README.md")) {
		if link.MatchString(line) {
			got = append(got, strings.TrimSpace(line))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/adr/README.md should list\n%s", strings.Join(want, "\n"))
	}
}

var (
	commandLine = regexp.MustCompile(`(?m)^ {4,}(?:[A-Z_]+=\S+ |- run: |\$ |.* \| )*(strake [a-z].*)$`)
	quoted      = regexp.MustCompile(`"([^"]*)"|'([^']*)'`)
)

// TestCommandsInDocuments parses the commands that documents show.
func TestCommandsInDocuments(t *testing.T) {
	commands := 0
	for _, name := range documents(t) {
		for _, m := range commandLine.FindAllStringSubmatch(readDocument(t, name), -1) {
			line := m[1]
			if strings.ContainsAny(line, "[…") {
				continue // a synopsis
			}
			line = quoted.ReplaceAllString(line, "quoted")
			if i := strings.IndexAny(line, "#<>|;&"); i > 0 && line[i-1] == ' ' {
				line = line[:i]
			}
			commands++
			root := newRootCommand(testEnvironment(t, nil))
			cmd, args, err := root.Find(strings.Fields(strings.TrimSuffix(line, `\`))[1:])
			if err == nil {
				err = parseCommand(cmd, args)
			}
			if err != nil {
				t.Errorf("%s: %s: %v", name, m[1], err)
			}
		}
	}
	if commands < 30 {
		t.Errorf("found %d commands only", commands)
	}
}

// parseCommand parses the arguments of a command, but does nothing.
func parseCommand(cmd *cobra.Command, args []string) error {
	if err := cmd.ParseFlags(args); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}
