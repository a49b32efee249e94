package runner

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBoxInsecure(t *testing.T) {
	w := newWorld(t)
	script := `mkdir -p /m && mount -t tmpfs none /m 2>/dev/null && echo mounted || echo refused
		grep -E '^(CapEff|Seccomp):' /proc/self/status
		grep -c ' /proc/sys ' /proc/mounts
		awk '$2 == "/sys" {print substr($4, 1, 2)}' /proc/mounts; ls /dev | wc -l; test -e /dev/zero && echo zero`
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, caps, _ := strings.Cut(string(status), "CapEff:\t")
	caps, _, _ = strings.Cut(caps, "\n")
	out := w.must(script, func(s *Sandbox, _ *Process) { s.Insecure = true })
	if want := "mounted\nCapEff:\t" + caps + "\nSeccomp:\t0\n0\nrw\n"; !strings.HasPrefix(out, want) || !strings.HasSuffix(out, "\nzero\n") {
		t.Errorf("got %q, want %q", out, want)
	}
	out = w.must(script)
	if want := fmt.Sprintf("refused\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n1\nro\n%d\nzero\n", len(devNames())); out != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

func TestRootlessInsecure(t *testing.T) {
	run := rootless(t)
	out, err := run("mkdir /m && mount -t tmpfs none /m && echo mounted; grep Seccomp: /proc/self/status; ls /dev/null", "insecure").CombinedOutput()
	if want := "mounted\nSeccomp:\t0\n/dev/null\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestBoxShmAndUlimits(t *testing.T) {
	w := newWorld(t)
	out := w.must("df -k /dev/shm | tail -1 | awk '{print $2}'; ulimit -Sn; ulimit -Hn; ulimit -Sc", func(s *Sandbox, _ *Process) {
		s.ShmSize, s.Ulimits = 1<<20, []Ulimit{{"nofile", 100, 200}, {"core", -1, -1}}
	})
	if out != "1024\n100\n200\nunlimited\n" {
		t.Errorf("got %q", out)
	}
	_, err := w.sh("true", func(s *Sandbox, _ *Process) { s.Ulimits = []Ulimit{{"nofile", -1, -1}} }) // more than anybody may have
	if err == nil || !strings.Contains(err.Error(), "fs.nr_open") {
		t.Errorf("too many files gave %v", err)
	}
	for _, u := range []Ulimit{{"what", 1, 1}, {"nofile", 5, 4}, {"nofile", -2, 4}, {"nofile", -1, 4}} {
		if _, err := w.sh("true", func(s *Sandbox, _ *Process) { s.Ulimits = []Ulimit{u} }); err == nil {
			t.Errorf("%+v gave no error", u)
		}
	}
}

// groups counts the control groups of boxes of this process.
func groups(t *testing.T) int {
	t.Helper()
	n, prefix := 0, fmt.Sprintf("strake-box-%d-", os.Getpid())
	_ = filepath.WalkDir("/sys/fs/cgroup", func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), prefix) && !strings.Contains(d.Name(), guardName) {
			n++
		}
		return nil // groups come and go
	})
	return n
}

// limited makes a world and skips the test where no limits can be set.
func limited(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	if _, err := w.sh("true", func(s *Sandbox, _ *Process) { s.Limits.Pids = 100; s.Limits.Memory = 64 << 20 }); err != nil {
		t.Skipf("no limits can be set on this machine: %v", err)
	}
	return w
}

func TestBoxLimits(t *testing.T) {
	w := limited(t)
	out := w.must(`cat /proc/self/cgroup | grep -v ':/$' | wc -l
		for f in memory/memory.limit_in_bytes memory.max pids/pids.max pids.max cpu/cpu.cfs_quota_us cpu.max; do test -e /sys/fs/cgroup/$f && cat /sys/fs/cgroup/$f; done; true`,
		func(s *Sandbox, _ *Process) {
			s.Limits = Limits{Memory: 64 << 20, Pids: 50, CPUs: 0.5}
		})
	if out != "0\n67108864\n50\n50000\n" && out != "0\n67108864\n50\n50000 100000\n" {
		t.Errorf("got %q", out)
	}
	if n := groups(t); n != 0 {
		t.Errorf("%d control groups are left", n)
	}
	w.upperEmpty()
}

func TestBoxMemoryLimit(t *testing.T) {
	w := limited(t)
	var exit *ExitError
	_, err := w.sh("head -c 200000000 /dev/zero | tail -c 200000000 > /dev/null; exit $?", func(s *Sandbox, _ *Process) {
		s.Limits = Limits{Memory: 32 << 20}
	})
	if !errors.As(err, &exit) || exit.Code != 137 || !exit.OOM {
		t.Errorf("too much memory gave %v", err)
	}
	// The step itself, pid 1 of its namespace, is killed as well.
	_, err = w.sh("", func(s *Sandbox, p *Process) {
		s.Limits = Limits{Memory: 32 << 20}
		p.Args = []string{"/bin/tail", "-c", "200000000", "/dev/zero"}
	})
	if !errors.As(err, &exit) || exit.Code != 137 || exit.Signal != syscall.SIGKILL || !exit.OOM {
		t.Errorf("too much memory gave %v", err)
	}
	// A process that only reports that its child was killed.
	_, err = w.sh("tail -c 200000000 /dev/zero || exit 3", func(s *Sandbox, _ *Process) {
		s.Limits = Limits{Memory: 32 << 20}
	})
	if !errors.As(err, &exit) || exit.Code != 3 || !exit.OOM {
		t.Errorf("a child with too much memory gave %v", err)
	}
	_, err = w.sh("exit 3", func(s *Sandbox, _ *Process) {
		s.Limits = Limits{Memory: 32 << 20}
	})
	if !errors.As(err, &exit) || exit.Code != 3 || exit.OOM {
		t.Errorf("enough memory gave %v", err)
	}
	if n := groups(t); n != 0 {
		t.Errorf("%d control groups are left", n)
	}
}

