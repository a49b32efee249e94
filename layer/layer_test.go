package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal("needs root, and STRAKE_TEST_REQUIRE is 1")
	}
	t.Skip("needs root")
}

// newRoot makes an empty root below a directory in which nothing else may appear.
func newRoot(t testing.TB) (*rootfs.Root, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, dir
}

// h is an entry of a test's tar.
type h struct {
	tar.Header
	data string
}

func file(name, data string) h {
	return h{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data}
}

func dir(name string) h {
	return h{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}

func symlink(name, target string) h {
	return h{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func hard(name, target string) h {
	return h{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}

func char(name string, major, minor int64) h {
	return h{tar.Header{Typeflag: tar.TypeChar, Name: name, Mode: 0o620, Gid: 5, Devmajor: major, Devminor: minor}, ""}
}

// archive writes entries with archive/tar.
func archive(t testing.TB, entries ...h) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.ModTime.IsZero() && e.Typeflag != tar.TypeXGlobalHeader {
			e.ModTime = time.Unix(1600000000, 0)
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// patched changes the first header of a tar and mends its checksum.
func patched(b []byte, at int, value string) []byte {
	copy(b[at:], value)
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// list describes a tar, one line for each entry.
func list(t testing.TB, b []byte) []string {
	t.Helper()
	var lines []string
	r := tar.NewReader(bytes.NewReader(b))
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		line := fmt.Sprintf("%c %s -> %q %o %d:%d %d %x %d:%d %d", e.Typeflag, e.Name, e.Linkname, e.Mode, e.Uid, e.Gid, e.Size, sum[:4],
			e.Devmajor, e.Devminor, e.ModTime.Unix())
		for _, k := range slices.Sorted(maps.Keys(e.PAXRecords)) {
			if strings.HasPrefix(k, "SCHILY.") {
				line += fmt.Sprintf(" %s=%x", k, e.PAXRecords[k])
			}
		}
		lines = append(lines, line)
	}
}

// names lists the entries of a tar by type and name.
func names(t testing.TB, b []byte) string {
	t.Helper()
	var s []string
	r := tar.NewReader(bytes.NewReader(b))
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return strings.Join(s, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		n := e.Name
		if e.Linkname != "" {
			n += "->" + e.Linkname
		}
		s = append(s, n)
	}
}

func write(t testing.TB, root *rootfs.Root, opt layer.Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := layer.Write(context.Background(), &b, root, opt); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func apply(t testing.TB, root *rootfs.Root, b []byte, opt layer.Options) {
	t.Helper()
	if err := layer.Apply(context.Background(), root, bytes.NewReader(b), opt); err != nil {
		t.Fatal(err)
	}
}

// everything is a tar that Write itself could have written, with all that layers hold.
func everything(t testing.TB) []byte {
	xattr := func(e h, kv ...string) h {
		e.Format, e.PAXRecords = tar.FormatPAX, map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			e.PAXRecords["SCHILY.xattr."+kv[i]] = kv[i+1]
		}
		return e
	}
	mode := func(e h, mode int64, uid, gid int) h { e.Mode, e.Uid, e.Gid = mode, uid, gid; return e }
	at := func(e h, sec int64) h { e.ModTime = time.Unix(sec, 0); return e }
	white := func(name string) h { e := at(file(name, ""), 0); e.Mode = 0; return e }
	deep := strings.Repeat("very-long-directory-name-for-a-prefix/", 12)
	capV2 := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	fifo := h{tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600}, ""}
	block := h{tar.Header{Typeflag: tar.TypeBlock, Name: "block", Mode: 0o660, Devmajor: 8, Devminor: 300}, ""}
	list := []h{
		mode(file("a\nnewline", "x"), 0o600, 1000, 1000),
		block,
		char("char", 4, 64),
		xattr(mode(dir("dir/"), 0o2775, 3, 4), "user.d", "on a directory"),
		white("dir/.wh..wh..opq"),
		file("dir/file", strings.Repeat("0123456789", 20000)),
		at(file("dir/old", "before 1970"), -5),
		at(file("dir/späť", "ü"), 1<<33),
		fifo,
		white(".wh.gone"),
		mode(file("ids", "big"), 0o644, 65000, 65000),
		symlink("link", "/no/such/"+strings.Repeat("target", 30)),
		hard("link2", "link"),
		xattr(mode(file("setuid", "#!"), 0o6755, 0, 0), "security.capability", capV2, "user.a", "", "user.b", "\x00\xff"),
		mode(dir("tmp/"), 0o1777, 0, 0),
		hard("tmp/hard", "dir/file"),
		dir("very-long-directory-name-for-a-prefix/"),
	}
	for i := 1; i < 12; i++ {
		list = append(list, dir(deep[:i*38+38]))
	}
	for i := range list {
		e := &list[i]
		if e.Typeflag == tar.TypeLink { // Write repeats the metadata
			for _, f := range list {
				if f.Name == e.Linkname {
					e.Mode, e.Uid, e.Gid, e.ModTime = f.Mode, f.Uid, f.Gid, f.ModTime
				}
			}
		}
	}
	return archive(t, append(list, file(deep+strings.Repeat("f", 200), "deep"), file("z", ""))...)
}

func TestRoundTrip(t *testing.T) {
	needRoot(t)
	b := everything(t)
	for _, user := range []bool{false, true} {
		opt := layer.Options{UserXattr: user, Attributes: true}
		root, _ := newRoot(t)
		apply(t, root, b, opt)
		got := write(t, root, opt)
		if g, w := list(t, got), list(t, b); !slices.Equal(g, w) {
			for i := range max(len(g), len(w)) {
				if i >= len(g) || i >= len(w) || g[i] != w[i] {
					t.Fatalf("UserXattr %v: entry %d\ngot  %v\nwant %v", user, i, g[min(i, len(g)-1)], w[min(i, len(w)-1)])
				}
			}
		}
		again, _ := newRoot(t)
		apply(t, again, got, opt)
		if !bytes.Equal(write(t, again, opt), got) {
			t.Error("writing what was unpacked gives other bytes")
		}
	}
}

// TestLayerAttributes: of the attributes of its files, the tar of a layer has the capabilities.
func TestLayerAttributes(t *testing.T) {
	needRoot(t)
	root, top := newRoot(t)
	apply(t, root, archive(t, file("file", ""), dir("dir/")), layer.Options{})
	for _, name := range []string{"file", "dir"} {
		if err := unix.Setxattr(filepath.Join(top, name), "user.x", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	if err := unix.Setxattr(filepath.Join(top, "file"), "security.capability", []byte(capability), 0); err != nil {
		t.Fatal(err)
	}
	got := string(write(t, root, layer.Options{}))
	if strings.Contains(got, "user.x") || !strings.Contains(got, "security.capability="+capability) {
		t.Errorf("got %q", got)
	}
	if all := string(write(t, root, layer.Options{Attributes: true})); strings.Count(all, "SCHILY.xattr.user.x=1") != 2 {
		t.Errorf("all: got %q", all)
	}
}

// TestRandomTrees makes trees on the disk, and checks that a tar of them gives the same tree.
func TestRandomTrees(t *testing.T) {
	needRoot(t)
	for seed := range uint64(20) {
		opt := layer.Options{Form: layer.Form(seed % 2), UserXattr: seed%4 > 1, Attributes: true}
		rnd := rand.New(rand.NewPCG(seed, 1))
		root, dir := newRoot(t)
		randomTree(t, rnd, dir, dir, 0, opt)
		first := write(t, root, opt)
		copied, dir2 := newRoot(t)
		apply(t, copied, first, opt)
		if !bytes.Equal(write(t, copied, opt), first) {
			t.Fatalf("seed %d: other bytes", seed)
		}
		if marked, _ := newRoot(t); opt.Form == layer.Overlay {
			opt.Form = layer.Marked
			apply(t, marked, first, opt)
			if !bytes.Equal(write(t, marked, opt), first) {
				t.Fatalf("seed %d: other bytes from the marked form", seed)
			}
		}
		if d := diff(describe(t, dir), describe(t, dir2)); d != "" {
			t.Fatalf("seed %d: the trees differ:\n%s", seed, d)
		}
	}
}

// diff returns the first lines in which a and b differ.
func diff(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(la), len(lb)) {
		if la[i] != lb[i] {
			return la[i] + "\n" + lb[i]
		}
	}
	return strings.Join(append(la[min(len(la), len(lb)):], lb[min(len(la), len(lb)):]...), "\n")
}

func randomTree(t testing.TB, rnd *rand.Rand, top, dir string, depth int, opt layer.Options) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1 + rnd.IntN(8) {
		name := fmt.Sprintf("%d", i) + strings.Repeat(string(rune('a'+rnd.IntN(26))), rnd.IntN(120))
		if rnd.IntN(5) == 0 {
			name += "é\xff\n"
		}
		p := filepath.Join(dir, name)
		switch kind := rnd.IntN(10); {
		case kind < 3 && depth < 5:
			must(os.Mkdir(p, 0o755))
			randomTree(t, rnd, top, p, depth+1, opt)
			if rnd.IntN(3) == 0 {
				must(unix.Lsetxattr(p, "user.x", []byte{byte(i), 0, '\n'}, 0))
			}
		case kind < 5:
			must(os.WriteFile(p, bytes.Repeat([]byte{byte(i), 0}, rnd.IntN(70000)), 0o644))
			if rnd.IntN(3) == 0 {
				must(os.Link(p, filepath.Join(top, fmt.Sprintf("hard%d", rnd.Uint64()))))
			}
		case kind == 5:
			must(os.Symlink(strings.Repeat("t/", 1+rnd.IntN(90)), p))
		case kind == 6:
			must(unix.Mkfifo(p, 0o600))
		case kind == 7 && !opt.UserXattr:
			must(unix.Mknod(p, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(rnd.IntN(4096)), uint32(rnd.IntN(1<<20))))))
		case kind == 8 && opt.Form == layer.Overlay:
			must(unix.Mknod(p, unix.S_IFCHR, 0))
			continue
		default:
			must(os.WriteFile(p, nil, 0o644))
		}
		must(os.Lchown(p, rnd.IntN(1<<uint(rnd.IntN(31))), rnd.IntN(70000)))
		ts := []unix.Timespec{{}, {Sec: rnd.Int64N(1<<33) - 1<<30}}
		if fi, err := os.Lstat(p); err == nil && fi.Mode()&fs.ModeSymlink == 0 {
			must(unix.Chmod(p, rnd.Uint32()&0o7777))
		}
		must(unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// describe says what is in a tree, without the times of directories that whiteouts of a tar do not keep.
func describe(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel := p[len(dir):]
		if _, ok := first[st.Ino]; !ok {
			first[st.Ino] = rel
		}
		sec := st.Mtim.Sec
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
			sec, st.Uid, st.Gid = 0, 0, 0 // nobody sees those of a whiteout
		}
		target, _ := os.Readlink(p)
		fmt.Fprintf(&b, "%q %q %o %d:%d %x %d %q", rel, first[st.Ino], st.Mode, st.Uid, st.Gid, st.Rdev, sec, target)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %x", sha256.Sum256(data))
		}
		names := make([]byte, 1000)
		n, _ := unix.Llistxattr(p, names)
		attrs := strings.Split(string(names[:n]), "\x00")
		slices.Sort(attrs)
		fmt.Fprintf(&b, " %q\n", attrs)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
