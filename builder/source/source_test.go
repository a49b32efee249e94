package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// tree makes files: "name": content, "name/" a folder, "name" + "->" a link to the content.
func tree(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, strings.TrimSuffix(name, "->"))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case strings.HasSuffix(name, "->"):
			err = os.Symlink(content, p)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(p, 0o755)
		default:
			err = os.WriteFile(p, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func open(t testing.TB, dir string, opt Options) *Tree {
	t.Helper()
	tr, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

func sel(t testing.TB, tr *Tree, patterns ...string) []Item {
	t.Helper()
	items, err := tr.Select(context.Background(), Selection{Patterns: patterns})
	if err != nil {
		t.Fatal(err)
	}
	return items
}

func digest(t testing.TB, tr *Tree, patterns ...string) Digest {
	t.Helper()
	d, err := tr.Digest(context.Background(), sel(t, tr, patterns...))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func brief(items []Item) string {
	var out []string
	for _, it := range items {
		s := it.Name + "=" + it.Path
		if it.Dir {
			s += "/"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestSelect(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{
		"a": "a", "b.x": "b", "c.x": "c", "d/b": "db", "d/e.x": "de", "dd/e.x": "dde", "d/sub/f.x": "f",
		"-x": "dash", "a b": "blank", "ünï.txt": "u", "#1": "hash", "back\\slash": "b", "[odd": "o",
		"lfile->": "a", "ldir->": "d", "labs->": "/d/b", "out->": "../../../../etc/passwd",
		"outabs->": "/etc", "loop->": "loop2", "loop2->": "loop", "dangling->": "nowhere",
		"up->": "..", "upd->": "../d", "chain->": "one", "one->": "ldir", "d/lsub->": "./sub",
	})
	tr := open(t, dir, Options{})
	for _, c := range []struct{ pattern, want string }{
		{"a", "a=a"},
		{"/a", "a=a"},
		{"//d//b", "b=d/b"},
		{"./a", "a=a"},
		{"a/", "a=a"},
		{".", "..=./"},
		{"/", "..=./"},
		{"", "..=./"},
		{"../a", "a=a"},
		{"d/../a", "a=a"},
		{"../../d/b", "b=d/b"},
		{"d", "d=d/"},
		{"d/", "d=d/"},
		{"d/.", "d=d/"},
		{"*.x", "b.x=b.x c.x=c.x"},
		{"./*.x", "b.x=b.x c.x=c.x"},
		{"d/*.x", "e.x=d/e.x"},
		{"*/*.x", "e.x=d/e.x e.x=dd/e.x"},
		{"d*", "d=d/ dangling"},
		{"d?", "dd=dd/"},
		{"[bc].x", "b.x=b.x c.x=c.x"},
		{"[[]odd", "[odd=[odd"},
		{"nothing*", ""},
		{"a/*", ""},
		{"*/sub/*", "f.x=d/sub/f.x"},
		{"-x", "-x=-x"},
		{"a b", "a b=a b"},
		{"ünï.txt", "ünï.txt=ünï.txt"},
		{"back\\slash", "back\\slash=back\\slash"},
		{"lfile", "lfile=a"},
		{"ldir", "ldir=d/"},
		{"labs", "labs=d/b"},
		{"lfile*", "lfile=a"},
		{"ldi*", "ldir=d/"},
		{"ldir/b", "b=d/b"},
		{"ldir/*.x", "e.x=d/e.x"},
		{"l*/b", ""},
		{"chain/lsub/f.x", "f.x=d/sub/f.x"},
		{"up", "up=./"},
		{"up/a", "a=a"},
		{"upd/b", "b=d/b"},
		{"d/lsub", "lsub=d/sub/"},
	} {
		items, err := tr.Select(context.Background(), Selection{Patterns: []string{c.pattern}})
		if strings.HasSuffix(c.want, "dangling") {
			if _, ok := errors.AsType[*NotFoundError](err); !ok {
				t.Errorf("%q: %v", c.pattern, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		want := strings.ReplaceAll(c.want, "..=./", "/=./")
		got := brief(items)
		if c.want == "..=./" {
			got = "/=" + strings.TrimPrefix(got, items[0].Name+"=")
		}
		if got != want {
			t.Errorf("%q: %s, want %s", c.pattern, got, want)
		}
	}
}

func TestSelectErrors(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{
		"go.mod": "", "src/main.go": "", "src/Readme.md": "", "file": "",
		"out->": "../../../../etc/passwd", "loop->": "loop", "dangling->": "nowhere",
	})
	tr := open(t, dir, Options{})
	for _, c := range []struct{ pattern, want string }{
		{"nosuch", `"/nosuch": not found`},
		{"go.mdo", `"/go.mdo": not found (did you mean "/go.mod"?)`},
		{"src/readme.md", `"/src/readme.md": not found (did you mean "/src/Readme.md"?)`},
		{"scr/main.go", `"/scr/main.go": not found (did you mean "/src"?)`},
		{"file/x", `"/file/x": not found`},
		{"out", `"/out": not found`},
		{"dangling", `"/dangling": not found`},
		{"nodir/*", `"/nodir": not found`},
		{"loop", `source "/loop": too many levels of symbolic links`},
		{"[", `source "/[": syntax error in pattern`},
		{"a\x00b", `source "a\x00b": the name holds a zero byte`},
	} {
		_, err := tr.Select(context.Background(), Selection{Patterns: []string{"file", c.pattern}})
		if err == nil || err.Error() != c.want {
			t.Errorf("%q: %v, want %s", c.pattern, err, c.want)
		}
	}
}

// A wildcard that matches nothing in a folder of a local context is an error, unless something else is taken of that folder.
func TestSelectUnmatched(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"d/e/f": "f", "other": "o", "l->": "d/e", "empty/": ""})
	local, whole := open(t, dir, Options{Local: true}), open(t, dir, Options{})
	for _, c := range []struct {
		pattern string
		others  []string
		fails   bool
	}{
		{"d/*.x", nil, true},
		{"d/e/*/x", nil, true},
		{"l/*.x", nil, true},
		{"empty/*", nil, true},
		{"d/*.x", []string{"other", "d/*.y", "nothing/*", "missing"}, true},
		{"d/*.x", []string{"d/e/f"}, false},
		{"d/*.x", []string{"*/e"}, false},
		{"d/e/*.x", []string{"/d/"}, false},
		{"d/e/*.x", []string{"l"}, false},
		{"d/e/*.x", []string{"."}, false},
		{"d/e/*.x", []string{"**/f"}, false},
		{"*.x", nil, false},
		{"*/*.x", nil, false},
	} {
		s := Selection{Patterns: []string{c.pattern}, Taken: &Taken{Patterns: append(c.others, c.pattern)}}
		_, err := local.Select(context.Background(), s)
		var missing *NotFoundError
		if errors.As(err, &missing) != c.fails || err != nil && !c.fails {
			t.Errorf("Select(%q) beside %q: %v, want an error: %t", c.pattern, c.others, err, c.fails)
		}
		if _, err := whole.Select(context.Background(), s); err != nil {
			t.Errorf("Select(%q) of a context that is here as a whole: %v", c.pattern, err)
		}
	}
}

func TestDigestDependsOn(t *testing.T) {
	dir := t.TempDir()
	base := map[string]string{"a": "a", "d/f": "f", "d/s/g": "g", "d/l->": "f", "other": "o"}
	tree(t, dir, base)
	get := func(patterns ...string) Digest {
		return digest(t, open(t, dir, Options{ResetOwner: true}), patterns...)
	}
	sub := func(name string) string { return filepath.Join(dir, name) }
	before := get("d", "a")
	same := func(what string, f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		if get("d", "a") != before {
			t.Errorf("%s changes the digest", what)
		}
	}
	differs := func(what string, f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		after := get("d", "a")
		if after == before {
			t.Errorf("%s does not change the digest", what)
		}
		before = after
	}
	now := time.Unix(1700000000, 0)
	same("a new mtime", func() error {
		return errors.Join(os.Chtimes(sub("a"), now, now), os.Chtimes(sub("d/s"), now, now))
	})
	same("an unrelated file", func() error { return os.WriteFile(sub("other"), []byte("x"), 0o644) })
	same("the mode of the folder itself", func() error { return os.Chmod(sub("d"), 0o700) })
	same("a hard link's other name", func() error { return os.Link(sub("d/f"), sub("elsewhere")) })
	differs("a hard link inside", func() error { return os.Link(sub("d/f"), sub("d/again")) })
	differs("a copy for a hard link", func() error {
		text, err := os.ReadFile(sub("d/f"))
		return errors.Join(err, os.Remove(sub("d/again")), os.WriteFile(sub("d/again"), text, 0o644))
	})
	differs("a file less", func() error { return os.Remove(sub("d/again")) })
	differs("content", func() error { return os.WriteFile(sub("d/s/g"), []byte("h"), 0o644) })
	differs("mode", func() error { return os.Chmod(sub("d/f"), 0o755) })
	differs("setuid", func() error { return unix.Chmod(sub("d/f"), 0o4755) })
	differs("a folder's mode", func() error { return os.Chmod(sub("d/s"), 0o700) })
	differs("a name", func() error { return os.Rename(sub("d/f"), sub("d/ff")) })
	differs("a link target", func() error { return errors.Join(os.Remove(sub("d/l")), os.Symlink("ff", sub("d/l"))) })
	differs("an empty folder", func() error { return os.Mkdir(sub("d/empty"), 0o755) })
	differs("a type", func() error { return errors.Join(os.Remove(sub("d/empty")), os.WriteFile(sub("d/empty"), nil, 0o755)) })
	differs("an xattr", func() error { return unix.Setxattr(sub("d/ff"), "user.x", []byte("v"), 0) })
	differs("an xattr of a folder", func() error { return unix.Setxattr(sub("d/s"), "user.x", []byte("v"), 0) })
	differs("a fifo", func() error { return unix.Mkfifo(sub("d/p"), 0o644) })
	if get("a") == get("other") {
		t.Error("the name of a file does not count")
	}
	if get("d", "a") == get("a", "d") {
		t.Error("the order of sources does not count")
	}
}

func TestDigestOwner(t *testing.T) {
	needRoot(t)
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		tree(t, dir, map[string]string{"d/f": "f"})
	}
	if err := os.Lchown(filepath.Join(b, "d/f"), 5, 6); err != nil {
		t.Fatal(err)
	}
	for _, reset := range []bool{true, false} {
		opt := Options{ResetOwner: reset}
		for _, p := range []string{".", "d", "d/f"} {
			if same := digest(t, open(t, a, opt), p) == digest(t, open(t, b, opt), p); same != reset {
				t.Errorf("reset %v, %s: same %v", reset, p, same)
			}
		}
	}
}

// needRoot skips a test that needs root; where the environment demands it, it fails.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal("root is needed")
	}
	t.Skip("root is needed")
}

func TestReadAll(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"d/b": "", "d/a/x": "", "d/a/deep/y": "", "d/c->": "a", "e": ""})
	tr := open(t, dir, Options{})
	for item, want := range map[string]string{"d": ". a a/deep a/deep/y a/x b c", "e": "."} {
		var got []string
		err := walk(context.Background(), tr, sel(t, tr, item)[0], func(rel string, _ rootfs.Entry) { got = append(got, rel) })
		if s := strings.Join(got, " "); err != nil || s != want {
			t.Errorf("%s: %s, %v", item, s, err)
		}
	}
}
