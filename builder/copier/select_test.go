package copier

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// copySelection copies from the folder src to dst. The digest is made first if so said.
func copySelection(src, dst string, s source.Selection, digest bool, opt Options) error {
	tree, err := source.Open(src, source.Options{})
	if err != nil {
		return err
	}
	defer tree.Close()
	ctx := context.Background()
	items, err := tree.Select(ctx, s)
	if err == nil && digest {
		_, err = tree.Digest(ctx, items)
	}
	if err != nil {
		return err
	}
	root, err := rootfs.Open(dst)
	if err != nil {
		return err
	}
	defer root.Close()
	return Copy(ctx, root, tree, items, nil, opt)
}

func TestCopySelection(t *testing.T) {
	needRoot(t)
	user := &layer.Owner{UID: 5, GID: 6}
	for _, c := range []struct {
		name     string
		from, to string
		s        source.Selection
		opt      Options // Dest is /p/
		want     string
	}{
		{
			name: "parents", from: "left/n=l%600 right/n=r left%700@3:4", s: source.Selection{Patterns: []string{"left/n", "right/n"}, Parents: true},
			want: "p/ p/left/%700@3:4 p/left/n=l%600 p/right/ p/right/n=r",
		},
		{
			name: "parents of folders", from: "a/b/f=f a/o=o a%711 a/b%700", s: source.Selection{Patterns: []string{"a/b"}, Parents: true},
			want: "p/ p/a/%711 p/a/b/%700 p/a/b/f=f",
		},
		{name: "parents from a pivot", from: "a/b/c/f=f a/b%700", s: source.Selection{Patterns: []string{"a/./b/c/f"}, Parents: true}, want: "p/ p/b/%700 p/b/c/ p/b/c/f=f"},
		{name: "parents of nothing", from: "a/b=b", s: source.Selection{Patterns: []string{"a/*.no"}, Parents: true}, want: "p/"},
		{name: "parents without root", from: "a/b=b", s: source.Selection{Patterns: []string{"no*/./b"}, Parents: true}, want: ""},
		{name: "parents and links", from: "d/l->f d/f=f", s: source.Selection{Patterns: []string{"d/l", "d/f"}, Parents: true}, want: "p/ p/d/ p/d/f=f p/d/l->f"},
		{
			name: "parents that exist", from: "a/b/f=f a%711@3:4 a/b%700@3:4", to: "p/a/b/ p/a%1777@7:8 p/a/b%777@7:8 p%700", s: source.Selection{Patterns: []string{"a/b/f"}, Parents: true},
			want: "p/%700 p/a/%711@7:8 p/a/b/%700@7:8 p/a/b/f=f",
		},
		{
			name: "parents that are taken and exist", from: "a/b/f=f a/b%700@3:4", to: "p/a/b/", s: source.Selection{Patterns: []string{"a/b"}, Parents: true},
			want: "p/ p/a/ p/a/b/%700@3:4 p/a/b/f=f",
		},
		{
			name: "parents, chmod and chown", from: "a/b=b", s: source.Selection{Patterns: []string{"a/b"}, Parents: true}, opt: Options{Mode: mode(0o750), ParentMode: true, Owner: user},
			want: "p/%750@5:6 p/a/%750@5:6 p/a/b=b%750@5:6",
		},
		{name: "hard links", from: "a/x=x b/y|a/x c/z|a/x", s: source.Selection{Patterns: []string{"*/[yz]"}, Parents: true}, want: "p/ p/b/ p/b/y=x p/c/ p/c/z|p/b/y"},
		{name: "exclude", from: "d/a.txt=a d/b.md=b d/sub/c.txt=c", s: source.Selection{Patterns: []string{"d"}, Exclude: []string{"*.txt"}}, want: "p/ p/b.md=b p/sub/ p/sub/c.txt=c"},
		{name: "exclude all", from: "d/a=a", s: source.Selection{Patterns: []string{"d"}, Exclude: []string{"*"}}, want: "p/"},
		{name: "exclude but something", from: "d/s/a=a d/s/b=b d/s%700@1:2", s: source.Selection{Patterns: []string{"d"}, Exclude: []string{"s", "!s/b"}}, want: "p/ p/s/%700@1:2 p/s/b=b"},
	} {
		for _, digest := range []bool{true, false} {
			src, dst := t.TempDir(), t.TempDir()
			build(t, src, c.from)
			build(t, dst, c.to)
			opt := c.opt
			opt.Dest = "/p/"
			if err := copySelection(src, dst, c.s, digest, opt); err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else if got := show(t, dst); got != c.want {
				t.Errorf("%s\ngot  %s\nwant %s", c.name, got, c.want)
			}
		}
	}
}

