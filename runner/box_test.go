package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestBoxPrivileges(t *testing.T) {
	w := newWorld(t)
	status := w.must("cat /proc/self/status")
	for _, want := range []string{
		"CapInh:\t0000000000000000", "CapPrm:\t00000000a80425fb", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb",
		"CapAmb:\t0000000000000000", "NoNewPrivs:\t0", "Seccomp:\t2",
	} {
		if !strings.Contains(status, want+"\n") {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	status = w.must("cat /proc/self/status", func(_ *Sandbox, p *Process) { p.User = "33:44" })
	for _, want := range []string{"Uid:\t33\t33\t33\t33", "Gid:\t44\t44\t44\t44", "Groups:\t44", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t00000000a80425fb"} {
		if !strings.Contains(status, want) {
			t.Errorf("as 33:44: no %q in\n%s", want, status)
		}
	}
}

func TestBoxSetuidWorks(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	data, err := os.ReadFile(busybox(t))
	if err != nil {
		t.Fatal(err)
	}
	su := filepath.Join(dir, "su")
	if err := os.WriteFile(su, data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(su, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	out := w.must("id -u; /opt/su root -c 'id -u'", func(s *Sandbox, p *Process) {
		p.User = "x"
		s.Mounts = append(s.Mounts,
			Mount{Type: Bind, Target: "/etc/passwd", Data: []byte("root::0:0::/:/bin/sh\nx:x:5:6::/:/bin/sh\n"), Mode: 0o644},
			Mount{Type: Bind, Target: "/opt", Source: dir})
	})
	if out != "5\n0\n" {
		t.Errorf("su as an ordinary user gave %q", out)
	}
}

// devNames are the names in a step's /dev. A kernel without /proc/kcore gives it no core.
func devNames() []string {
	names := strings.Fields("core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero")
	if _, err := os.Stat("/proc/kcore"); err != nil {
		return names[1:]
	}
	return names
}

func TestBoxSeesNothingElse(t *testing.T) {
	w := newWorld(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	leak, err := os.Open(secret) // a descriptor that strake's own starter might have left open for its children
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	if _, _, e := syscall.Syscall(syscall.SYS_FCNTL, leak.Fd(), syscall.F_SETFD, 0); e != 0 {
		t.Fatal(e)
	}
	for script, want := range map[string]string{
		"ls /proc/self/fd | tr '\\n' ' '":           "0 1 2 3 ", // 3 is the directory that ls reads
		"cat " + secret + " 2>/dev/null || echo no": "no\n",
		"env | sort":                                                      "HOME=/\nPATH=/bin\nPWD=/\nSHLVL=1\n",
		"cat /proc/1/cmdline | tr '\\0' ' '":                              "/bin/sh -c cat /proc/1/cmdline | tr '\\0' ' ' ",
		"grep -c ' /proc proc' /proc/mounts":                              "1\n",
		"echo $$ $PPID; readlink /proc/1/exe; readlink /proc/1/cwd":       "1 0\n/bin/busybox\n/\n",
		"(echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo no":        "no\n",
		"(echo h > /proc/sysrq-trigger) 2>/dev/null || echo no":           "no\n",
		"mkdir /sys/fs/cgroup/memory/x 2>/dev/null || echo no":            "no\n",
		"cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware":       "0\n",
		"mount -t tmpfs x /dev/shm 2>/dev/null || echo no":                "no\n",
		"unshare -U true 2>/dev/null || echo no":                          "no\n",
		"chroot / true && echo yes":                                       "yes\n",
		"hostname; cat /etc/hosts | head -1":                              "boxtest\n127.0.0.1\tlocalhost boxtest\n",
		"umask; df -k /dev/shm | tail -1 | awk '{print $2}'":              "0022\n65536\n",
		"ls /proc | grep -c '^[0-9]'":                                     "3\n", // this shell, ls and grep
		"grep -c -E 'lowerdir(\\+=/proc/self/fd|=[0-9:]+,)' /proc/mounts": "1\n",
		"test -c /dev/null -a -e /dev/fd/0 -a -e /dev/ptmx && ls /dev":    strings.Join(devNames(), "\n") + "\n",
	} {
		out, _ := w.sh(script)
		if strings.HasPrefix(script, "ls /proc |") {
			if n := strings.TrimSpace(out); len(n) != 1 {
				t.Errorf("%s: %s processes are in sight", script, n)
			}
			continue
		}
		if out != want {
			t.Errorf("%s: got %q, want %q", script, out, want)
		}
	}
}

// A step may execute the init's program by /proc/self/exe, but not write it.
func TestBoxCannotWriteStrake(t *testing.T) {
	w := newWorld(t)
	_, err := w.sh("", func(_ *Sandbox, p *Process) { p.Args = []string{"/proc/self/exe", "-test.list", "none"} })
	var start *StartError
	if err != nil && !errors.As(err, &start) {
		var exit *ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
	}
	l := &Linux{}
	if err := l.prepare(); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", l.exe.Fd()), os.O_WRONLY|os.O_TRUNC, 0)
	if !errors.Is(err, syscall.EROFS) {
		f.Close()
		t.Errorf("opening the program for writing gave %v", err)
	}
}

func TestBoxNoNetwork(t *testing.T) {
	w := newWorld(t)
	none := func(s *Sandbox, _ *Process) { s.Network = NoNetwork }
	if out := w.must("ls /sys/class/net; ping -c1 -w1 127.0.0.1 >/dev/null && echo up", none); out != "lo\nup\n" {
		t.Errorf("without a network: %q", out)
	}
	host, err := os.ReadFile("/etc/resolv.conf")
	if err == nil {
		if out := w.must("cat /etc/resolv.conf"); out != string(host) {
			t.Errorf("resolv.conf is %q, the host's %q", out, host)
		}
	}
}

func TestBoxStartErrors(t *testing.T) {
	w := newWorld(t)
	lower := w.box.Root.Lower[0]
	for name, file := range map[string]struct {
		text string
		mode os.FileMode
	}{"plain": {"echo", 0o644}, "noformat": {"\x01\x02", 0o755}, "badinterp": {"#!/nope/sh\n", 0o755}} {
		if err := os.WriteFile(filepath.Join(lower, "bin", name), []byte(file.text), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		arg  string
		code int
		text string
	}{
		{"nosuch", 127, `exec: "nosuch": executable file not found in $PATH`},
		{"/nosuch", 127, `exec: "/nosuch": stat /nosuch: no such file or directory`},
		{"/bin/sh/x", 127, "not a directory"},
		{"plain", 126, `exec: "plain": permission denied`},
		{"/bin", 126, "is a directory"},
		{"noformat", 126, "exec format error"},
		{"badinterp", 126, "no such file or directory"},
	} {
		_, err := w.sh("", func(_ *Sandbox, p *Process) { p.Args = []string{c.arg} })
		var start *StartError
		if !errors.As(err, &start) || start.Code != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.arg, err)
		}
	}
	_, err := w.sh("true", func(_ *Sandbox, p *Process) { p.User = "nobody" })
	if err == nil || !strings.Contains(err.Error(), "unable to find user nobody: no matching entries in passwd file") {
		t.Errorf("an unknown user gave %v", err)
	}
}

func TestBoxSignals(t *testing.T) {
	w := newWorld(t)
	var exit *ExitError
	// The step is pid 1: its own signals do nothing that it did not ask for, a killed child is its business.
	if out := w.must("kill -9 $$; kill -15 $$; kill -19 1; echo here"); out != "here\n" {
		t.Errorf("got %q", out)
	}
	if _, err := w.sh("sh -c 'kill -9 $$'; exit $?"); !errors.As(err, &exit) || exit.Code != 137 || exit.Signal != nil || exit.OOM {
		t.Errorf("a killed child gave %#v", err)
	}
	killed := make(chan os.Signal, 1)
	_, err := w.sh("echo; sleep 321.09"+own(), func(_ *Sandbox, p *Process) {
		p.Signals = killed
		p.Stdout = writerFunc(func([]byte) { killed <- syscall.SIGKILL })
	})
	if !errors.As(err, &exit) || exit.Code != 137 || exit.Signal != syscall.SIGKILL || exit.OOM {
		t.Errorf("SIGKILL gave %#v", err)
	}
	gone(t, "321.09")
	signals := make(chan os.Signal, 1)
	out, err := w.sh("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.01; done", func(_ *Sandbox, p *Process) {
		p.Signals = signals
		p.Stdout = io.MultiWriter(p.Stdout, writerFunc(func(b []byte) {
			if bytes.Contains(b, []byte("ready")) {
				signals <- syscall.SIGUSR1
			}
		}))
	})
	if !errors.As(err, &exit) || exit.Code != 3 || out != "ready\ngot\n" {
		t.Errorf("USR1 gave %q, %v", out, err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

func TestBoxForkedDaemon(t *testing.T) {
	w := newWorld(t)
	start := time.Now()
	w.must("(setsid sleep 654.32" + own() + " &) ; echo done")
	if d := time.Since(start); d > 5*time.Minute {
		t.Errorf("Run waited %v for a daemon", d)
	}
	gone(t, "654.32")
}

func TestBoxCancel(t *testing.T) {
	w := newWorld(t)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	w.fresh()
	p := Process{Args: []string{"/bin/sh", "-c", "sleep 765.43" + own() + " & echo ready; wait"}, Env: []string{testPath}, Stdout: writerFunc(func([]byte) { cancel(cause) })}
	if err := w.linux.Run(ctx, w.box, p); !errors.Is(err, cause) {
		t.Errorf("Run gave %v", err)
	}
	gone(t, "765.43")
	if err := w.linux.Run(ctx, w.box, p); !errors.Is(err, cause) {
		t.Errorf("Run after the end gave %v", err)
	}
}

func TestBoxDiesWithParent(t *testing.T) {
	needRoot(t)
	dir := publicDir(t)
	makeRoot(t, filepath.Join(dir, "lower"))
	c := helperCommand(t, dir, "run", dir, "(setsid sleep 876.54"+own()+" &); echo ready; sleep 876.54"+own())
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
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	gone(t, "876.54")
}

func TestBoxFlood(t *testing.T) {
	w := newWorld(t)
	n := 0
	w.must("dd if=/dev/zero bs=1M count=50 2>/dev/null", func(_ *Sandbox, p *Process) { p.Stdout = writerFunc(func(b []byte) { n += len(b) }) })
	if n != 50<<20 {
		t.Errorf("got %d bytes", n)
	}
	// A writer that fails ends the output, not the process for ever.
	_, err := w.sh("yes", func(_ *Sandbox, p *Process) { p.Stdout = failing{} })
	if err == nil {
		t.Error("a failing writer gave no error")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestBoxStdin(t *testing.T) {
	w := newWorld(t)
	if out := w.must("cat", func(_ *Sandbox, p *Process) { p.Stdin = strings.NewReader("hello") }); out != "hello" {
		t.Errorf("from a reader: %q", out)
	}
	r, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pw.WriteString("piped"); err != nil {
		t.Fatal(err)
	}
	pw.Close()
	if out := w.must("cat", func(_ *Sandbox, p *Process) { p.Stdin = r }); out != "piped" {
		t.Errorf("from a pipe: %q", out)
	}
	r.Close()
	if out := w.must("cat; ls -l /proc/self/fd/0"); !strings.HasSuffix(out, "-> /dev/null\n") {
		t.Errorf("without: %q", out)
	}
}

func TestBoxMounts(t *testing.T) {
	w := newWorld(t)
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "f"), []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	lower := w.box.Root.Lower[0]
	for link, to := range map[string]string{"link": "/deep/er", "out": "../../../../tmp/away"} {
		if err := os.Symlink(to, filepath.Join(lower, link)); err != nil {
			t.Fatal(err)
		}
	}
	mounts := func(s *Sandbox, _ *Process) {
		s.Mounts = []Mount{
			{Type: Bind, Source: src, Target: "/a/b/ro", ReadOnly: true},
			{Type: Bind, Source: src, Target: "/rw"},
			{Type: Bind, Source: filepath.Join(src, "f"), Target: "/rw/sub/file"},
			{Type: Bind, Source: src, Target: "/link/x"},
			{Type: Bind, Source: src, Target: "/out"},
			{Type: Bind, Target: "/run/secrets/s", Data: []byte("hidden"), Mode: 0o400, ReadOnly: true},
			{Type: Tmpfs, Target: "/t", Size: 1 << 20, Mode: 0o700},
		}
	}
	out := w.must("cat /a/b/ro/f /rw/f /rw/sub/file /deep/er/x/f /tmp/away/f /run/secrets/s; stat -c %a /run/secrets/s /t; (echo x > /a/b/ro/f) 2>/dev/null || echo ro; (echo x > /run/secrets/s) 2>/dev/null || echo ro; touch /rw/new; df -k /t | tail -1 | awk '{print $2}'", mounts)
	if out != "hosthosthosthosthosthidden400\n700\nro\nro\n1024\n" {
		t.Errorf("got %q", out)
	}
	if _, err := os.Stat(filepath.Join(src, "new")); err != nil {
		t.Error("a file of a bind is not on the host")
	}
	if err := filepath.WalkDir(w.upper, func(p string, d os.DirEntry, err error) error {
		if p != w.upper && (!d.IsDir() || d.Name() != "tmp" && d.Name() != "deep") {
			t.Errorf("the layer has %s", p)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if entries, err := w.boxes(); err != nil || len(entries) != 0 {
		t.Errorf("left in Dir: %v, %v", entries, err)
	}
	for _, target := range []string{"/", "/proc", "/proc/sys", "/bin/.."} {
		if _, err := w.sh("true", func(s *Sandbox, _ *Process) { s.Mounts = []Mount{{Type: Bind, Source: src, Target: target}} }); err == nil {
			t.Errorf("a mount on %s was taken", target)
		}
	}
}

func TestBoxResolvLink(t *testing.T) {
	w := newWorld(t)
	lower := w.box.Root.Lower[0]
	if err := os.MkdirAll(filepath.Join(lower, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../run/resolve/stub.conf", filepath.Join(lower, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	host, _ := os.ReadFile("/etc/resolv.conf")
	if out := w.must("cat /etc/resolv.conf"); out != string(host) {
		t.Errorf("got %q", out)
	}
	if entries, err := os.ReadDir(w.upper); err != nil || len(entries) != 0 {
		t.Errorf("upper has %v, %v", entries, err)
	}
}

func TestBoxReadOnlyRoot(t *testing.T) {
	w := newWorld(t)
	ro := func(s *Sandbox, _ *Process) { s.ReadOnly = true }
	if out := w.must("touch /x 2>/dev/null || echo ro; touch /dev/shm/x && echo rw", ro); out != "ro\nrw\n" {
		t.Errorf("got %q", out)
	}
	if out := w.must("touch /x 2>/dev/null || echo ro", func(s *Sandbox, _ *Process) { s.Root.Upper, s.Root.Work = "", "" }); out != "ro\n" {
		t.Errorf("without an upper: %q", out)
	}
}

func TestBoxDir(t *testing.T) {
	w := newWorld(t)
	if out := w.must("pwd", func(_ *Sandbox, p *Process) { p.Dir = "/new/dir" }); out != "/new/dir\n" {
		t.Errorf("got %q", out)
	}
	for _, dir := range []string{"/proc/self/fd/3", "/proc/self/fd/5", "/proc/1/cwd", "/proc/self/fd/10"} {
		out, err := w.sh("cd ..; cd ..; ls", func(_ *Sandbox, p *Process) { p.Dir = dir })
		if err == nil && strings.Contains(out, "work") {
			t.Errorf("%s leads to the host: %s", dir, out)
		}
	}
}

func TestManyLayers(t *testing.T) {
	w := newWorld(t)
	base := t.TempDir()
	lower := w.box.Root.Lower
	for i := range 200 {
		dir := filepath.Join(base, strings.Repeat("long", 20), fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		lower = append([]string{dir}, lower...)
	}
	out := w.must("ls / | grep -c '^f'", func(s *Sandbox, _ *Process) { s.Root.Lower = lower })
	if !regexp.MustCompile(`^200\n$`).MatchString(out) {
		t.Errorf("got %q", out)
	}
}

func TestBoxContainer(t *testing.T) {
	w := newWorld(t)
	out := w.must("cat /etc/hostname; cat /etc/hosts; echo x >> /etc/hosts; tail -1 /etc/hosts", func(s *Sandbox, _ *Process) {
		s.Container, s.ExtraHosts = true, []string{"10.0.0.1\tdb"}
	})
	if want := "boxtest\n127.0.0.1\tlocalhost boxtest\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.1\tdb\nx\n"; out != want {
		t.Errorf("got %q", out)
	}
	if entries, err := os.ReadDir(w.upper); err != nil || len(entries) > 1 {
		t.Errorf("upper has %v, %v", entries, err)
	}
	if _, err := os.Stat(filepath.Join(w.upper, "etc/hostname")); err == nil {
		t.Error("upper has /etc/hostname")
	}
}

func TestNewRemovesLeftovers(t *testing.T) {
	dir := t.TempDir()
	own, err := newOwnDir(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	// Its process is dead, although there is one with its id, as after a kill whose victim nobody has waited for.
	dead, other := filepath.Join(dir, fmt.Sprintf("%s%d-x", boxPrefix, os.Getpid())), filepath.Join(dir, "else")
	for _, d := range []string{dead, own.path, other} {
		if err := os.MkdirAll(filepath.Join(d, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left are %v, %v", entries, err)
	}
	own.remove()
	own.remove()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left are %v, %v", entries, err)
	}
}

// An out-of-memory kill is told from another one, where this process's memory cgroup can be seen.
func TestBoxOutOfMemory(t *testing.T) {
	needRoot(t)
	group := fmt.Sprintf("/sys/fs/cgroup/memory/strake-test-%d", os.Getpid())
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skip("no memory cgroup of version 1 to write to:", err)
	}
	t.Cleanup(func() { _ = os.Remove(group) })
	if err := os.WriteFile(filepath.Join(group, "memory.limit_in_bytes"), []byte("96M"), 0); err != nil {
		t.Skip("no memory limit:", err)
	}
	dir := publicDir(t)
	makeRoot(t, filepath.Join(dir, "lower"))
	h := helperCommand(t, dir, "run", dir, "x=0123456789; while :; do x=$x$x; done")
	c := exec.Command("/bin/sh", append([]string{"-c", "echo $$ > " + group + "/cgroup.procs; exec \"$@\"", "sh", h.Path}, h.Args[1:]...)...)
	c.Env, c.Dir = h.Env, "/"
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 137 || !strings.Contains(string(out), "out of memory") {
		t.Errorf("got %v: %s", err, out)
	}
}

// Boxes run at the same time, on one Linux.
func TestBoxesAtOnce(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	errs := make(chan error)
	const n = 12
	for i := range n {
		go func() {
			s := w.box
			s.Root.Upper, s.Root.Work = filepath.Join(dir, fmt.Sprint("u", i)), filepath.Join(dir, fmt.Sprint("w", i))
			if err := errors.Join(os.Mkdir(s.Root.Upper, 0o755), os.Mkdir(s.Root.Work, 0o755)); err != nil {
				errs <- err
				return
			}
			s.Mounts = []Mount{{Type: Bind, Target: "/run/n", Data: []byte(fmt.Sprint(i))}}
			var out bytes.Buffer
			err := w.linux.Run(context.Background(), s, Process{Args: []string{"cat", "/run/n"}, Env: []string{testPath}, Stdout: &out})
			if err == nil && out.String() != fmt.Sprint(i) {
				err = fmt.Errorf("box %d said %q", i, out.String())
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
