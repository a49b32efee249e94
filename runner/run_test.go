package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// needRoot skips a test that needs root, but fails it where all must run.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}

// world is a root made of busybox, and a place for boxes.
type world struct {
	t     testing.TB
	linux *Linux
	box   Sandbox
	upper string
	base  string // a chroot's tree is a copy of it
}

func busybox(t testing.TB) string {
	t.Helper()
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal("this test needs busybox-static")
	}
	t.Skip("this test needs busybox-static")
	return ""
}

func newWorld(t testing.TB) *world {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	w := &world{t: t, upper: filepath.Join(dir, "upper")}
	lower := filepath.Join(dir, "lower")
	makeRoot(t, lower)
	for _, d := range []string{"upper", "work", "stubs", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.linux = &Linux{Isolation: Isolation{Rung: Root}, Dir: filepath.Join(dir, "run")}
	t.Cleanup(func() { w.linux.Close() })
	w.box = Sandbox{
		Root:     Overlay{Lower: []string{lower}, Upper: w.upper, Work: filepath.Join(dir, "work")},
		Network:  HostNetwork,
		Hostname: "boxtest",
		Stubs:    filepath.Join(dir, "stubs"),
	}
	return w
}

// makeRoot makes a root file system of busybox and the usual mount points.
func makeRoot(t testing.TB, dir string) {
	t.Helper()
	for _, d := range []string{"bin", "proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	src := busybox(t)
	data, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(src, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	// One link with all the names: the root is copied often, and links to a file are made faster than files.
	if err := os.Symlink("busybox", filepath.Join(dir, "bin/sh")); err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(out)) {
		if name != "busybox" && name != "sh" {
			if err := os.Link(filepath.Join(dir, "bin/sh"), filepath.Join(dir, "bin", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// fresh gives the box a new work directory: a volatile one cannot be used twice.
func (w *world) fresh() {
	w.t.Helper()
	if w.base != "" {
		if err := errors.Join(os.RemoveAll(w.upper), exec.Command("cp", "-a", w.base, w.upper).Run()); err != nil {
			w.t.Fatal(err)
		}
		return
	}
	for _, d := range []string{w.upper, w.box.Root.Work} {
		if err := os.RemoveAll(d); err != nil {
			w.t.Fatal(err)
		}
		if err := os.Mkdir(d, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
}

const testPath = "PATH=/bin"

// boxes is what boxes have left in the directory for them; the guard stays until Close.
func (w *world) boxes() ([]os.DirEntry, error) {
	all, err := os.ReadDir(w.linux.Dir)
	return slices.DeleteFunc(all, func(e os.DirEntry) bool { return strings.Contains(e.Name(), guardName) }), err
}

// sh runs a shell script and returns its output and Run's error.
func (w *world) sh(script string, change ...func(*Sandbox, *Process)) (string, error) {
	w.t.Helper()
	w.fresh()
	var out bytes.Buffer
	s := w.box
	p := Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{testPath}, Stdout: &out, Stderr: &out}
	for _, f := range change {
		f(&s, &p)
	}
	err := w.linux.Run(context.Background(), s, p)
	return out.String(), err
}

// must runs a script that must succeed.
func (w *world) must(script string, change ...func(*Sandbox, *Process)) string {
	w.t.Helper()
	out, err := w.sh(script, change...)
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

func TestRunOutputAndCode(t *testing.T) {
	w := newWorld(t)
	if out := w.must("echo out; echo err >&2"); out != "out\nerr\n" {
		t.Errorf("output is %q", out)
	}
	_, err := w.sh("exit 7")
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 7 || exit.Signal != nil || exit.OOM {
		t.Errorf("exit 7 gave %#v", err)
	}
}

func TestRunLeavesUpperEmpty(t *testing.T) {
	w := newWorld(t)
	w.must("true")
	entries, err := os.ReadDir(w.upper)
	if err != nil || len(entries) != 0 {
		t.Errorf("upper has %v, %v", entries, err)
	}
}

// A root without /proc, /sys and /dev gets them, as with BuildKit; nothing else, and nothing that is read-only.
func TestRunMakesSystemDirectories(t *testing.T) {
	w := newWorld(t)
	for _, d := range []string{"proc", "sys", "dev"} {
		if err := os.Remove(filepath.Join(w.box.Root.Lower[0], d)); err != nil {
			t.Fatal(err)
		}
	}
	for _, readOnly := range []bool{true, false} {
		w.must("test -d /proc/self && test -d /sys/class && test -c /dev/null", func(s *Sandbox, p *Process) {
			s.ReadOnly = readOnly
			p.User = "55:66"
		})
		found := map[string]string{}
		entries, err := os.ReadDir(w.upper)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			st, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			sys := st.Sys().(*syscall.Stat_t)
			found[e.Name()] = fmt.Sprint(st.Mode(), sys.Uid, sys.Gid)
		}
		want := map[string]string{}
		if !readOnly {
			want = map[string]string{"proc": "drwxr-xr-x 0 0", "sys": "drwxr-xr-x 0 0", "dev": "drwxr-xr-x 0 0"}
		}
		if !maps.Equal(found, want) {
			t.Errorf("read-only %v: upper has %v", readOnly, found)
		}
	}
}

// Overlay takes 500 layers: an image that has as many leaves no room for mount points of ours.
func TestRunWithAllLayers(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	for i := range maxLayers - 1 {
		d := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		w.box.Root.Lower = append([]string{d}, w.box.Root.Lower...)
	}
	if out := w.must("cat /data; test -s /etc/hosts && echo hosts", func(s *Sandbox, _ *Process) {
		s.Mounts = []Mount{{Type: Bind, Target: "/data", Data: []byte("data\n"), Mode: 0o644}}
	}); out != "data\nhosts\n" {
		t.Errorf("got %q", out)
	}
	if entries, err := os.ReadDir(w.upper); err != nil || len(entries) != 0 {
		t.Errorf("upper has %v, %v", entries, err)
	}
}

func BenchmarkRunTrue(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
		b.StopTimer()
		w.fresh()
		b.StartTimer()
		p := Process{Args: []string{"/bin/true"}, Env: []string{testPath}}
		if err := w.linux.Run(context.Background(), w.box, p); err != nil {
			b.Fatal(err)
		}
	}
}
