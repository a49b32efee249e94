package runner

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// chrootWorld is a world whose boxes have no namespaces.
func chrootWorld(t testing.TB) *world {
	w := newWorld(t)
	w.linux.Isolation = Isolation{Rung: Chroot, NoOverlay: true}
	w.base = w.box.Root.Lower[0]
	w.box.Root = Overlay{Upper: w.upper}
	return w
}

func helpChroot(args []string) error { return helpBox(Isolation{Rung: Chroot}, args) }

// listing describes all of a tree but what access and ctime tell, and the order of names in a directory, which is that of their making on a tmpfs.
func listing(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-printf", "%P %i %M %U:%G %s %T@ %l\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(slices.Sorted(strings.Lines(string(out))), "")
}

// The tree is as it was, whatever was put into it for the step.
func TestChrootPutsBack(t *testing.T) {
	w := chrootWorld(t)
	tree(t, w.base, map[string]string{"etc/hosts": "mine\n", "opt/x/old": "old", "var/cache/y/old": "old"})
	if err := os.Symlink("../run/resolv.conf", filepath.Join(w.base, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	cache := tree(t, filepath.Join(filepath.Dir(w.upper), "cache"), map[string]string{"a": "1"})
	ro := tree(t, filepath.Join(filepath.Dir(w.upper), "ro"), map[string]string{"d/f": "ro"})
	mounts := []Mount{
		{Type: Bind, Target: "/run/secrets/s", Data: []byte("secret"), Mode: 0o400},
		{Type: Bind, Target: "/var/cache/y", Source: cache},
		{Type: Bind, Target: "/opt/x", Overlay: &Overlay{Lower: []string{ro}}, Source: "/d", ReadOnly: true},
		{Type: Bind, Target: "/opt/file", Overlay: &Overlay{Lower: []string{ro}}, Source: "/d/f", ReadOnly: true},
		{Type: Tmpfs, Target: "/new/tmp", Mode: 0o700, UID: 5},
	}
	w.fresh()
	before := listing(t, w.upper)
	var out strings.Builder
	run := func(script string) error {
		out.Reset()
		s := w.box
		s.Mounts = mounts
		return w.linux.Run(t.Context(), s, Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{testPath}, Stdout: &out, Stderr: &out})
	}
	script := `cat /run/secrets/s; stat -c ' %a' /run/secrets/s; ls /var/cache/y /opt/x; cat /opt/x/f /opt/file; stat -c ' %a %u' /new/tmp
grep -c localhost /etc/hosts; test -s /etc/resolv.conf && echo resolver; ls /dev | tr '\n' ' '; echo x >/dev/null; echo x >/dev/shm/x; echo 2 >/var/cache/y/b; echo > /new/tmp/x; exit 3`
	var exit *ExitError
	if err := run(script); !errors.As(err, &exit) || exit.Code != 3 {
		t.Fatalf("%v\n%s", err, out.String())
	}
	want := "secret 400\n/opt/x:\nf\n\n/var/cache/y:\na\nroro 700 5\n2\nresolver\n" + strings.Join(devNames(), " ") + " "
	if out.String() != want {
		t.Errorf("the step saw %q, want %q", out.String(), want)
	}
	if after := listing(t, w.upper); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if data, err := os.ReadFile(filepath.Join(cache, "b")); err != nil || string(data) != "2\n" {
		t.Errorf("the cache has %q, %v", data, err)
	}
	// Moved, replaced and removed as no mount can be.
	for _, script := range []string{
		"mv /var/cache/y /y; mkdir /var/cache/y; echo > /var/cache/y/z; mv /run/secrets/s /s; rm -r /opt/x /dev; rm /etc/hosts; echo > /etc/hosts; rm -r /y; true",
		"mv /var /var2; true", "rm -rf /var/cache; mv /run /run2; true",
	} {
		w.fresh()
		if err := run(script); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out.String())
		}
		if data, _ := exec.Command("grep", "-rl", "secret", w.upper, "--include=s").Output(); len(data) > 0 {
			t.Errorf("%s: the secret is in the layer: %s", script, data)
		}
		if _, err := os.Stat(filepath.Join(cache, ".")); err != nil {
			t.Errorf("%s: the cache is gone: %v", script, err)
		}
		if data, err := os.ReadFile(filepath.Join(w.upper, "etc/hosts")); err != nil || string(data) != "mine\n" {
			t.Errorf("%s: hosts has %q, %v", script, data, err)
		}
	}
	if n, err := w.boxes(); err != nil || len(n) > 0 {
		t.Errorf("left behind: %v, %v", n, err)
	}
}

