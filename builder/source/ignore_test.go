package source

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/strake-build/strake/dockerfile/ignore"
	"github.com/strake-build/strake/layer/rootfs"
)

func matcher(t testing.TB, rules string) *ignore.Matcher {
	t.Helper()
	m, err := ignore.Parse(".dockerignore", strings.NewReader(rules))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// listing names what is found below the root.
func listing(t testing.TB, tr *Tree) string {
	t.Helper()
	var got []string
	err := walk(context.Background(), tr, Item{Path: ".", Dir: true}, func(rel string, _ rootfs.Entry) {
		if rel != "." {
			got = append(got, rel)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(got, " ")
}

func TestIgnore(t *testing.T) {
	for _, c := range []struct{ name, rules, files, want string }{
		{"basic", "*.log\ntmp\n", "a b.log d/c.log d/tmp/u tmp/t", "a d d/c.log d/tmp d/tmp/u"},
		{"allow list", "*\n!src\n!go.mod\n", "dir/f go.mod other src/a src/sub/b", "go.mod src src/a src/sub src/sub/b"},
		{"contents", "d/*\ne/**\n", "d/a e/a/b", "d e"},
		{"back inside", "d\n!d/keep\n!d/sub/deep/keep\n", "d/drop d/empty/ d/keep d/sub/deep/drop d/sub/deep/keep", "d d/keep d/sub d/sub/deep d/sub/deep/keep"},
		{"nothing back", "d\n!d/keep\n", "a d/drop d/sub/x", "a"},
		{"everything", "*\n", "a d/b", ""},
	} {
		dir := t.TempDir()
		files := map[string]string{}
		for name := range strings.FieldsSeq(c.files) {
			files[name] = name
		}
		tree(t, dir, files)
		if got := listing(t, open(t, dir, Options{Ignore: matcher(t, c.rules)})); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestIgnoreSelect(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{
		"Dockerfile": "", "a": "a", "secret/key": "k", "secret/pub": "p", "gone/x": "x", "link->": "secret/key", "ok->": "secret/pub",
	})
	tr := open(t, dir, Options{Ignore: matcher(t, "Dockerfile*\nsecret\n!secret/pub\ngone\n")})
	for pattern, want := range map[string]string{"a": "a=a", "secret": "secret=secret/", "secret/pub": "pub=secret/pub", "ok": "ok=secret/pub", "*/*": "pub=secret/pub", "D*": "", "gon*": ""} {
		if got := brief(sel(t, tr, pattern)); got != want {
			t.Errorf("%s: %s, want %s", pattern, got, want)
		}
	}
	for _, pattern := range []string{"Dockerfile", "secret/key", "link", "gone", "gone/x", "gone/*"} {
		_, err := tr.Select(context.Background(), Selection{Patterns: []string{pattern}})
		e, ok := errors.AsType[*NotFoundError](err)
		if !ok || !e.Ignored || !strings.Contains(e.Error(), ".dockerignore") {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	_, err := tr.Select(context.Background(), Selection{Patterns: []string{"nosuch"}})
	if e, ok := errors.AsType[*NotFoundError](err); !ok || e.Ignored {
		t.Error(err)
	}
	// What is ignored does not count, and neither do the rules themselves.
	before := digest(t, tr, ".")
	tree(t, dir, map[string]string{"secret/key": "other", "gone/y": "y"})
	if digest(t, open(t, dir, Options{Ignore: matcher(t, "gone\nDockerfile*\nsecret/key\n")}), ".") != before {
		t.Error("an ignored file counts")
	}
}
