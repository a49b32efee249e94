package layer_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// disk mounts a file system in memory until the test ends.
func disk(t *testing.T, options string) *rootfs.Root {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("strake-test", dir, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
		t.Fatal("mounting a file system:", err)
	}
	root, err := rootfs.Open(dir)
	t.Cleanup(func() {
		if err := errors.Join(root.Close(), unix.Unmount(dir, unix.MNT_DETACH)); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// rawHeader is the ustar header of an entry.
func rawHeader(name string, typ byte, size int64) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x0000000000000\x00        %c", size, typ))
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// pax is an extended header with records.
func pax(records ...string) []byte {
	var text string
	for _, r := range records {
		n := len(r) + 3 // the space, the newline, and a digit
		for len(fmt.Sprint(n))+len(r)+2 != n {
			n++
		}
		text += fmt.Sprintf("%d %s\n", n, r)
	}
	b := append(rawHeader("pax", 'x', int64(len(text))), text...)
	return append(b, make([]byte, -len(text)&511)...)
}

// endless repeats what each returns.
type endless struct {
	each func() []byte
	rest []byte
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		e.rest = e.each()
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func repeat(b []byte) io.Reader { return &endless{each: func() []byte { return b }} }

// TestBombs unpacks what is small where it comes from, and would never end, on a disk of 4 MiB. Each is refused with little memory.
func TestBombs(t *testing.T) {
	zeros := make([]byte, 64<<10)
	number := 0
	for name, c := range map[string]struct {
		tar  io.Reader
		full bool // the error is that of a full disk
	}{
		"a file of zeros":     {io.MultiReader(bytes.NewReader(rawHeader("a", '0', 8<<30-1)), repeat(zeros)), true},
		"a sparse file":       {io.MultiReader(bytes.NewReader(pax("GNU.sparse.size=1152921504606846976", "GNU.sparse.numblocks=1", "GNU.sparse.map=1152921504606846976,0")), bytes.NewReader(rawHeader("a", '0', 0)), bytes.NewReader(zeros[:1024])), true},
		"many files of zeros": {repeat(append(pax("GNU.sparse.size=1048576", "GNU.sparse.numblocks=1", "GNU.sparse.map=1048576,0"), rawHeader("a", '0', 0)...)), true},
		"random files": {&endless{each: func() []byte {
			number++
			return append(rawHeader(fmt.Sprint(number), '0', 512), bytes.Repeat([]byte("x"), 512)...)
		}}, true},
		"empty files":            {&endless{each: func() []byte { number++; return rawHeader(fmt.Sprint("empty", number), '0', 0) }}, true},
		"one empty file":         {repeat(rawHeader("a", '0', 0)), true},
		"directories":            {&endless{each: func() []byte { number++; return rawHeader(fmt.Sprint("d", number, "/"), '5', 0) }}, true},
		"a directory and a file": {repeat(append(rawHeader("a/", '5', 0), rawHeader("a", '0', 0)...)), true},
		"whiteouts":              {&endless{each: func() []byte { number++; return rawHeader(fmt.Sprint(".wh.", number), '0', 0) }}, true},
		"what follows the end":   {repeat(zeros), true},
		"extended headers":       {repeat(pax("comment=" + strings.Repeat("x", 1000))), true},
		"an extended header":     {io.MultiReader(bytes.NewReader(rawHeader("pax", 'x', 1<<30)), repeat([]byte(strings.Repeat("19 comment=xxxxxxx\n", 1000)))), false},
		"a global header":        {io.MultiReader(bytes.NewReader(rawHeader("pax", 'g', 1<<30)), repeat([]byte(strings.Repeat("19 comment=xxxxxxx\n", 1000)))), false},
		"a long name":            {io.MultiReader(bytes.NewReader(rawHeader("name", 'L', 1<<30)), repeat(bytes.Repeat([]byte("x"), 1<<16))), false},
		"a long link":            {io.MultiReader(bytes.NewReader(rawHeader("name", 'K', 1<<30)), repeat(bytes.Repeat([]byte("x"), 1<<16))), false},
	} {
		t.Run(name, func(t *testing.T) {
			root := disk(t, "size=4m,nr_inodes=2000")
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := layer.Apply(t.Context(), root, c.tar, layer.Options{Form: layer.Overlay})
			runtime.ReadMemStats(&after)
			if err == nil || errors.Is(err, unix.ENOSPC) != c.full {
				t.Errorf("got the error %v", err)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
				t.Errorf("%d MiB of memory were needed", took>>20)
			}
		})
	}
}

// TestManyDirectories unpacks more directories than are kept in memory, and comes back to those that it did not keep.
func TestManyDirectories(t *testing.T) {
	root := disk(t, "size=400m")
	const parents, children = 50, 1200
	pr, pw := io.Pipe()
	go func() {
		w := tar.NewWriter(pw)
		add := func(name string, at int64) error {
			return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: time.Unix(at, 0), Format: tar.FormatPAX})
		}
		var err error
		for p := range parents {
			err = errors.Join(err, add(fmt.Sprint(p), int64(1000+p)))
		}
		for c := range children {
			for p := range parents {
				err = errors.Join(err, add(fmt.Sprintf("%d/%0250d", p, c), int64(2000+c)))
			}
		}
		// Missing ones are made, in one that was flushed.
		err = errors.Join(err, add(fmt.Sprintf("0/%0250d/made/here", 0), 5000))
		_ = pw.CloseWithError(errors.Join(err, w.Close()))
	}()
	if err := layer.Apply(t.Context(), root, pr, layer.Options{Form: layer.Overlay}); err != nil {
		t.Fatal(err)
	}
	dir := "/proc/self/fd/" + fmt.Sprint(root.File().Fd())
	check := func(name string, want int64) {
		t.Helper()
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || fi.ModTime().Unix() != want {
			t.Errorf("%.20s…: %v, %v; want %d", name, fi.ModTime().Unix(), err, want)
		}
	}
	for p := range parents {
		check(fmt.Sprint(p), int64(1000+p))
	}
	for _, c := range []int{0, 1, children / 2, children - 1} {
		check(fmt.Sprintf("7/%0250d", c), int64(2000+c))
	}
	check(fmt.Sprintf("0/%0250d", 0), 2000)
	check(fmt.Sprintf("0/%0250d/made", 0), 5000)
}