// The times of folders on the way are those of the source, also of one that several sources lead through.
func TestParentsTimes(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	build(t, src, "a/b/x=x a/b/y=y")
	when := time.Unix(1700000000, 7)
	for _, name := range []string{"a/b", "a"} {
		if err := os.Chtimes(filepath.Join(src, name), when, when); err != nil {
			t.Fatal(err)
		}
	}
	s := source.Selection{Patterns: []string{"a/b/x", "a/b/y"}, Parents: true}
	if err := copySelection(src, dst, s, true, Options{Dest: "/p/"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"p/a", "p/a/b"} {
		if st, err := os.Lstat(filepath.Join(dst, name)); err != nil || !st.ModTime().Equal(when) {
			t.Errorf("%s: %v, %v", name, st.ModTime(), err)
		}
	}
}

// A linked copy is made in an empty file system, and does not know more of what is below than the folders on its way.
func TestLink(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name, below string
		src         []string
		dest        string
		opt         Options
		want, ways  string
	}{
		{name: "nothing there", src: []string{"a"}, dest: "/x/y", want: "x/ x/y=a"},
		{name: "usual folders", below: "x/y/", src: []string{"a"}, dest: "/x/y/", want: "x/ x/y/ x/y/a=a"},
		{
			name: "folders keep their modes", below: "p/q/keep=k p%700 p/q%1777@5:6", src: []string{"a"}, dest: "/p/q/a", want: "p/%700 p/q/%1777@5:6 p/q/a=a",
			ways: "\"p\" 0700 0:0\n\"p/q\" 01777 5:6\n",
		},
		{name: "and beyond there are none", below: "p/ p%700", src: []string{"a"}, dest: "/p/q/a", want: "p/%700 p/q/ p/q/a=a", ways: "\"p\" 0700 0:0\n"},
		{name: "the destination of a folder", below: "p/ p%700", src: []string{"d"}, dest: "/p", want: "p/%700 p/f=f", ways: "\"p\" 0700 0:0\n"},
		{
			name: "owners of what is made", below: "p/", src: []string{"a"}, dest: "/p/q/", opt: Options{Owner: &layer.Owner{UID: 1, GID: 2}}, want: "p/ p/q/@1:2 p/q/a=a@1:2",
			ways: "\"p\" 0755 0:0\n",
		},
		{name: "a folder instead of a file", below: "d/keep=k d%700", src: []string{"a"}, dest: "/d", want: "d=a", ways: "\"d\" 0700 0:0\n"},
		{name: "links are not followed", below: "real/ link->real real%700", src: []string{"a"}, dest: "/link/a", want: "link/ link/a=a"},
		{name: "and hide what is below them", below: "r/s/ r/s%700 l->r", src: []string{"a"}, dest: "/l/s/", want: "l/ l/s/ l/s/a=a"},
	} {
		src, dst, below := t.TempDir(), t.TempDir(), t.TempDir()
		build(t, src, "a=a d/f=f")
		build(t, below, c.below)
		opt := c.opt
		opt.Dest = c.dest
		var err error
		if opt.Below, err = rootfs.Open(below); err != nil {
			t.Fatal(err)
		}
		if err := docopy(src, dst, true, c.src, opt); err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got := show(t, dst); got != c.want {
			t.Errorf("%s\ngot  %s\nwant %s", c.name, got, c.want)
		}
		if got, err := Ways(opt.Below, opt); err != nil || got != c.ways {
			t.Errorf("%s: %v\ngot  %q\nwant %q", c.name, err, got, c.ways)
		}
		_ = opt.Below.Close()
	}
}