// What the step makes stays, in directories that were touched for it as well.
func TestChrootKeeps(t *testing.T) {
	w := chrootWorld(t)
	w.must("mkdir -p /etc; echo x >/etc/x; mkdir /etc/d; chown 33:44 /etc/x; ln -s x /etc/l; touch -d @1000000000 /etc; echo > /dev/mine; echo > /sys/mine || true")
	st, err := os.Stat(filepath.Join(w.upper, "etc"))
	if err != nil || st.ModTime().Unix() != 1000000000 {
		t.Errorf("/etc has %v, %v", st.ModTime(), err)
	}
	for name, there := range map[string]bool{"etc/x": true, "etc/l": true, "etc/d": true, "dev/mine": false, "sys/mine": false, "etc/resolv.conf": false} {
		if _, err := os.Lstat(filepath.Join(w.upper, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestChrootPrivileges(t *testing.T) {
	w := chrootWorld(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out := w.must(`ulimit -n >/dev/null
mknod /x c 1 3 2>/dev/null && echo mknod
mkdir /in; chroot /in /bin/true 2>/dev/null && echo chroot
mount -t tmpfs x /in 2>/dev/null && echo mount
cat /../../../../..` + outside + ` 2>/dev/null && echo outside
chown 33:44 /in && stat -c %u:%g /in; id -u; umask`)
	if out != "33:44\n0\n0022\n" {
		t.Errorf("the step said %q", out)
	}
	out = w.must("id -u; id -g; id -G; pwd; echo $HOME", func(_ *Sandbox, p *Process) { p.User, p.Dir = "33:44", "/a/b" })
	if out != "33\n44\n44\n/a/b\n/\n" {
		t.Errorf("as a user the step said %q", out)
	}
}

func TestChrootRefuses(t *testing.T) {
	w := chrootWorld(t)
	for name, change := range map[string]func(*Sandbox, *Process){
		"network":  func(s *Sandbox, _ *Process) { s.Network = NoNetwork },
		"insecure": func(s *Sandbox, _ *Process) { s.Insecure = true },
		"shm":      func(s *Sandbox, _ *Process) { s.ShmSize = 1 << 20 },
		"root":     func(s *Sandbox, _ *Process) { s.ReadOnly = true },
		"limits":   func(s *Sandbox, _ *Process) { s.Limits.Pids = 10 },
		"tmpfs":    func(s *Sandbox, _ *Process) { s.Mounts = []Mount{{Type: Tmpfs, Target: "/t", Size: 1 << 20}} },
		"device":   func(s *Sandbox, _ *Process) { s.Mounts = []Mount{{Type: Bind, Target: "/t", Source: "/dev/null"}} },
		"volume": func(s *Sandbox, _ *Process) {
			s.Container, s.Mounts = true, []Mount{{Type: Bind, Target: "/t", Source: t.TempDir()}}
		},
	} {
		out, err := w.sh("true", change)
		var refused *ChrootError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "isolation chroot: ") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// Two steps that share a cache have it one after the other, and several boxes run at once.
func TestChrootCacheShared(t *testing.T) {
	w := chrootWorld(t)
	cache := tree(t, filepath.Join(filepath.Dir(w.upper), "cache"), map[string]string{"n": "0\n"})
	errs := make(chan error)
	const boxes = 4
	for i := range boxes {
		root := filepath.Join(filepath.Dir(w.upper), "tree", string(rune('a'+i)))
		if err := errors.Join(os.MkdirAll(filepath.Dir(root), 0o755), exec.Command("cp", "-a", w.base, root).Run()); err != nil {
			t.Fatal(err)
		}
		go func() {
			s := w.box
			s.Root = Overlay{Upper: root}
			s.Mounts = []Mount{{Type: Bind, Target: "/c", Source: cache}}
			errs <- w.linux.Run(t.Context(), s, Process{Args: []string{"/bin/sh", "-c", "n=$(cat /c/n); sleep 0.05; echo $((n+1)) > /c/n"}, Env: []string{testPath}})
		}()
	}
	for range boxes {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(cache, "n")); err != nil || string(data) != "4\n" {
		t.Errorf("the cache has %q, %v", data, err)
	}
}

// Who waits for a cache can be cancelled.
func TestChrootCacheCancelled(t *testing.T) {
	w := chrootWorld(t)
	dir := filepath.Dir(w.upper)
	cache := tree(t, filepath.Join(dir, "cache"), map[string]string{"a": "1"})
	cause := errors.New("enough")
	start := func(name, script string, out io.Writer) (cancel func(error), done chan error) {
		s := w.box
		s.Root = Overlay{Upper: filepath.Join(dir, name)}
		s.Mounts = []Mount{{Type: Bind, Target: "/c", Source: cache}}
		if err := exec.Command("cp", "-a", w.base, s.Root.Upper).Run(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		done = make(chan error, 1)
		go func() {
			done <- w.linux.Run(ctx, s, Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{testPath}, Stdout: out})
		}()
		return cancel, done
	}
	ready := make(chan struct{}, 1)
	first, firstDone := start("first", "echo ready; exec sleep 234.5"+own(), writerFunc(func([]byte) { ready <- struct{}{} }))
	select {
	case <-ready:
	case err := <-firstDone:
		t.Fatal(err)
	}
	second, secondDone := start("second", "exec sleep 234.5"+own(), nil)
	wait(t, "the second box", func() bool {
		all, err := w.boxes()
		return err == nil && len(all) == 2
	})
	for name, box := range map[string]struct {
		cancel func(error)
		done   chan error
	}{"second": {second, secondDone}, "first": {first, firstDone}} {
		box.cancel(cause)
		if err := <-box.done; !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// However strake and the init die, a cache comes back: by the init, or by the next strake.
func TestChrootCrash(t *testing.T) {
	for _, both := range []bool{false, true} {
		needRoot(t)
		dir := publicDir(t)
		makeRoot(t, filepath.Join(dir, "lower"))
		cache := tree(t, filepath.Join(dir, "cache"), map[string]string{"a": "1"})
		c := helperCommand(t, dir, "chroot", dir, "echo 2 > /c/b; echo ready; exec sleep 198.7"+own(), "cache="+cache)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		if both {
			pids, err := exec.Command("sh", "-c", "cat /proc/"+strconv.Itoa(c.Process.Pid)+"/task/*/children").Output()
			if err != nil {
				t.Fatal(err)
			}
			_ = c.Process.Signal(syscall.SIGSTOP)
			for pid := range strings.FieldsSeq(string(pids)) {
				_ = exec.Command("kill", "-KILL", pid).Run()
			}
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
		gone(t, "198.7")
		if both {
			box, err := filepath.Glob(filepath.Join(dir, "box-*/run"))
			if err != nil || len(box) != 1 {
				t.Fatal(box, err)
			}
			if err := Sweep(box[0]); err != nil {
				t.Fatal(err)
			}
		}
		wait(t, "the cache to come back", func() bool {
			data, _ := os.ReadFile(filepath.Join(cache, "b"))
			return string(data) == "2\n"
		})
	}
}

// wait waits until done is true, which says that what happened.
func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 6000 { // a minute, which no machine needs
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("waited in vain for %s", what)
}

// Programs find in /proc what they look for, and nothing else.
func TestChrootProc(t *testing.T) {
	w := chrootWorld(t)
	w.fresh()
	for script, want := range map[string]string{
		"exec 5</proc/meminfo; grep -q Mem <&5 && (echo 1 >/proc/self/fd/5) 2>/dev/null || echo refused":                                                       "refused\n",
		"test -r /sys/devices/system/cpu/online && grep -q 0 /sys/devices/system/cpu/online && echo ok":                                                        "ok\n",
		"exec 5>/dev/shm/$$; chmod 0640 /proc/self/fd/5; TZ=UTC touch -t 197001010000.07 /dev/fd/5; chown 33:44 /dev/fd/5; stat -L -c '%a %Y %u:%g' /dev/fd/5": "640 7 33:44\n",
		"(chmod 0666 /proc/self/fd/5 5</proc/meminfo) 2>/dev/null || echo refused":                                                                             "refused\n",
		"hostname; cat /proc/sys/kernel/hostname":                                                                                                              "boxtest\nboxtest\n",
		"readlink /proc/self/exe":                                          "/bin/busybox\n",
		"cd /bin; readlink /proc/self/cwd; readlink /proc/self/root":       "/bin\n/\n",
		"test $(readlink /proc/self) != $$ && test -d /proc/$$ && echo ok": "ok\n",
		"head -c 5 /proc/self/status":                                      "Name:",
		"grep -q . /proc/self/cmdline && echo ok":                          "ok\n",
		"grep -c processor /proc/cpuinfo >/dev/null && echo ok":            "ok\n",
		"grep -q MemTotal /proc/meminfo && echo ok":                        "ok\n",
		"grep ' / ' /proc/mounts":                                          "overlay / overlay rw,relatime 0 0\n",
		"test $(stat -c %d /proc) != $(stat -c %d /) && echo ok":           "ok\n",
		"echo hi | cat /dev/stdin":                                         "hi\n",
		"echo hi | cat /dev/fd/0; echo hi | cat /proc/self/fd/0":           "hi\nhi\n",
		"echo hi >/dev/stdout; echo ho >/dev/stderr":                       "hi\nho\n",
		"ls -l /proc/self/fd/0 | sed 's/.* -> //'":                         "/dev/null\n",
		"ls /proc/self/fd | head -3 | tr '\\n' ' '":                        "0 1 2 ",
		"sleep 300 & until ps -o args | grep -c '^sleep 300'; do :; done | grep -v 0; test $(ls -d /proc/[0-9]* | wc -l) -lt 10 && echo ok": "1\nok\n",
		"cat /proc/1/status /proc/1/cmdline 2>/dev/null || echo none":                                                                       "none\n",
		"cat /proc/$PPID/environ 2>/dev/null || echo none":                                                                                  "none\n",
		"(sleep 1 & cat /proc/$!/environ 2>/dev/null || echo none)":                                                                         "none\n",
		"ls /proc/self/root/ 2>/dev/null || echo none":                                                                                      "none\n",
		"(echo 1 >/proc/sys/kernel/ostype) 2>/dev/null; uname -s":                                                                           "Linux\n",
		"cd /proc/self; head -c 5 status; cd fd; ls | head -3 | tr '\\n' ' '; cat ../comm; head -c 8 ../../meminfo":                         "Name:0 1 2 cat\nMemTotal",
		"cd /proc/$$; cat comm; cd /; head -c 5 proc/self/status; cd /dev; echo hi | cat fd/0":                                              "sh\nName:hi\n",
		"cd /proc; cat 1/comm || echo none":                                                                                                 "cat: can't open '1/comm': No such file or directory\nnone\n",
		"cd /proc/self/fd 2>/dev/null; ls .. >/dev/null; cat ../../../../../../etc/shadow 2>/dev/null || echo none":                         "none\n",
	} {
		for _, user := range []string{"", "33:44"} {
			var out strings.Builder
			p := Process{Args: []string{"/bin/sh", "-c", "exec 2>&1; " + script}, Env: []string{testPath}, User: user, Stdout: &out}
			if err := w.linux.Run(t.Context(), w.box, p); err != nil || out.String() != want {
				t.Errorf("%q: %s: got %q, %v, want %q", user, script, out.String(), err, want)
			}
		}
	}
}

// A program executes itself by its name in /proc, also one that has no other name, and is not asked who it is. No step gets at another program that way.
func TestChrootExecutesItself(t *testing.T) {
	w := chrootWorld(t)
	w.fresh()
	for script, want := range map[string]string{
		"exec -a sh /proc/self/exe -c 'echo $0 $1 $X; cat /proc/$$/comm; readlink /proc/$$/exe' a b": "a b x\nsh\n/bin/busybox\n",
		"exec -a echo /proc/$$/exe hi":          "hi\n",
		"cd /proc/self; exec -a echo ./exe hi":  "hi\n",
		"exec -a echo /proc/thread-self/exe hi": "hi\n",
		"d=$(mktemp -d); cp /bin/busybox $d/sh; $d/sh -c 'rm $0; exec -a echo /proc/self/exe hi' $d/sh":           "hi\n",
		"for i in 1 2 3 4 5 6 7 8; do (exec -a echo /proc/self/exe $i) & done | sort | tr -d '\\n'; wait":         "12345678",
		"for i in 1 2 3 4 5 6; do sleep 200 & (exec -a echo /proc/$!/exe $i); kill $!; done | tr -d '\\n'":        "123456",
		"(exec -a echo /proc/1/exe hi) 2>/dev/null || (exec -a echo /proc/$PPID/exe hi) 2>/dev/null || echo none": "none\n",
		"cd /proc; (cat self/exe >/dev/null) && echo read; (: >>self/exe) 2>/dev/null || echo refused":            "read\nrefused\n",
	} {
		for _, user := range []string{"", "33:44"} {
			var out strings.Builder
			p := Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{testPath, "X=x", "TMPDIR=/dev/shm"}, User: user, Stdout: &out, Stderr: &out}
			if err := w.linux.Run(t.Context(), w.box, p); err != nil || out.String() != want {
				t.Errorf("%q: %s: got %q, %v, want %q", user, script, out.String(), err, want)
			}
		}
	}
	// Until it has executed its program, the step is strake.
	var exit *ExitError
	if err := w.linux.Run(t.Context(), w.box, Process{Args: []string{"/proc/self/exe"}}); err == nil || errors.As(err, &exit) && exit.Code == 0 {
		t.Errorf("the step executed strake: %v", err)
	}
}

// Nothing of /proc and /sys can be written, as in a box that has them read-only.
func TestChrootProcIsReadOnly(t *testing.T) {
	w := chrootWorld(t)
	w.fresh()
	for name, want := range map[string]string{
		"/proc/sys/kernel/hostname": "Read-only file system", "/proc/sys/kernel/ostype": "Read-only file system", "/proc/sys/kernel/core_pattern": "Read-only file system",
		"/proc/sys/kernel/nothing": "nonexistent directory", "/proc/sys/net/ipv4/ip_forward": "Read-only file system",
		"/proc/mounts": "Read-only file system", "/proc/nothing": "nonexistent directory", "/sys/kernel/mm/transparent_hugepage/enabled": "Read-only file system",
	} {
		for _, script := range []string{"cd /; echo 1 >%", "cd /proc/sys/kernel; echo 1 >../../..%"} {
			script = strings.ReplaceAll(script, "%", name)
			out, err := w.sh(script)
			if err == nil || !strings.Contains(out, want) {
				t.Errorf("%s: %v, %q, want %q", script, err, out, want)
			}
		}
	}
	if out := w.must("cd /proc/sys/kernel; (echo 1 >nothing) 2>/dev/null; truncate -s 0 hostname 2>/dev/null; ls; cat hostname"); out != "hostname\nboxtest\n" {
		t.Errorf("the step changed /proc/sys: %q", out)
	}
}

// BenchmarkChrootStat measures what the supervisor costs a call with a path.
func BenchmarkChrootStat(b *testing.B) {
	for name, make := range map[string]func(testing.TB) *world{"root": func(t testing.TB) *world { return newWorld(t) }, "chroot": chrootWorld} {
		b.Run(name, func(b *testing.B) {
			w := make(b)
			const calls = 5000
			w.fresh()
			p := Process{Args: []string{"/bin/sh", "-c", "i=0; while [ $i -lt " + strconv.Itoa(calls) + " ]; do i=$((i+1)); [ -e /x ]; done; true"}, Env: []string{testPath}}
			for b.Loop() {
				if err := w.linux.Run(b.Context(), w.box, p); err != nil {
					b.Fatal(err)
				}
				if w.base == "" {
					w.fresh()
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/calls, "ns/call")
		})
	}
}
