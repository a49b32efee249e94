package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer"
)

// show says in short what is in a tree: "dir/ file=data link->target node!whiteout".
func show(t testing.TB, dir string) string {
	t.Helper()
	var s []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		name := p[len(dir)+1:]
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			name += "/"
			if n, _ := unix.Lgetxattr(p, "trusted.overlay.opaque", make([]byte, 1)); n == 1 {
				name += "opaque"
			}
		case unix.S_IFLNK:
			target, _ := os.Readlink(p)
			name += "->" + target
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			name += "=" + string(data[:min(len(data), 20)])
		case unix.S_IFCHR:
			if name += "!"; st.Rdev == 0 {
				name += "whiteout"
			}
		default:
			name += "!"
		}
		s = append(s, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(s, " ")
}

// applied are tars of layers, and what they become in Form Overlay.
var applied = []struct {
	name string
	tar  []h
	want string
}{
	{"climbing out", []h{file("../../a", "1"), file("/abs", "2"), file("x/../../../b", "3"), dir("..")}, "a=1 abs=2 b=3"},
	{"link to a directory of the layer", []h{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib"), file("lib/x", "1")}, "lib->usr/lib usr/ usr/lib/ usr/lib/x=1"},
	{"link that leads out", []h{symlink("l", "../../.."), file("l/x", "1"), symlink("m", "/"), file("m/y", "2")}, "l->../../.. m->/ x=1 y=2"},
	{"link into a layer below", []h{symlink("l", "/usr/lib"), file("l/x", "1")}, "l->/usr/lib usr/ usr/lib/ usr/lib/x=1"},
	{"link swapped in under a later entry", []h{dir("d"), file("d/a", "1"), symlink("d", "/etc"), file("d/b", "2")}, "d->/etc etc/ etc/b=2"},
	{"directory replaced twice", []h{file("d", "f"), dir("d"), file("d/x", "1")}, "d/opaque d/x=1"},
	{"directory becomes a file", []h{dir("d"), file("d/x", "1"), file("d", "f")}, "d=f"},
	{"duplicate files", []h{file("a", "1"), file("a", "2"), symlink("a", "x"), file("a", "3")}, "a=3"},
	{"duplicate directory is kept", []h{dir("d"), file("d/x", "1"), dir("d")}, "d/ d/x=1"},
	{"missing parents", []h{file("a/b/c", "1")}, "a/ a/b/ a/b/c=1"},
	{"whiteouts", []h{file(".wh.a", ""), file("d/.wh.b", ""), dir("e"), file("e/.wh..wh..opq", "")}, "a!whiteout d/ d/b!whiteout e/opaque"},
	{"whiteout, then the entry", []h{file(".wh.a", ""), file("a", "1"), file(".wh.d", ""), dir("d")}, "a=1 d/opaque"},
	{"the entry, then its whiteout", []h{file("a", "1"), file(".wh.a", ""), dir("d"), file("d/x", "1"), file(".wh.d", "")}, "a=1 d/opaque d/x=1"},
	{"entry below a whiteout", []h{file(".wh.d", ""), file("d/e/x", "1")}, "d/opaque d/e/ d/e/x=1"},
	{"opaque after its content", []h{dir("d"), file("d/x", "1"), file("d/.wh..wh..opq", "")}, "d/opaque d/x=1"},
	{"opaque of a missing directory", []h{file("d/.wh..wh..opq", "")}, "d/opaque"},
	{"whiteout twice", []h{file(".wh.a", ""), file(".wh.a", "")}, "a!whiteout"},
	{"files of aufs", []h{file(".wh..wh.aufs", ""), dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", ""), file("a", "1")}, "a=1"},
	{"hard links", []h{file("a", "1"), hard("b", "a"), hard("c", "/b"), hard("d", "../../a"), hard("a", "a"), symlink("l", "a"), hard("m", "l")}, "a=1 b=1 c=1 d=1 l->a m->a"},
	{"hard link replaces", []h{file("a", "1"), dir("d"), file("d/x", ""), hard("d", "a")}, "a=1 d=1"},
	{"hard link through a link", []h{file("etc/passwd", "in"), symlink("l", "/etc"), hard("x", "l/passwd")}, "etc/ etc/passwd=in l->/etc x=in"},
	{"nodes", []h{char("c", 1, 3), {tar.Header{Typeflag: tar.TypeFifo, Name: "p"}, ""}}, "c! p!"},
	{"global header", []h{{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, ""}, file("a", "")}, "a="},
	{"empty", nil, ""},
}

func TestApplyOverlay(t *testing.T) {
	needRoot(t)
	for _, c := range applied {
		t.Run(c.name, func(t *testing.T) {
			root, dir := newRoot(t)
			apply(t, root, archive(t, c.tar...), layer.Options{})
			if got := show(t, dir); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 1 {
				t.Errorf("something is outside: %v", left)
			}
		})
	}
}

func TestApplyErrors(t *testing.T) {
	needRoot(t)
	with := func(e h, f func(*tar.Header)) h { f(&e.Header); return e }
	for _, c := range []struct {
		name string
		tar  []h
		want string
	}{
		{"whiteout of nothing", []h{file("d/.wh.", "")}, "names nothing"},
		{"whiteout of dot", []h{file(".wh..", "")}, "names nothing"},
		{"whiteout of the parent", []h{file("d/.wh...", "")}, "names nothing"},
		{"below a whiteout entry", []h{file(".wh.a/b", "")}, "nothing below"},
		{"root as a file", []h{file("x/..", "")}, "root directory"},
		{"hard link out", []h{hard("x", "../../../../../etc/passwd")}, "no such file"},
		{"hard link to a directory", []h{dir("d"), hard("x", "d")}, "not permitted"},
		{"hard link to the root", []h{hard("x", ".")}, "root directory"},
		{"hard link to a whiteout", []h{file(".wh.a", ""), hard("x", "a")}, "not exist"},
		{"below a file", []h{file("f", ""), file("f/x", "")}, "f is not a directory"},
		{"through a loop", []h{symlink("l", "l"), file("l/x", "")}, "too many levels"},
		{"unknown type", []h{with(file("x", ""), func(h *tar.Header) { h.Typeflag = 'Z' })}, "type 'Z'"},
		{"long component", []h{file(strings.Repeat("x", 300), "")}, "too long"},
		{"endless name", []h{file(strings.Repeat("x/", 100000)+"y", "")}, "too long"},
		{"owner", []h{with(file("x", ""), func(h *tar.Header) { h.Uid = 1<<32 - 1 })}, "out of range"},
		{"device number", []h{char("x", 1<<20, 1)}, "out of range"},
		{"bad capability", []h{with(file("x", ""), func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "x"} })}, "capability"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, dir := newRoot(t)
			err := layer.Apply(context.Background(), root, bytes.NewReader(archive(t, c.tar...)), layer.Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 1 {
				t.Errorf("something is outside: %v", left)
			}
		})
	}
}

func TestApplyBadStreams(t *testing.T) {
	needRoot(t)
	whole := archive(t, file("a", strings.Repeat("x", 2000)), file("b", "y"))
	for _, n := range []int{100, 600, 512 + 1024, 512 + 2048 + 100} {
		root, _ := newRoot(t)
		if err := layer.Apply(context.Background(), root, bytes.NewReader(whole[:n]), layer.Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	huge := patched(archive(t, file("a", "")), 124, "\x80\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00") // 4 EiB, base 256
	root, _ := newRoot(t)
	if err := layer.Apply(context.Background(), root, bytes.NewReader(huge), layer.Options{}); err == nil {
		t.Error("4 EiB were unpacked")
	}
	root, _ = newRoot(t)
	if err := layer.Apply(context.Background(), root, strings.NewReader(strings.Repeat("garbage ", 1000)), layer.Options{}); err == nil {
		t.Error("garbage was unpacked")
	}
	record := "SCHILY.xattr.user.x=" + strings.Repeat("x", 2<<20) + "\n"
	pax := patched(archive(t, file("a", fmt.Sprintf("%d %s", len(record)+8, record)), file("b", "")), 156, "x")
	if err := layer.Apply(context.Background(), root, bytes.NewReader(pax), layer.Options{}); err == nil {
		t.Error("a PAX header of 2 MiB was taken")
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("enough")
	cancel(cause)
	if err := layer.Apply(ctx, root, bytes.NewReader(whole), layer.Options{}); !errors.Is(err, cause) {
		t.Error(err)
	}
	r := bytes.NewReader(append(bytes.Clone(whole), make([]byte, 300000)...))
	if err := layer.Apply(context.Background(), root, r, layer.Options{}); err != nil || r.Len() != 0 {
		t.Errorf("%d bytes were not read, %v", r.Len(), err)
	}
}

func TestApplyMetadata(t *testing.T) {
	needRoot(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	root, top := newRoot(t)
	e := file("f", "x")
	e.PAXRecords = map[string]string{
		"SCHILY.xattr.user.keep": "1", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": "/etc",
		"SCHILY.xattr.user.containers.override_stat": "0:0:4755", "SCHILY.xattr.security.selinux": "label", "SCHILY.xattr.trusted.x": "1",
	}
	r := dir("./")
	r.Mode, r.Uid = 0o711, 5
	sub := dir("d")
	sub.ModTime = time.Unix(1000, 0)
	apply(t, root, archive(t, r, sub, file("d/a/b", ""), e, file("d/c", "")), layer.Options{})
	if st, err := root.Stat("/"); err != nil || st.Mode&0o7777 != 0o711 || st.Uid != 5 {
		t.Errorf("root: %o %d %v", st.Mode, st.Uid, err)
	}
	if st, err := root.Stat("d"); err != nil || st.Mtim.Sec != 1000 || st.Mode&0o7777 != 0o755 {
		t.Errorf("d: %v %v", st.Mtim, err)
	}
	if st, err := root.Stat("d/a"); err != nil || st.Mtim.Sec != 1600000000 || st.Mode&0o7777 != 0o755 {
		t.Errorf("implied parent: %v %o %v", st.Mtim, st.Mode, err)
	}
	buf := make([]byte, 1000)
	n, err := unix.Llistxattr(filepath.Join(top, "f"), buf)
	if err != nil || string(buf[:n]) != "user.keep\x00" {
		t.Errorf("attributes: %q, %v", buf[:n], err)
	}
	owner := layer.Options{Form: layer.Plain, Owner: &layer.Owner{UID: 7, GID: 8}, Dir: "new/place"}
	apply(t, root, archive(t, e, symlink("l", "f"), file("p/q", ""), r), owner)
	for name, want := range map[string]layer.Owner{
		"new": *owner.Owner, "new/place": *owner.Owner, "new/place/f": *owner.Owner, "new/place/l": *owner.Owner,
		"new/place/p": {}, "new/place/p/q": *owner.Owner, // p is in no entry
	} {
		if st, err := root.Lstat(name); err != nil || int(st.Uid) != want.UID || int(st.Gid) != want.GID {
			t.Errorf("%s: owner %d:%d, %v", name, st.Uid, st.Gid, err)
		}
	}
}

// TestApplyPlain is what ADD of an archive does to an existing tree.
func TestApplyPlain(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name, dir string
		tar       []h
		want      string // of /x; empty for an error
	}{
		{"merge", "x", []h{dir("d"), file("d/new", "1"), file("f", "2")}, "d/ d/new=1 d/old=o f=2 l->../real link->/d"},
		{"type conflicts", "x", []h{file("d", "1"), dir("f"), file("f/y", "2")}, "d=1 f/ f/y=2 l->../real link->/d"},
		{"whiteouts mean nothing", "x", []h{file(".wh.f", "1")}, ".wh.f=1 d/ d/old=o f=f l->../real link->/d"},
		{"climbing out", "x", []h{file("../../y", "1")}, "d/ d/old=o f=f l->../real link->/d y=1"},
		{"absolute link, scoped to the directory", "x", []h{file("link/y", "1")}, "d/ d/old=o d/y=1 f=f l->../real link->/d"},
		{"dangling in there", "x", []h{file("l/y", "1")}, ""},
		{"directory over a link", "x", []h{dir("link")}, "d/ d/old=o f=f l->../real link/"},
		{"into a file", "x/f", []h{file("y", "1")}, ""},
		{"through a link", "tox", []h{file("y", "1")}, "d/ d/old=o f=f l->../real link->/d y=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, top := newRoot(t)
			apply(t, root, archive(t, dir("real"), dir("x/d"), file("x/d/old", "o"), file("x/f", "f"), symlink("x/l", "../real"),
				symlink("x/link", "/d"), symlink("tox", "/../x")), layer.Options{})
			err := layer.Apply(context.Background(), root, bytes.NewReader(archive(t, c.tar...)), layer.Options{Form: layer.Plain, Dir: c.dir})
			if (err != nil) != (c.want == "") {
				t.Fatal(err)
			}
			if got := show(t, filepath.Join(top, "x")); err == nil && got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if left, _ := os.ReadDir(filepath.Join(top, "real")); len(left) > 0 {
				t.Error("a link led out of the directory")
			}
		})
	}
}

func TestApplySparse(t *testing.T) {
	needRoot(t)
	data := make([]byte, 3<<20)
	copy(data[1<<20:], "island")
	data[len(data)-1] = 'e'
	root, top := newRoot(t)
	apply(t, root, archive(t, file("f", string(data)), file("zeros", string(make([]byte, 1<<20)))), layer.Options{})
	got, err := os.ReadFile(filepath.Join(top, "f"))
	if err != nil || !bytes.Equal(got, data) {
		t.Error("other bytes", err)
	}
	if st, _ := root.Stat("f"); st.Blocks*512 > 1<<20 {
		t.Errorf("%d blocks are used", st.Blocks)
	}
	if st, _ := root.Stat("zeros"); st.Size != 1<<20 {
		t.Error(st.Size)
	}
}

func FuzzApply(f *testing.F) {
	needRoot(f)
	f.Add(everything(f), true)
	f.Add(archive(f, symlink("l", "../.."), file("l/x", "1"), hard("y", "l/../z"), file(".wh.a", ""), file("d/.wh..wh..opq", "")), false)
	f.Add(archive(f, dir("d"), symlink("d", "/"), dir("d/e"), file("d/../../q", "")), true)
	f.Fuzz(func(t *testing.T, b []byte, plain bool) {
		root, dir := newRoot(t)
		sentinel := filepath.Join(filepath.Dir(dir), "sibling")
		if err := os.WriteFile(sentinel, []byte("s"), 0o640); err != nil {
			t.Fatal(err)
		}
		var before unix.Stat_t
		if err := unix.Lstat(sentinel, &before); err != nil {
			t.Fatal(err)
		}
		opt := layer.Options{UserXattr: len(b)%2 == 0}
		if plain {
			opt.Form = layer.Plain
		}
		err := layer.Apply(context.Background(), root, bytes.NewReader(b), opt)
		var after unix.Stat_t
		if serr := unix.Lstat(sentinel, &after); serr != nil || before != after {
			t.Error("the sibling changed", serr)
		}
		if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 2 {
			t.Errorf("something is outside: %v", left)
		}
		if err == nil {
			// What was unpacked can be written, and then gives the same again.
			first := write(t, root, opt)
			again, _ := newRoot(t)
			apply(t, again, first, opt)
			if !bytes.Equal(write(t, again, opt), first) {
				t.Error("other bytes after a second round")
			}
		}
	})
}

// TestApplyLinkMetadata: what the header of a hard link says of the file is what counts.
func TestApplyLinkMetadata(t *testing.T) {
	needRoot(t)
	root, _ := newRoot(t)
	first, second := file("a", "1"), hard("b", "a")
	first.Mode, first.Uid = 0o755, 3
	second.Mode, second.Uid, second.Gid, second.ModTime = 0o600, 7, 8, time.Unix(300, 0)
	apply(t, root, archive(t, first, second, symlink("l", "a"), hard("m", "l")), layer.Options{Form: layer.Plain})
	for _, name := range []string{"a", "b"} {
		st, err := root.Lstat(name)
		if err != nil || st.Mode&0o7777 != 0o600 || st.Uid != 7 || st.Gid != 8 || st.Mtim.Sec != 300 || st.Nlink != 2 {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
}