func TestLinkAttributes(t *testing.T) {
	needRoot(t)
	src, dst, below := t.TempDir(), t.TempDir(), t.TempDir()
	build(t, src, "a=a")
	build(t, below, "p/")
	if err := unix.Setxattr(filepath.Join(below, "p"), "user.x", []byte("v"), 0); errors.Is(err, unix.EOPNOTSUPP) {
		skip(t, "no extended attributes here")
	}
	root, err := rootfs.Open(below)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	opt := Options{Dest: "/p/a", Below: root}
	if err := docopy(src, dst, true, []string{"a"}, opt); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8)
	if n, err := unix.Getxattr(filepath.Join(dst, "p"), "user.x", buf); err != nil || string(buf[:n]) != "v" {
		t.Error(string(buf[:max(n, 0)]), err)
	}
	if got, err := Ways(root, opt); got != "\"p\" 0755 0:0 \"user.x\"=\"v\"\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCopyFile(t *testing.T) {
	needRoot(t)
	when := time.Unix(1700000000, 5).UTC()
	tar := string(archive(t, "m", "m"))
	for _, c := range []struct {
		name, content, to string
		opt               Options
		want              string
	}{
		{name: "into a folder", content: "c", opt: Options{Dest: "/x/"}, want: "x/ x/n=c%600"},
		{name: "by name", content: "c", opt: Options{Dest: "/x/y"}, want: "x/ x/y=c%600"},
		{name: "over a file", content: "c", to: "y=old l|y", opt: Options{Dest: "/y"}, want: "l=old y=c%600"},
		{name: "empty", opt: Options{Dest: "/y"}, want: "y=%600"},
		{name: "owner and mode", content: "c", opt: Options{Dest: "/y", Owner: &layer.Owner{UID: 1, GID: 2}, Mode: mode(0o4755), ParentMode: true}, want: "y=c%4755@1:2"},
		{name: "symbolic mode", content: "c", opt: Options{Dest: "/y", Mode: func(p uint32, _ bool) uint32 { return p | 0o44 }}, want: "y=c%644"},
		{name: "archive", content: tar, opt: Options{Dest: "/x", Extract: true}, want: "x/ x/m=m@7:8"},
		{name: "no archive", content: "c", opt: Options{Dest: "/x", Extract: true}, want: "x=c%600"},
		{name: "large", content: strings.Repeat("0123456789", 60000), opt: Options{Dest: "/x"}, want: "x=" + strings.Repeat("0123456789", 60000) + "%600"},
	} {
		dst, file := t.TempDir(), filepath.Join(t.TempDir(), "download")
		build(t, dst, c.to)
		if err := os.WriteFile(file, []byte(c.content), 0o644); err != nil {
			t.Fatal(err)
		}
		root, err := rootfs.Open(dst)
		if err != nil {
			t.Fatal(err)
		}
		err = CopyFile(context.Background(), root, File{Path: file, Name: "n", Mode: 0o600, ModTime: when}, c.opt)
		_ = root.Close()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := strings.Replace(show(t, dst), "%644", "", 1)
		if c.want = strings.Replace(c.want, "%644", "", 1); got != c.want {
			t.Errorf("%s\ngot  %.200s\nwant %.200s", c.name, got, c.want)
		}
		if st, err := os.Lstat(filepath.Join(dst, c.opt.Dest)); c.name == "by name" && (err != nil || !st.ModTime().Equal(when)) {
			t.Errorf("the time is %v, %v", st.ModTime(), err)
		}
	}
}