// A group that the step makes below its own has a limit as well: what is killed there counts.
func TestBoxMemoryLimitBelow(t *testing.T) {
	w := limited(t)
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
		t.Skip("on version 2 the init of the box, which is in its group, keeps those below from having limits")
	}
	var exit *ExitError
	_, err := w.sh(`d=/sys/fs/cgroup/memory
		mkdir $d/below && echo 16777216 > $d/below/memory.limit_in_bytes && echo 0 > $d/below/cgroup.procs || exit 9
		tail -c 100000000 /dev/zero || exit 3`, func(s *Sandbox, _ *Process) {
		s.Insecure, s.Limits = true, Limits{Memory: 64 << 20}
	})
	if !errors.As(err, &exit) || exit.Code != 3 || !exit.OOM {
		t.Errorf("too much memory below gave %v", err)
	}
	if n := groups(t); n != 0 {
		t.Errorf("%d control groups are left", n)
	}
}

// A strake that is killed leaves its control groups to the next one.
func TestBoxLimitsSwept(t *testing.T) {
	limited(t)
	dir := publicDir(t)
	makeRoot(t, filepath.Join(dir, "lower"))
	c := helperCommand(t, dir, "run", dir, "echo ready; sleep 987.65"+own(), "pids=50")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	pattern := fmt.Sprintf("/sys/fs/cgroup/*/strake-box-%d-*", c.Process.Pid)
	before, _ := filepath.Glob(pattern)
	_ = c.Process.Kill()
	_ = c.Wait()
	gone(t, "987.65")
	if len(before) == 0 {
		pattern = fmt.Sprintf("/sys/fs/cgroup/strake/strake-box-%d-*", c.Process.Pid)
	}
	runs, err := filepath.Glob(filepath.Join(dir, "box-*/run"))
	if err != nil || len(runs) != 1 {
		t.Fatalf("%v, %v", runs, err)
	}
	wait(t, "the end of groups and folders", func() bool {
		if err := Sweep(runs[0]); err != nil {
			t.Fatal(err)
		}
		after, _ := filepath.Glob(pattern)
		entries, _ := os.ReadDir(runs[0])
		return len(after) == 0 && len(entries) == 0
	})
}

// A user to whom nothing is delegated gets an error, not a box without limits.
func TestRootlessLimits(t *testing.T) {
	run := rootless(t)
	out, err := run("echo ran", "pids=50").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "limits need the right to make control groups") || strings.Contains(string(out), "ran\n") {
		t.Errorf("got %q, %v", out, err)
	}
}

// A user to whom a group of version 2 is delegated gets limits there, though neither the root of the groups nor what is above is his, and
// what strake makes there goes again.
func TestRootlessLimitsDelegated(t *testing.T) {
	const root = "/sys/fs/cgroup"
	var st syscall.Statfs_t
	if err := syscall.Statfs(root, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Skip("this machine has no control groups of version 2 alone")
	}
	run := rootless(t)
	group := filepath.Join(root, fmt.Sprintf("delegated-%d", os.Getpid()), "scope")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Dir(group), 0o755))
	t.Cleanup(func() {
		if err := os.Remove(filepath.Dir(group)); err != nil {
			t.Error(err)
		}
	})
	for _, above := range []string{root, filepath.Dir(group)} {
		must(os.WriteFile(filepath.Join(above, "cgroup.subtree_control"), []byte("+memory +pids"), 0))
	}
	into := func(c *exec.Cmd) *exec.Cmd {
		must(os.Mkdir(group, 0o755))
		for _, f := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
			must(os.Chown(filepath.Join(group, f), int(c.SysProcAttr.Credential.Uid), -1))
		}
		fd, err := os.Open(group)
		must(err)
		t.Cleanup(func() { fd.Close() })
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(fd.Fd())
		return c
	}
	remove := func() { // as systemd does at the end of a scope
		t.Helper()
		_ = os.Remove(filepath.Join(group, "strake-self"))
		must(os.Remove(group))
	}
	script := `(for i in $(seq 60); do sleep 100 & done) 2> /dev/null || echo full; tail -c 200000000 /dev/zero 2> /dev/null || exit 3`
	out, err := into(run(script, "pids=50", "memory=33554432")).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || string(out) != "full\nhelper: exit code: 3: out of memory\n" {
		t.Errorf("got %q, %v", out, err)
	}
	left, err := filepath.Glob(filepath.Join(group, "strake-box-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	remove()
	// A controller that was not delegated.
	out, err = into(run("echo ran", "cpus=1")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the cpu controller does not reach the control group "+group+" (its controllers: memory pids)") {
		t.Errorf("got %q, %v", out, err)
	}
	remove()
}

// The init is a Go program, whose start changes the limit of open files: the step must not see that.
func TestBoxOpenFiles(t *testing.T) {
	w := newWorld(t)
	want, err := exec.Command("/bin/sh", "-c", "ulimit -Sn; ulimit -Hn").Output()
	if err != nil {
		t.Fatal(err)
	}
	if out := w.must("ulimit -Sn; ulimit -Hn"); out != string(want) {
		t.Errorf("the limits of open files are %q, want %q", out, want)
	}
}
