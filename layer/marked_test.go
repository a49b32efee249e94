package layer_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-build/strake/layer"
)

// TestMarkedGivesTheSameTar unpacks layers in both forms that a store has.
func TestMarkedGivesTheSameTar(t *testing.T) {
	needRoot(t)
	cases := append(applied[:len(applied):len(applied)], []struct {
		name string
		tar  []h
		want string
	}{
		{name: "order of whiteouts", tar: []h{file("a", ""), file("b/x", ""), file(".wh.aa", ""), file("b/.wh.w", ""), file(".wh.b0", ""), file("zz", ""), file(".wh.-", "")}},
		{name: "whiteouts of all that came", tar: []h{file("a", ""), dir("d"), symlink("l", "a"), file(".wh.a", ""), file(".wh.d", ""), file(".wh.l", ""), hard("h", "a")}},
		{name: "all that came over whiteouts", tar: []h{file(".wh.a", ""), file(".wh.l", ""), file(".wh.p", ""), file(".wh.h", ""), file("a", ""), symlink("l", "a"), char("p", 1, 3), hard("h", "a")}},
		{name: "opaque root", tar: []h{file(".wh..wh..opq", ""), file("a", "")}},
		{name: "opaque, then a file", tar: []h{file("d/.wh..wh..opq", ""), file("d", "1")}},
		{name: "folder where a link leads", tar: []h{symlink("l", "/new/dir"), file("l/x", "1")}},
		{name: "everything"},
	}...)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := archive(t, c.tar...)
			if c.name == "everything" {
				b = everything(t)
			}
			overlay, _ := newRoot(t)
			apply(t, overlay, b, layer.Options{})
			marked, dir := newRoot(t)
			opt := layer.Options{Form: layer.Marked}
			apply(t, marked, b, opt)
			want, got := write(t, overlay, layer.Options{}), write(t, marked, opt)
			if !bytes.Equal(got, want) {
				t.Errorf("got  %s\nwant %s", names(t, got), names(t, want))
			}
			again, _ := newRoot(t)
			apply(t, again, got, opt)
			if !bytes.Equal(write(t, again, opt), want) {
				t.Error("other bytes after a second round")
			}
			if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 1 {
				t.Errorf("something is outside: %v", left)
			}
		})
	}
}

// TestMarkedFiles looks at the marks themselves.
func TestMarkedFiles(t *testing.T) {
	needRoot(t)
	root, top := newRoot(t)
	apply(t, root, archive(t, file(".wh.a", "ignored"), dir(".wh.b"), file("d/.wh..wh..opq", ""), file(".wh.c", ""), dir("c"), file(".wh..wh.plnk", "")), layer.Options{Form: layer.Marked})
	if got, want := show(t, top), ".wh.a= .wh.b= c/ c/.wh..wh..opq= d/ d/.wh..wh..opq="; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for name, c := range map[string]struct {
		tar  []h
		want string
	}{
		"hard link to a mark":  {[]h{file(".wh.a", ""), hard("x", ".wh.a")}, "not exist"},
		"hard link to another": {[]h{file("d/.wh..wh..opq", ""), hard("x", "d/.wh..wh..opq")}, "not exist"},
		"too long a name":      {[]h{file(".wh."+strings.Repeat("x", 252), "")}, "too long"},
	} {
		root, _ := newRoot(t)
		err := layer.Apply(context.Background(), root, bytes.NewReader(archive(t, c.tar...)), layer.Options{Form: layer.Marked})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
