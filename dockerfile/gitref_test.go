package dockerfile_test

import (
	"strings"
	"testing"

	"github.com/strake-build/strake/dockerfile"
)

func TestGitRef(t *testing.T) {
	yes, no := true, false
	tests := map[string]dockerfile.GitRef{
		"https://example.org/a/b.git":                                   {Remote: "https://example.org/a/b.git"},
		"https://example.org/b.git#v1":                                  {Remote: "https://example.org/b.git", Ref: "v1"},
		"https://example.org/b.git#v1:a/../sub/":                        {Remote: "https://example.org/b.git", Ref: "v1", Subdir: "sub"},
		"https://example.org/b.git#:../../x":                            {Remote: "https://example.org/b.git", Subdir: "x"},
		"https://me:pw@example.org/b.git?tag=v1":                        {Remote: "https://me:pw@example.org/b.git", Ref: "refs/tags/v1"},
		"http://example.org/b.git?branch=refs/heads/m":                  {Remote: "http://example.org/b.git", Ref: "refs/heads/m", UnencryptedTCP: true},
		"git://example.org/b?ref=r&subdir=s":                            {Remote: "git://example.org/b", Ref: "r", Subdir: "s", UnencryptedTCP: true},
		"ssh://me@example.org:22/b?keep-git-dir":                        {Remote: "ssh://me@example.org:22/b", KeepGitDir: &yes},
		"git@example.org:a/b.git#main:s":                                {Remote: "git@example.org:a/b.git", Ref: "main", Subdir: "s"},
		"git@example.org:a?commit=abc&submodules=0":                     {Remote: "git@example.org:a", Commit: "abc", Submodules: &no},
		"git@example.org:a?checksum=abc&fetch-by-commit=1&mtime=commit": {Remote: "git@example.org:a", Commit: "abc", FetchByCommit: true, MTime: "commit"},
		"github.com/a/b#c":                                              {Remote: "github.com/a/b", Ref: "c", MaybeLocal: true},
	}
	optional := func(b *bool) string {
		if b == nil {
			return "nil"
		}
		return map[bool]string{true: "true", false: "false"}[*b]
	}
	for s, want := range tests {
		got, err := dockerfile.ParseGitRef(s)
		if err != nil || got == nil {
			t.Errorf("%s: %v, %v", s, got, err)
			continue
		}
		if optional(got.KeepGitDir) != optional(want.KeepGitDir) || optional(got.Submodules) != optional(want.Submodules) {
			t.Errorf("%s: keep %s, submodules %s", s, optional(got.KeepGitDir), optional(got.Submodules))
		}
		plain := *got
		plain.KeepGitDir, plain.Submodules = want.KeepGitDir, want.Submodules
		if plain != want {
			t.Errorf("%s: got %+v, want %+v", s, plain, want)
		}
	}
	for _, s := range []string{"", "a.git", "me@home", "./git@h:x", "../git@h:x", "ftp://h/x.git", "https://h/x", "a:b", "https://h/%zz.git", "git@h:x?a=%zz"} {
		if got, err := dockerfile.ParseGitRef(s); got != nil || err != nil {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
}

func TestGitRefErrors(t *testing.T) {
	for query, want := range map[string]string{
		"#a?ref=b":             "", // all of it is the fragment
		"?ref=b#a":             `ref conflicts: "a" vs "b"`,
		"?tag=a&branch=b":      "branch conflicts with tag",
		"?tag=a#refs/tags/a":   "",
		"?branch=a#b":          `ref conflicts: "b" vs "refs/heads/a"`,
		"?subdir=a#:b":         `subdir conflicts: "b" vs "a"`,
		"?ref=a&ref=b":         `query "ref" has multiple values`,
		"?ref":                 `query "ref" has no value`,
		"?mtime=now":           `invalid mtime value: "now" (must be "checkout" or "commit")`,
		"?submodules=maybe":    `invalid submodules value: "maybe"`,
		"?what=1":              `unexpected query "what"`,
		"?commit=a&checksum=b": `checksum conflicts: "b" vs "a"`,
	} {
		_, err := dockerfile.ParseGitRef("https://example.org/r.git" + query)
		if want == "" != (err == nil) || err != nil && err.Error() != want {
			t.Errorf("%s: got %v, want %s", query, err, want)
		}
	}
}

func FuzzGitRef(f *testing.F) {
	for _, s := range []string{"https://h/x.git#r:s", "git@h:a/b?ref=x#y", "ssh://u@h/x?tag=a&branch=b", "github.com/a/b#c", "https://h/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := dockerfile.ParseGitRef(s)
		if err != nil || r == nil {
			return
		}
		if r.Remote == "" || strings.HasPrefix(s, "./") {
			t.Fatalf("%q gives %+v", s, r)
		}
	})
}
