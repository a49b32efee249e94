package rootfs_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// node is a file of a tree in memory: a directory, a link, or neither (a regular file).
type node struct {
	parent   *node
	name     string
	children map[string]*node
	target   string
}

func (n *node) path() string {
	if n.parent == nil {
		return "."
	}
	return strings.TrimPrefix(n.parent.path()+"/"+n.name, "./")
}

// lookup is path_resolution(7) by the letter, for a process whose "/" is root. rest is
// what does not exist below the node; missed: something on the way did not exist.
func lookup(root *node, name string) (n *node, rest []string, missed bool, err error) {
	n = root
	links := 0
	todo := strings.Split(name, "/")
	for len(todo) > 0 {
		c := todo[0]
		last := len(todo) == 1
		todo = todo[1:]
		switch {
		case c == "" || c == ".":
			if n.children == nil && len(rest) == 0 {
				return nil, nil, missed, unix.ENOTDIR
			}
			continue
		case len(rest) > 0 && c == "..":
			rest = rest[:len(rest)-1]
			continue
		case len(rest) > 0:
			rest = append(rest, c)
			continue
		case n.children == nil:
			return nil, nil, missed, unix.ENOTDIR
		case c == "..":
			if n.parent != nil {
				n = n.parent
			}
			continue
		}
		next := n.children[c]
		if next == nil {
			rest, missed = []string{c}, true
			continue
		}
		if next.target == "" {
			n = next
			if n.children == nil && !last {
				return nil, nil, missed, unix.ENOTDIR
			}
			continue
		}
		if links++; links > 40 {
			return nil, nil, missed, unix.ELOOP
		}
		if next.target[0] == '/' {
			n = root
		}
		todo = append(strings.Split(strings.TrimLeft(next.target, "/"), "/"), todo...)
	}
	return n, rest, missed, nil
}

// grow makes the tree that script says, on the disk and in memory. Each line is "d NAME", "f NAME"
// or "l NAME TARGET", NAME a path of existing directories.
func grow(t testing.TB, dir, script string) *node {
	root := &node{children: map[string]*node{}}
	for i, line := range strings.Split(script, "\n") {
		if i > 60 {
			break
		}
		f := strings.SplitN(line, " ", 3)
		if len(f) < 2 {
			continue
		}
		at := root
		comps := strings.Split(f[1], "/")
		for _, c := range comps[:len(comps)-1] {
			if at = at.children[c]; at == nil {
				break
			}
		}
		base := comps[len(comps)-1]
		if at == nil || at.children == nil || at.children[base] != nil || base == "" || base == "." || base == ".." || len(base) > 255 || strings.Contains(line, "\x00") {
			continue
		}
		n := &node{parent: at, name: base}
		p := filepath.Join(dir, filepath.FromSlash(at.path()), base)
		var err error
		switch {
		case f[0] == "d":
			n.children = map[string]*node{}
			err = os.Mkdir(p, 0o755)
		case f[0] == "f":
			err = os.WriteFile(p, []byte(n.path()), 0o644)
		case f[0] == "l" && len(f) == 3 && f[2] != "" && len(f[2]) < 4000:
			n.target = f[2]
			err = os.Symlink(f[2], p)
		default:
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		at.children[base] = n
	}
	return root
}

func FuzzResolve(f *testing.F) {
	const script = "d a\nd a/b\nf a/f\nl abs /a/b\nl up ../../../a\nl loop loop\nl a/rel b/../f\nl dang /no/x\nl a/b/root /\nl dir/ a/\nl s a/f/\nl x /loop/../a"
	for _, name := range []string{"abs/../f", "up/rel", "loop", "dang/y/..", "a/b/root/../..", "/a//b/./root/abs", "s", "a/f/", "x", "a/f/..", "abs/", "../up/b/.."} {
		f.Add(script, name)
	}
	f.Fuzz(func(t *testing.T, script, name string) {
		if len(name) > 1000 || len(script) > 5000 || strings.Contains(name, "\x00") {
			t.Skip()
		}
		for _, c := range strings.Split(name, "/") {
			if len(c) > 255 {
				t.Skip()
			}
		}
		dir := filepath.Join(t.TempDir(), "root")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		tree := grow(t, dir, script)
		r, err := rootfs.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		n, rest, missed, wantErr := lookup(tree, name)
		got, err := r.Resolve(name)
		if wantErr != nil {
			if !errors.Is(err, wantErr) && !errors.Is(err, unix.ENAMETOOLONG) {
				t.Fatalf("Resolve(%q) = %q, %v, want %v\n%s", name, got, err, wantErr, script)
			}
			return
		}
		want := strings.TrimPrefix(strings.Join(append([]string{n.path()}, rest...), "/"), "./")
		if err != nil || got != want {
			if errors.Is(err, unix.ENAMETOOLONG) {
				return
			}
			t.Fatalf("Resolve(%q) = %q, %v, want %q\n%s", name, got, err, want, script)
		}
		if missed {
			return
		}
		// The kernel must agree, also without Resolve.
		file, err := r.OpenFile(name, unix.O_RDONLY, 0)
		if err != nil {
			t.Fatalf("OpenFile(%q): %v\n%s", name, err, script)
		}
		defer file.Close()
		if n.children != nil {
			return
		}
		data := make([]byte, 6000)
		k, _ := file.Read(data)
		if !bytes.Equal(data[:k], []byte(n.path())) {
			t.Fatalf("OpenFile(%q) opened %q, want %q\n%s", name, data[:k], n.path(), script)
		}
	})
}
