package runner

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree makes files below dir: a name that ends in a slash is a directory, a text that starts with "-> " a symlink.
func tree(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		to, link := strings.CutPrefix(text, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(file, 0o755)
		case link:
			err = os.Symlink(to, file)
		default:
			err = os.WriteFile(file, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// upperEmpty fails if a box has left anything in its upper directory.
func (w *world) upperEmpty() {
	w.t.Helper()
	entries, err := os.ReadDir(w.upper)
	if err != nil || len(entries) != 0 {
		w.t.Errorf("upper has %v, %v", entries, err)
	}
	if entries, err = w.boxes(); err != nil || len(entries) != 0 {
		w.t.Errorf("the directory for boxes has %v, %v", entries, err)
	}
}

func TestMountOverlay(t *testing.T) {
	w := newWorld(t)
	a := tree(t, t.TempDir(), map[string]string{"d/f": "a\n", "d/g": "a\n", "bin/tool": "tool\n"})
	b := tree(t, t.TempDir(), map[string]string{"d/f": "b\n", "link": "-> /d", "out": "-> ../../../../../../etc", "etc/passwd": "theirs\n"})
	scratch := tree(t, t.TempDir(), map[string]string{"upper/": "", "work/": ""})
	stage := &Overlay{Lower: []string{b, a}}
	rw := &Overlay{Lower: []string{b, a}, Upper: filepath.Join(scratch, "upper"), Work: filepath.Join(scratch, "work")}
	out := w.must(`cat /m/f /m/g /tool /out/passwd /all/d/f /one/d/f
		(echo x > /m/f) 2>/dev/null || echo ro
		echo new > /rw/f && cat /rw/f
		ls -d /usr 2>/dev/null || echo none`, func(s *Sandbox, _ *Process) {
		s.Mounts = []Mount{
			{Type: Bind, Overlay: stage, Source: "/link", Target: "/m", ReadOnly: true},
			{Type: Bind, Overlay: stage, Source: "bin/tool", Target: "/tool", ReadOnly: true},
			{Type: Bind, Overlay: stage, Source: "/out", Target: "/out", ReadOnly: true},
			{Type: Bind, Overlay: stage, Source: "/", Target: "/all", ReadOnly: true},
			{Type: Bind, Overlay: &Overlay{Lower: []string{a}}, Target: "/one", ReadOnly: true},
			{Type: Bind, Overlay: rw, Source: "/d", Target: "/rw"},
		}
	})
	if out != "b\na\ntool\ntheirs\nb\na\nro\nnew\nnone\n" {
		t.Errorf("got %q", out)
	}
	w.upperEmpty()
	if data, err := os.ReadFile(filepath.Join(b, "d/f")); err != nil || string(data) != "b\n" {
		t.Errorf("a layer was changed: %q, %v", data, err)
	}
	_, err := w.sh("true", func(s *Sandbox, _ *Process) {
		s.Mounts = []Mount{{Type: Bind, Overlay: stage, Source: "/none", Target: "/m", ReadOnly: true}}
	})
	if err == nil || !strings.Contains(err.Error(), "mounting /m: bind /none: no such file or directory") {
		t.Errorf("a source that is not there gave %v", err)
	}
	w.upperEmpty()
}

// A cache directory is full of what earlier steps have put there.
func TestMountInside(t *testing.T) {
	w := newWorld(t)
	cache := tree(t, t.TempDir(), map[string]string{
		"sub/f": "f\n", "etc/passwd": "caught\n", "abs": "-> /etc", "up": "-> ../../../../../../../../etc", "magic": "-> /proc/self/root",
	})
	out := w.must("cat /a/f /b/passwd /c/passwd; echo x > /a/new", func(s *Sandbox, _ *Process) {
		s.Mounts = []Mount{
			{Type: Bind, Source: cache, Inside: "/sub", Target: "/a"},
			{Type: Bind, Source: cache, Inside: "abs", Target: "/b", ReadOnly: true},
			{Type: Bind, Source: cache, Inside: "../../up", Target: "/c"},
		}
	})
	if out != "f\ncaught\ncaught\n" {
		t.Errorf("got %q", out)
	}
	if _, err := os.Stat(filepath.Join(cache, "sub/new")); err != nil {
		t.Error(err)
	}
	if _, err := w.sh("true", func(s *Sandbox, _ *Process) {
		s.Mounts = []Mount{{Type: Bind, Source: cache, Inside: "/magic", Target: "/a"}}
	}); err == nil {
		t.Error("a link out of the cache was followed")
	}
	w.upperEmpty()
}

func TestMountOwner(t *testing.T) {
	w := newWorld(t)
	out := w.must("stat -c '%u:%g %a' /run/secrets/s /t; cat /run/secrets/s", func(s *Sandbox, p *Process) {
		p.User = "1000:50"
		s.Mounts = []Mount{
			{Type: Bind, Target: "/run/secrets/s", Data: []byte("hidden\n"), Mode: 0o400, UID: 1000, GID: 50, ReadOnly: true},
			{Type: Tmpfs, Target: "/t", Mode: 0o750, UID: 1000, GID: 50},
		}
	})
	if out != "1000:50 400\n1000:50 750\nhidden\n" {
		t.Errorf("got %q", out)
	}
	w.upperEmpty()
}

// A tmpfs has the mode of the directory that it hides, as runc has it.
func TestTmpfsMode(t *testing.T) {
	const script, want = "stat -c %a /had /fresh /fresh/in /named", "750\n1777\n1777\n700\n"
	mounts := []Mount{
		{Type: Tmpfs, Target: "/had"},
		{Type: Tmpfs, Target: "/fresh"},
		{Type: Tmpfs, Target: "/fresh/in"},
		{Type: Tmpfs, Target: "/named", Mode: 0o700},
	}
	has := func(t *testing.T, root string) {
		t.Helper()
		tree(t, root, map[string]string{"had/": "", "named/": ""})
		if err := os.Chmod(filepath.Join(root, "had"), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("mounted", func(t *testing.T) {
		for _, stubs := range []string{"", t.TempDir()} {
			w := newWorld(t)
			has(t, w.box.Root.Lower[0])
			w.box.Stubs = stubs
			if out := w.must(script, func(s *Sandbox, _ *Process) { s.Mounts = mounts }); out != want {
				t.Errorf("stubs in %q: got %q, want %q", stubs, out, want)
			}
			w.upperEmpty()
		}
	})
	t.Run("chroot", func(t *testing.T) {
		w := chrootWorld(t)
		has(t, w.base)
		w.fresh()
		w.box.Mounts = mounts
		var out strings.Builder
		err := w.linux.Run(t.Context(), w.box, Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{testPath}, Stdout: &out, Stderr: &out})
		if err != nil || out.String() != want {
			t.Errorf("got %q, %v, want %q", out.String(), err, want)
		}
	})
}

func TestMountRootless(t *testing.T) {
	run := rootless(t)
	out, err := run(`stat -c '%u:%g' /data; cat /data; echo x > /rw/bin/new && ls /rw/bin/new; (echo x > /ro/bin/new) 2>/dev/null || echo ro; ls /c; ls /`, "mounts").CombinedOutput()
	if want := "1000:50\ndata\n/rw/bin/new\nro\nf\n"; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("got %q, %v", out, err)
	}
}

// Mounts are made in order, in each other and over each other. What is made in a mount stays there, as with BuildKit.
func TestMountNested(t *testing.T) {
	w := newWorld(t)
	outer, inner, other := t.TempDir(), tree(t, t.TempDir(), map[string]string{"i": "i\n"}), tree(t, t.TempDir(), map[string]string{"o": "o\n"})
	tree(t, w.box.Root.Lower[0], map[string]string{"app/": "", "jump": "-> /app/deep", "loop": "-> loop"})
	out := w.must("cat /c/inner/i /c/file /twice/o; ls /twice /app/deep /app", func(s *Sandbox, _ *Process) {
		s.Mounts = []Mount{
			{Type: Bind, Source: outer, Target: "/c"},
			{Type: Bind, Source: inner, Target: "/c/inner"},
			{Type: Bind, Target: "/c/file", Data: []byte("file\n"), Mode: 0o644},
			{Type: Bind, Source: inner, Target: "/twice"},
			{Type: Bind, Source: other, Target: "/twice"},
			{Type: Bind, Source: inner, Target: "/jump/../deep/x/"},
		}
	})
	if out != "i\nfile\no\n/app:\ndeep\n\n/app/deep:\nx\n\n/twice:\no\n" {
		t.Errorf("got %q", out)
	}
	for _, name := range []string{"inner", "file"} {
		if _, err := os.Stat(filepath.Join(outer, name)); err != nil {
			t.Errorf("the mount point in a bind: %v", err)
		}
	}
	// A mount point behind a symlink is made in the root, for which its directory is copied up, and removed.
	if entries, err := os.ReadDir(filepath.Join(w.upper, "app")); err != nil || len(entries) != 0 {
		t.Errorf("upper has %v, %v", entries, err)
	}
	if err := os.Remove(filepath.Join(w.upper, "app")); err != nil {
		t.Fatal(err)
	}
	w.upperEmpty()
	for target, want := range map[string]string{"/loop/x": "too many levels of symbolic links", "/bin/sh": "must both be directories or both files", "/": "nothing can be mounted over /", "/proc/x": "nothing can be mounted over"} {
		_, err := w.sh("true", func(s *Sandbox, _ *Process) {
			s.Mounts = []Mount{{Type: Bind, Source: inner, Target: target}}
		})
		if err == nil || !strings.Contains(err.Error(), want) && target != "/proc/x" {
			t.Errorf("mounting over %s gave %v", target, err)
		}
	}
}

// A root that is one directory, a copy, is used as it is, and nothing is left in it but what the step made.
func TestPlainRoot(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	makeRoot(t, root)
	l := &Linux{Isolation: Isolation{Rung: Root, NoOverlay: true}, Dir: filepath.Join(dir, "run")}
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := Sandbox{Root: Overlay{Upper: root}, Network: HostNetwork, Hostname: "plain", Stubs: filepath.Join(dir, "stubs")}
	s.Mounts = []Mount{{Type: Bind, Target: "/run/secrets/x", Data: []byte("data"), Mode: 0o400}}
	var out bytes.Buffer
	err := l.Run(t.Context(), s, Process{Args: []string{"/bin/sh", "-c", "cat /run/secrets/x; echo made >/made; test -s /etc/resolv.conf || test -e /etc/resolv.conf"}, Env: []string{testPath}, Stdout: &out, Stderr: &out})
	if err != nil || out.String() != "data" {
		t.Fatalf("got %q, %v", out.String(), err)
	}
	for _, gone := range []string{"run/secrets", "etc/resolv.conf"} {
		if _, err := os.Lstat(filepath.Join(root, gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(root, "made")); err != nil || string(data) != "made\n" {
		t.Errorf("made holds %q, %v", data, err)
	}
}

// A mount point that is made in a cache stays there, also when the root is a directory of the same file system.
func TestPlainRootCache(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	root, cache, inner := filepath.Join(dir, "root"), filepath.Join(dir, "cache"), filepath.Join(dir, "inner")
	makeRoot(t, root)
	l := &Linux{Isolation: Isolation{Rung: Root, NoOverlay: true}, Dir: filepath.Join(dir, "run")}
	for _, d := range []string{l.Dir, cache, inner} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	defer l.Close()
	s := Sandbox{Root: Overlay{Upper: root}, Network: HostNetwork, Hostname: "plain", Stubs: filepath.Join(dir, "stubs")}
	s.Mounts = []Mount{{Type: Bind, Source: cache, Target: "/c"}, {Type: Bind, Source: inner, Target: "/c/inner"}}
	if err := l.Run(t.Context(), s, Process{Args: []string{"/bin/sh", "-c", "echo i >/c/inner/i"}, Env: []string{testPath}}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cache, "inner")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "c")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the mount point in the root is left: %v", err)
	}
}

func TestVolume(t *testing.T) {
	w := newWorld(t)
	lower := tree(t, t.TempDir(), map[string]string{"data/file": "below\n", "run/": "", "var/run": "-> /run"})
	w.box.Root.Lower = append([]string{lower}, w.box.Root.Lower...)
	if err := os.Chown(filepath.Join(lower, "data"), 5, 6); err != nil {
		t.Fatal(err)
	}
	out := w.must(`cat /data/file; echo new > /data/file && cat /data/file; stat -c %u:%g /data
		echo x > /made/x && cat /made/x; echo y > /var/run/sub/y && cat /run/sub/y
		(echo x > /x) 2>/dev/null || echo ro
		rmdir /made 2>/dev/null || echo mounted`, func(s *Sandbox, _ *Process) {
		s.ReadOnly = true
		s.Mounts = []Mount{{Type: Volume, Target: "/data"}, {Type: Volume, Target: "/made"}, {Type: Volume, Target: "/var/run/sub"}}
	})
	if want := "below\nnew\n5:6\nx\ny\nro\nmounted\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if data, err := os.ReadFile(filepath.Join(lower, "data/file")); err != nil || string(data) != "below\n" {
		t.Errorf("a layer was changed: %q, %v", data, err)
	}
	_, err := w.sh("true", func(s *Sandbox, _ *Process) {
		s.Mounts = []Mount{{Type: Volume, Source: lower, Target: "/data"}}
	})
	if err == nil || !strings.Contains(err.Error(), "a volume has no source") {
		t.Errorf("a volume with a source: %v", err)
	}
}
