package copier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// build makes entries, one per word: a=text is a file, a/ a folder, a->b a link, a|b a hard link to b, a! a fifo. "%mode" and
// "@uid:gid" may follow the name.
func build(t testing.TB, dir, spec string) {
	t.Helper()
	for word := range strings.FieldsSeq(spec) {
		word, owner, _ := strings.Cut(word, "@")
		word, mode, _ := strings.Cut(word, "%")
		name := word
		var do func(p string) error
		if n, target, ok := strings.Cut(word, "->"); ok {
			name, do = n, func(p string) error { return os.Symlink(target, p) }
		} else if n, old, ok := strings.Cut(word, "|"); ok {
			name, do = n, func(p string) error { return os.Link(filepath.Join(dir, old), p) }
		} else if n, text, ok := strings.Cut(word, "="); ok {
			name, do = n, func(p string) error { return os.WriteFile(p, []byte(text), 0o644) }
		} else if n, ok := strings.CutSuffix(word, "!"); ok {
			name, do = n, func(p string) error { return unix.Mkfifo(p, 0o644) }
		} else {
			do = func(p string) error { return os.MkdirAll(p, 0o755) }
		}
		p := filepath.Join(dir, name)
		err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), do(p))
		if owner != "" {
			var uid, gid int
			_, _ = fmt.Sscanf(owner, "%d:%d", &uid, &gid)
			err = errors.Join(err, os.Lchown(p, uid, gid))
		}
		if mode != "" {
			var m uint32
			_, _ = fmt.Sscanf(mode, "%o", &m)
			err = errors.Join(err, unix.Chmod(p, m))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// show lists a tree in the words of build, sorted, modes left out that are usual.
func show(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	seen := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		word, usual := rel+"/", uint32(0o755)
		switch {
		case d.Type() == fs.ModeSymlink:
			target, _ := os.Readlink(p)
			word, usual = rel+"->"+target, 0o777
		case d.Type() == fs.ModeNamedPipe:
			word, usual = rel+"!", 0o644
		case d.Type()&fs.ModeDevice != 0:
			word, usual = fmt.Sprintf("%s<%d,%d>", rel, unix.Major(st.Rdev), unix.Minor(st.Rdev)), 0o644
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			word, usual = rel+"="+strings.TrimSpace(string(b)), 0o644
			if first, ok := seen[st.Ino]; ok && st.Nlink > 1 {
				word = rel + "|" + first
			}
			seen[st.Ino] = rel
		}
		if m := st.Mode & 0o7777; m != usual {
			word += fmt.Sprintf("%%%o", m)
		}
		if st.Uid != 0 || st.Gid != 0 {
			word += fmt.Sprintf("@%d:%d", st.Uid, st.Gid)
		}
		out = append(out, word)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// docopy copies from the folder src to dst as an instruction does.
func docopy(src, dst string, reset bool, patterns []string, opt Options) error {
	tree, err := source.Open(src, source.Options{ResetOwner: reset})
	if err != nil {
		return err
	}
	defer tree.Close()
	ctx := context.Background()
	items, err := tree.Select(ctx, source.Selection{Patterns: patterns})
	if err != nil {
		return err
	}
	if _, err := tree.Digest(ctx, items); err != nil {
		return err
	}
	root, err := rootfs.Open(dst)
	if err != nil {
		return err
	}
	defer root.Close()
	return Copy(ctx, root, tree, items, nil, opt)
}

func mode(m uint32) func(uint32, bool) uint32 { return func(uint32, bool) uint32 { return m } }

// symbolic is the mode "u=rwX,go=rX".
func symbolic(perm uint32, dir bool) uint32 {
	if dir || perm&0o111 != 0 {
		return 0o755
	}
	return 0o644
}

func TestCopy(t *testing.T) {
	needRoot(t)
	user := &layer.Owner{UID: 1000, GID: 50}
	for _, c := range []struct {
		name     string
		from, to string   // what there is
		src      []string // what is copied
		dest     string
		opt      Options
		stage    bool // owners are kept
		want     string
	}{
		{name: "file to file", from: "a=a", src: []string{"a"}, dest: "/b", want: "b=a"},
		{name: "to missing, no slash", from: "a=a", src: []string{"a"}, dest: "/x/y", want: "x/ x/y=a"},
		{name: "to missing, slash", from: "a=a", src: []string{"a"}, dest: "/x/y/", want: "x/ x/y/ x/y/a=a"},
		{name: "to root", from: "a=a d/x/y=y", src: []string{"a", "d"}, dest: "/", want: "a=a x/ x/y=y"},
		{name: "several", from: "a=a b=b d/c=c", src: []string{"a", "d", "b"}, dest: "/x/", want: "x/ x/a=a x/b=b x/c=c"},
		{name: "several, existing folder, no slash", from: "a=a b=b", to: "x/", src: []string{"a", "b"}, dest: "/x", want: "x/ x/a=a x/b=b"},
		{name: "order", from: "d1/f=1 d2/f=2", src: []string{"d1/f", "d2/f"}, dest: "/x/", want: "x/ x/f=2"},
		{name: "whole", from: "a=a d/b=b", src: []string{"."}, dest: "/all/", want: "all/ all/a=a all/d/ all/d/b=b"},
		{name: "nothing", from: "a=a", src: []string{"no*"}, dest: "/x/", want: ""},
		{name: "empty folder", from: "e/", src: []string{"e"}, dest: "/x", want: "x/"},
		{name: "folder's own mode does not count", from: "d/f=f d%700", src: []string{"d"}, dest: "/x", want: "x/ x/f=f"},
		{
			name: "chown tree", from: "d/f=f d/sub/g=g d/l->f", src: []string{"d"}, dest: "/o/d", opt: Options{Owner: user},
			want: "o/@1000:50 o/d/@1000:50 o/d/f=f@1000:50 o/d/l->f@1000:50 o/d/sub/@1000:50 o/d/sub/g=g@1000:50",
		},
		{name: "context owners", from: "f=f@5:6 d/g=g@7:8 d@9:9", src: []string{"."}, dest: "/x", want: "x/ x/d/ x/d/g=g x/f=f"},
		{name: "stage owners", from: "s/f=f@5:6 s/d/g=g@7:8 s/d@9:9", src: []string{"s"}, dest: "/x", stage: true, want: "x/ x/d/@9:9 x/d/g=g@7:8 x/f=f@5:6"},
		{
			name: "chmod", from: "a=a%664 d/x=x d/sub/y=y", src: []string{"d", "a"}, dest: "/4/", opt: Options{Mode: mode(0o775), ParentMode: true},
			want: "4/%775 4/a=a%775 4/sub/%775 4/sub/y=y%775 4/x=x%775",
		},
		{name: "chmod setuid", from: "a=a", src: []string{"a"}, dest: "/m/a", opt: Options{Mode: mode(0o4711), ParentMode: true}, want: "m/%711 m/a=a%4711"},
		{name: "chmod setgid", from: "a=a", src: []string{"a"}, dest: "/a", opt: Options{Mode: mode(0o2711), ParentMode: true}, want: "a=a%2711"},
		{name: "chmod per entry", from: "d/x=x%600 d/prog=p%700 d/sub/%700", src: []string{"d"}, dest: "/1", opt: Options{Mode: symbolic}, want: "1/ 1/prog=p%755 1/sub/ 1/x=x"},
		{
			name: "chmod per entry, parents", from: "a=a%700", src: []string{"a"}, dest: "/p/q/", opt: Options{Mode: func(perm uint32, _ bool) uint32 { return perm &^ 0o555 }},
			want: "p/ p/q/ p/q/a=a%200",
		},
		{name: "chmod of the same for all, parents", from: "a=a", src: []string{"a"}, dest: "/p/", opt: Options{Mode: mode(0o444)}, want: "p/ p/a=a%444"},
		{name: "chmod 0", from: "a=a", src: []string{"a"}, dest: "/a", opt: Options{Mode: mode(0), ParentMode: true}, want: "a=a%0"},
		{
			name: "parents chmod and chown", from: "d/sub/x=x", src: []string{"d"}, dest: "/n/q", opt: Options{Mode: mode(0o700), ParentMode: true, Owner: user},
			want: "n/%700@1000:50 n/q/%700@1000:50 n/q/sub/%700@1000:50 n/q/sub/x=x%700@1000:50",
		},
		{name: "overwrite", from: "f=new%640", to: "f=old%777@5:6", src: []string{"f"}, dest: "/f", want: "f=new%640"},
		{name: "overwrite a hard link", from: "f=new", to: "a=old b|a", src: []string{"f"}, dest: "/a", want: "a=new b=old"},
		{name: "set-id kept", from: "f=f%4755 d/%2775", src: []string{"."}, dest: "/x", want: "x/ x/d/%2775 x/f=f%4755"},
		{
			name: "existing folders", from: "d/sub/f=f d/sub%750 d%700", to: "x/%1777@3:4 x/sub/%700@3:4", src: []string{"d"}, dest: "/x",
			want: "x/%1777@3:4 x/sub/%750 x/sub/f=f",
		},
		{name: "dest link to folder", from: "a=a", to: "real/ link->real", src: []string{"a"}, dest: "/link/", want: "link->real real/ real/a=a"},
		{name: "dest absolute link", from: "d/f=f", to: "real/ link->/real", src: []string{"d"}, dest: "/link", want: "link->/real real/ real/f=f"},
		{name: "dest below a link", from: "d/f=f", to: "real/ link->/real", src: []string{"d"}, dest: "/link/sub", want: "link->/real real/ real/sub/ real/sub/f=f"},
		{name: "dest link to file", from: "a=new", to: "file=old link->/file", src: []string{"a"}, dest: "/link", want: "file=new link->/file"},
		{name: "dest dangling link", from: "a=new", to: "link->/nowhere", src: []string{"a"}, dest: "/link", want: "link->/nowhere nowhere=new"},
		{name: "dest below a dangling link", from: "a=new", to: "link->/later", src: []string{"a"}, dest: "/link/a", want: "later/ later/a=new link->/later"},
		{name: "dest link that climbs", from: "a=a", to: "up->../../../..", src: []string{"a"}, dest: "/up/b", want: "b=a up->../../../.."},
		{name: "link inside the folder replaced", from: "a=new", to: "x/a->../other other=old", src: []string{"a"}, dest: "/x/", want: "other=old x/ x/a=new"},
		{name: "link in a merged folder replaced", from: "d/a=new", to: "x/a->../other other=old", src: []string{"d"}, dest: "/x", want: "other=old x/ x/a=new"},
		{name: "links kept", from: "d/l->f d/abs->/etc d/f=f", src: []string{"d"}, dest: "/x", want: "x/ x/abs->/etc x/f=f x/l->f"},
		{name: "matched links followed", from: "target=t dir/f=f lfile->target ldir->dir", src: []string{"l*"}, dest: "/x/", want: "x/ x/f=f x/lfile=t"},
		{name: "wildcard folders", from: "dir1/a=1 dir1/sub/s=s dir2/a=2 dir2/b=b", src: []string{"dir*"}, dest: "/x/", want: "x/ x/a=2 x/b=b x/sub/ x/sub/s=s"},
		{name: "fifo", from: "d/p!", src: []string{"d"}, dest: "/x", want: "x/ x/p!"},
		{name: "hard links", from: "o/a=a o/b|o/a c|o/a", src: []string{"o", "c"}, dest: "/x/", stage: true, want: "x/ x/a=a x/b|x/a x/c=a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src, dst := t.TempDir(), t.TempDir()
			build(t, src, c.from)
			build(t, dst, c.to)
			opt := c.opt
			opt.Dest = c.dest
			if err := docopy(src, dst, !c.stage, c.src, opt); err != nil {
				t.Fatal(err)
			}
			if got := show(t, dst); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestCopyErrors(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		from, to string
		src      string
		dest     string
		want     string
	}{
		{"a=a", "x=f", "a", "/x/y", "not a directory"},
		{"a=a", "x=f", "a", "/x/", "not a directory"},
		{"d/sub/f=f", "x/sub=f", "d", "/x/", "cannot copy to non-directory: /x/sub"},
		{"d/f=f", "x=f", "d", "/x", "cannot copy to non-directory: /x"},
		{"d/l->e", "x/l/full/", "d", "/x/", "cannot replace to directory /x/l with file"},
		{"d/f=f", "x/f/", "d", "/x/", "cannot replace to directory /x/f with file"},
		{"f=f", "x/f/", "f", "/x/", "cannot replace to directory /x/f with file"},
		{"d/sub/f=f", "x/sub->/y y/", "d", "/x/", "cannot copy to non-directory: /x/sub"},
	} {
		src, dst := t.TempDir(), t.TempDir()
		build(t, src, c.from)
		build(t, dst, c.to)
		err := docopy(src, dst, true, []string{c.src}, Options{Dest: c.dest})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s to %s over %s: %v, want %s", c.src, c.dest, c.to, err, c.want)
		}
	}
}

func TestTimes(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	build(t, src, "top/d/g=g top/e/ top/l->e top/f=f")
	build(t, dst, "old/d/")
	stamp := func(name string, sec int64) {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(src, name), []unix.Timespec{{}, {Sec: sec, Nsec: 5}}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"top/d/g", "top/l", "top/f", "top/d", "top/e", "top"} {
		stamp(name, int64(1000000000+i))
	}
	stamp("top/e", -1000) // before 1970
	for _, dest := range []string{"/new", "/old"} {
		if err := docopy(src, dst, true, []string{"top"}, Options{Dest: dest}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"d/g", "l", "f", "d", "e", ""} {
			var a, b unix.Stat_t
			_ = unix.Lstat(filepath.Join(src, "top", name), &a)
			_ = unix.Lstat(filepath.Join(dst, dest, name), &b)
			if a.Mtim != b.Mtim {
				t.Errorf("%s/%s: %v, want %v", dest, name, b.Mtim, a.Mtim)
			}
		}
	}
}

func TestSpecial(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	build(t, src, "d/f=f")
	err := unix.Mknod(filepath.Join(src, "d/null"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3)))
	if err == unix.EPERM {
		skip(t, "devices cannot be made in a user namespace")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(src, "d/sock"), unix.S_IFSOCK|0o644, 0); err != nil {
		t.Fatal(err)
	}
	if err := docopy(src, dst, true, []string{"d"}, Options{Dest: "/d"}); err != nil {
		t.Fatal(err)
	}
	if got, want := show(t, dst), "d/ d/f=f d/null<1,3> d/sock="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// In a user namespace a device is a file that says so, and a copy of that one, too.
	second := t.TempDir()
	if err := docopy(src, second, true, []string{"d"}, Options{Dest: "/d", UserXattr: true}); err != nil {
		t.Fatal(err)
	}
	third := t.TempDir()
	opt := Options{Dest: "/e", UserXattr: true, Owner: &layer.Owner{UID: 7, GID: 8}}
	if err := docopy(second, third, false, []string{"d"}, opt); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{filepath.Join(second, "d/null"): "0:0:644:char-1-3", filepath.Join(third, "e/null"): "7:8:644:char-1-3"} {
		buf := make([]byte, 100)
		n, err := unix.Getxattr(name, rootfs.OverrideStat, buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("%s: %s, %v, want %s", name, buf[:max(n, 0)], err, want)
		}
	}
}

func TestXattrs(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	build(t, src, "d/f=f d/s/ d/g=g")
	// cap_net_bind_service=ep, version 2
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for name, x := range map[string]string{"d/f": "security.capability", "d/g": "user.x", "d/s": "user.y"} {
		if err := unix.Setxattr(filepath.Join(src, name), x, capability, 0); err != nil {
			t.Skip(err)
		}
	}
	if err := unix.Setxattr(filepath.Join(src, "d/g"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Skip(err)
	}
	if err := docopy(src, dst, true, []string{"d"}, Options{Dest: "/d", Owner: &layer.Owner{UID: 5}}); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]string{"d/f": "security.capability", "d/g": "user.x", "d/s": "user.y"} {
		buf := make([]byte, 100)
		n, err := unix.Getxattr(filepath.Join(dst, name), x, buf)
		if err != nil || string(buf[:n]) != string(capability) {
			t.Errorf("%s: %q, %v", name, buf[:max(n, 0)], err)
		}
	}
	if _, err := unix.Getxattr(filepath.Join(dst, "d/g"), "trusted.overlay.opaque", nil); err == nil {
		t.Error("overlay's mark was copied")
	}
}

// What a layer holds may get more names meanwhile: another build makes a view of it.
func TestLinksToLayersAreNoChange(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	build(t, src, "d/f=f d/g=g")
	tree, err := source.Open(src, source.Options{Unwritten: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	items, err := tree.Select(t.Context(), source.Selection{Patterns: []string{"d"}})
	if err == nil {
		_, err = tree.Digest(t.Context(), items)
	}
	time.Sleep(20 * time.Millisecond) // another timestamp
	if err = errors.Join(err, os.Link(filepath.Join(src, "d/f"), filepath.Join(src, "link"))); err != nil {
		t.Fatal(err)
	}
	root, err := rootfs.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := Copy(t.Context(), root, tree, items, nil, Options{Dest: "/x"}); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(filepath.Join(dst, "x/f")); err != nil || string(text) != "f" {
		t.Errorf("got %q, %v", text, err)
	}
}

// A file that goes on being written, as a log is, is copied as it was when it was digested.
func TestGrown(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	at := time.Unix(1_600_000_000, 0)
	for name, was := range map[string]string{"some": "line\n", "empty": "", "big": strings.Repeat("0123456789", 100_000)} {
		path := filepath.Join(src, name)
		if err := errors.Join(os.WriteFile(path, []byte(was), 0o644), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := source.Open(src, source.Options{ResetOwner: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	items, err := tree.Select(t.Context(), source.Selection{Patterns: []string{"."}})
	if err == nil {
		_, err = tree.Digest(t.Context(), items)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, item := range []string{"some", "empty", "big"} {
		path := filepath.Join(src, item)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want[item] = string(data)
		if err := os.WriteFile(path, append(data, "more\n"...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := rootfs.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	opt := Options{Dest: "/x"}
	if os.Getuid() != 0 {
		opt.Owner = &layer.Owner{UID: os.Getuid(), GID: os.Getgid()}
	}
	if err := Copy(t.Context(), root, tree, items, nil, opt); err != nil {
		t.Fatal(err)
	}
	for item, text := range want {
		path := filepath.Join(dst, "x", item)
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Errorf("%s has %d bytes, %v; want %d", item, len(got), err, len(text))
		}
		if fi, err := os.Stat(path); err != nil || !fi.ModTime().Equal(at) {
			t.Errorf("%s: %v, %v", item, fi.ModTime(), err)
		}
	}
}

func TestChanged(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	build(t, src, "d/f=f d/sub/g=g d/l->f")
	for name, change := range map[string]func() error{
		"d/f": func() error { return os.WriteFile(filepath.Join(src, "d/f"), []byte("other"), 0o644) },
		"d/l": func() error {
			return errors.Join(os.Remove(filepath.Join(src, "d/l")), os.Symlink("/etc", filepath.Join(src, "d/l")))
		},
		"d/sub/g": func() error { return os.Remove(filepath.Join(src, "d/sub/g")) },
		"d/sub": func() error {
			return errors.Join(os.RemoveAll(filepath.Join(src, "d/sub")), os.Symlink("/etc", filepath.Join(src, "d/sub")))
		},
	} {
		tree, err := source.Open(src, source.Options{ResetOwner: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		items, err := tree.Select(ctx, source.Selection{Patterns: []string{"d"}})
		if err == nil {
			_, err = tree.Digest(ctx, items)
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // another timestamp
		if err := change(); err != nil {
			t.Fatal(err)
		}
		root, err := rootfs.Open(dst)
		if err != nil {
			t.Fatal(err)
		}
		err = Copy(ctx, root, tree, items, nil, Options{Dest: "/x"})
		if _, ok := errors.AsType[*source.ChangedError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
		_ = tree.Close()
		_ = root.Close()
		_ = os.RemoveAll(filepath.Join(dst, "x"))
		_ = os.RemoveAll(filepath.Join(src, "d"))
		build(t, src, "d/f=f d/sub/g=g d/l->f")
	}
	if _, err := os.Lstat(filepath.Join(dst, "passwd")); err == nil {
		t.Error("a link was followed out of the context")
	}
}

func TestInline(t *testing.T) {
	needRoot(t)
	dst := t.TempDir()
	root, err := rootfs.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	build(t, dst, "old=x link->old")
	ctx := context.Background()
	two := []Inline{{Name: "EOF", Data: []byte("1")}, {Name: "EOT", Data: []byte("2")}}
	for _, c := range []struct {
		files []Inline
		opt   Options
	}{
		{two, Options{Dest: "/x/"}},
		{two[:1], Options{Dest: "/y"}},
		{two[:1], Options{Dest: "/link"}},
		{two[:1], Options{Dest: "/o/f", Owner: &layer.Owner{UID: 1, GID: 2}, Mode: mode(0o4750), ParentMode: true}},
	} {
		if err := Copy(ctx, root, nil, nil, c.files, c.opt); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := show(t, dst), "link->old o/%750@1:2 o/f=1%4750@1:2 old=1 x/ x/EOF=1 x/EOT=2 y=1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestSparseAndLarge(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	f, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 8 << 20, 64<<20 - 3} {
		if _, err := f.WriteAt([]byte("abc"), at); err != nil {
			t.Fatal(err)
		}
	}
	_ = f.Truncate(100 << 20)
	_ = f.Close()
	big := make([]byte, 3<<20+17)
	for i := range big {
		big[i] = byte(i * i >> 8)
	}
	if err := os.WriteFile(filepath.Join(src, "big"), big, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := docopy(src, dst, true, []string{"sparse", "big"}, Options{Dest: "/"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sparse", "big"} {
		a, _ := os.ReadFile(filepath.Join(src, name))
		b, _ := os.ReadFile(filepath.Join(dst, name))
		if string(a) != string(b) {
			t.Errorf("%s differs", name)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dst, "sparse"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("the copy of a sparse file takes %d bytes, %v", st.Blocks*512, err)
	}
}

// skip leaves out a test that the machine cannot run, but fails where nothing may be left out.
func skip(t testing.TB, why ...any) {
	t.Helper()
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal(why...)
	}
	t.Skip(why...)
}
