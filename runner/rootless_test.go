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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helperVar names, in the environment of a copy of the test program, what that copy does instead of testing.
const helperVar = "STRAKE_TEST_HELPER"

// helperRace is a variable for such copies: else, built with the race detector, each would sleep for a second at its end.
const helperRace = "GORACE=atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	Main()
	if name := os.Getenv(helperVar); name != "" {
		if err := helpers()[name](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "helper:", err)
			var exit *ExitError
			if errors.As(err, &exit) {
				os.Exit(exit.Code)
			}
			os.Exit(99)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helpers are what copies of the test program do.
func helpers() map[string]func(args []string) error {
	return map[string]func([]string) error{"chroot": helpChroot, "shared": helpShared, "rootless": helpRootless, "run": helpRun, "probe": helpProbe, "survey": helpSurvey, "store": helpStore, "serve": helpServe, "attack": helpAttack}
}

// helpProbe prints what Probe finds.
func helpProbe(args []string) error {
	i, err := Choose(Rung(args[0]), nil)
	fmt.Printf("%+v %v\n", i, err)
	return nil
}

// helpSurvey prints what is in the way of each rung.
func helpSurvey([]string) error {
	for _, f := range Survey() {
		fmt.Printf("%s: %v\n", f.Name(), f.Obstacle)
	}
	return nil
}

// helpStore prints what is in the way of a store in args[0].
func helpStore(args []string) error {
	i, err := Choose(Auto, nil)
	if err != nil {
		return err
	}
	o, err := SurveyStore(i, args[0])
	fmt.Printf("%v %v\n", o, err)
	return nil
}

// helpRootless enters a user namespace and runs the script args[1] in a box below the directory args[0].
func helpRootless(args []string) error {
	want := Auto
	if os.Geteuid() == 0 {
		want = Rootless // what it is inside, and what root may ask for
	}
	i, err := Choose(want, nil)
	if err != nil {
		return err
	}
	if err := Enter(i); err != nil {
		return err
	}
	if i, err = Choose(Auto, nil); err != nil {
		return err
	}
	if i.Rung != Rootless || !i.UserNS {
		return fmt.Errorf("inside, Probe found %+v", i)
	}
	return helpBox(i, args)
}

// helpRun runs the script args[1] in a box below args[0].
func helpRun(args []string) error { return helpBox(Isolation{Rung: Root}, args) }

func helpBox(i Isolation, args []string) error {
	lower := filepath.Join(args[0], "lower")
	dir, err := os.MkdirTemp(args[0], "box-")
	if err != nil {
		return err
	}
	for _, d := range []string{"upper", "work", "stubs", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	l := &Linux{Isolation: i, Dir: filepath.Join(dir, "run")}
	defer l.Close()
	s := Sandbox{
		Root: Overlay{
			Lower: []string{lower}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"), UserXattr: i.UserNS,
		},
		Network: HostNetwork, Hostname: "boxtest", Stubs: filepath.Join(dir, "stubs"),
	}
	if i.Rung == Chroot {
		s.Root = Overlay{Upper: filepath.Join(dir, "tree")}
		if err := exec.Command("cp", "-a", lower, s.Root.Upper).Run(); err != nil {
			return err
		}
	}
	ctx := context.Background()
	p := Process{Args: []string{"/bin/sh", "-c", args[1]}, Env: []string{testPath}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	for _, a := range args[2:] {
		if user, ok := strings.CutPrefix(a, "user="); ok {
			p.User = user
			continue
		}
		if groups, ok := strings.CutPrefix(a, "groups="); ok {
			for g := range strings.SplitSeq(groups, ",") {
				n, err := strconv.ParseUint(g, 10, 32)
				if err != nil {
					return err
				}
				p.Groups = append(p.Groups, uint32(n))
			}
			continue
		}
		if a == "mounts" {
			if s.Mounts, err = helpMounts(dir, lower, i.UserNS); err != nil {
				return err
			}
			continue
		}
		if cache, ok := strings.CutPrefix(a, "cache="); ok {
			s.Mounts = append(s.Mounts, Mount{Type: Bind, Target: "/c", Source: cache})
			continue
		}
		if dir, ok := strings.CutPrefix(a, "dir="); ok {
			p.Dir = dir
			continue
		}
		if bind, ok := strings.CutPrefix(a, "bind="); ok { // SOURCE:TARGET, SOURCE in another file system like this one
			source, target, _ := strings.Cut(bind, ":")
			s.Mounts = append(s.Mounts, Mount{Type: Bind, Overlay: &Overlay{Lower: []string{lower}}, Source: source, Target: target, ReadOnly: true})
			continue
		}
		if target, ok := strings.CutPrefix(a, "secret="); ok {
			s.Mounts = append(s.Mounts, Mount{Type: Bind, Target: target, Data: []byte("secret\n"), Mode: 0o444, ReadOnly: true})
			continue
		}
		if inside, ok := strings.CutPrefix(a, "inside="); ok {
			s.Mounts = append(s.Mounts, Mount{Type: Bind, Target: "/c", Source: filepath.Join(args[0], "evil"), Inside: inside})
			continue
		}
		if a == "sharedpid" {
			l.Isolation.SharedPID = true
			continue
		}
		if a == "null" {
			p.Stdin = nil
			continue
		}
		if a == "insecure" {
			s.Insecure = true
			continue
		}
		if pids, ok := strings.CutPrefix(a, "pids="); ok {
			s.Limits.Pids, _ = strconv.ParseInt(pids, 10, 64)
			continue
		}
		if memory, ok := strings.CutPrefix(a, "memory="); ok {
			s.Limits.Memory, _ = strconv.ParseInt(memory, 10, 64)
			continue
		}
		if cpus, ok := strings.CutPrefix(a, "cpus="); ok {
			s.Limits.CPUs, _ = strconv.ParseFloat(cpus, 64)
			continue
		}
		if after, ok := strings.CutPrefix(a, "cancel="); ok {
			d, err := time.ParseDuration(after)
			if err != nil {
				return err
			}
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, d)
			defer cancel()
			continue
		}
		s.Network = Network(a)
	}
	err = l.Run(ctx, s, p)
	// Only inside can the work directory be removed.
	return errors.Join(err, os.RemoveAll(filepath.Join(dir, "work")))
}

// helpMounts are mounts of all kinds.
func helpMounts(dir, lower string, userXattr bool) ([]Mount, error) {
	for _, d := range []string{"work/m/upper", "work/m/work", "cache/sub"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cache/sub/f"), nil, 0o644); err != nil {
		return nil, err
	}
	rw := &Overlay{Lower: []string{lower}, Upper: filepath.Join(dir, "work/m/upper"), Work: filepath.Join(dir, "work/m/work"), UserXattr: userXattr}
	return []Mount{
		{Type: Bind, Target: "/data", Data: []byte("data\n"), Mode: 0o444, UID: 1000, GID: 50},
		{Type: Bind, Overlay: rw, Source: "/", Target: "/rw"},
		{Type: Bind, Overlay: &Overlay{Lower: []string{lower}}, Source: "/", Target: "/ro", ReadOnly: true},
		{Type: Bind, Source: filepath.Join(dir, "cache"), Inside: "/sub", Target: "/c"},
		{Type: Tmpfs, Target: "/t", UID: 1000},
	}, nil
}

// copyTest puts a copy of the test program where everybody can execute it.
func copyTest(t testing.TB, dir string) string {
	t.Helper()
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.CreateTemp(dir, "helper-")
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Chmod(0o755); err != nil {
		t.Fatal(err)
	}
	name := out.Name()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

// helperCommand is a copy of the test program, in dir, that does helper.
func helperCommand(t testing.TB, dir, helper string, args ...string) *exec.Cmd {
	t.Helper()
	program := filepath.Join(dir, "helper")
	if _, err := os.Stat(program); err != nil {
		if err := os.Rename(copyTest(t, dir), program); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(program, args...)
	c.Env = []string{helperVar + "=" + helper, helperRace, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	c.Dir = "/"
	return c
}

// publicDir is a temporary directory that other users can enter.
func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "strake-test-") //nolint:usetesting // the folders of t.TempDir are for their owner only
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// What helpers leave that were killed.
		for _, pattern := range []string{"box-*/run", "data/box-*/run"} {
			boxes, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, b := range boxes {
				if err := Sweep(b); err != nil {
					t.Error(err)
				}
			}
		}
		os.RemoveAll(dir)
	})
	return dir
}

// accounts runs useradd or userdel, again if the tests of another package are at it.
func accounts(t testing.TB, args ...string) {
	t.Helper()
	for try := 0; ; try++ {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err == nil {
			return
		}
		if try == 600 {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// user makes an ordinary user for a test, with or without subordinate ids.
func user(t testing.TB, subordinate bool) *syscall.Credential {
	t.Helper()
	needRoot(t)
	for _, tool := range []string{"newuidmap", "newgidmap", "useradd"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
				t.Fatalf("this test needs %s", tool)
			}
			t.Skipf("this test needs %s", tool)
		}
	}
	name := fmt.Sprintf("strk%d", os.Getpid())
	count := "0"
	if subordinate {
		count = "65536"
	}
	accounts(t, "useradd", "-M", "-K", "SUB_UID_COUNT="+count, "-K", "SUB_GID_COUNT="+count, name)
	t.Cleanup(func() { accounts(t, "userdel", "-f", name) })
	out, err := exec.Command("id", "-u", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(strings.TrimSpace(string(out)))
	out, err = exec.Command("id", "-g", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	gid, _ := strconv.Atoi(strings.TrimSpace(string(out)))
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{uint32(gid)}}
}

// rootless prepares a directory of a user and returns a function that runs a script in a box as that user.
func rootless(t *testing.T) func(script string, args ...string) *exec.Cmd {
	t.Helper()
	return asUser(t, true)
}

// asUser is rootless for a user with or without subordinate ids.
func asUser(t testing.TB, subordinate bool) func(script string, args ...string) *exec.Cmd {
	t.Helper()
	cred := user(t, subordinate)
	dir := publicDir(t)
	data := filepath.Join(dir, "data")
	makeRoot(t, filepath.Join(data, "lower"))
	if err := os.MkdirAll(filepath.Join(data, "lower/etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "lower/etc/passwd"), []byte("app:x:1000:1000::/home/app:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "-hR", fmt.Sprintf("%d:%d", cred.Uid, cred.Gid), data).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v\n%s", err, out)
	}
	return func(script string, args ...string) *exec.Cmd {
		c := helperCommand(t, dir, "rootless", append([]string{data, script}, args...)...)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
		return c
	}
}

func TestRootless(t *testing.T) {
	run := rootless(t)
	for _, c := range []struct{ script, want, arg string }{
		{"id -u; echo $HOME", "0\n/\n", "host"},
		{"touch /x && chown 33:44 /x && stat -c %u:%g /x; rm /x", "33:44\n", "host"},
		{"grep -E 'CapEff|CapBnd|^Seccomp:' /proc/self/status", "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n", "host"},
		{"echo hello > /dev/null && head -c 3 /dev/zero | wc -c; touch /sys/x 2>/dev/null || echo ro", "3\nro\n", "host"},
		{"ip link 2>/dev/null | grep -c '^[0-9]'; ping -c1 -w1 127.0.0.1 >/dev/null && echo up", "1\nup\n", "none"},
		{"id -u; id -g; echo $HOME", "1000\n1000\n/home/app\n", "user=app"},
	} {
		var errs bytes.Buffer
		cmd := run(c.script, c.arg)
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil || string(out) != c.want {
			t.Errorf("%s: got %q, want %q: %v\n%s", c.script, out, c.want, err, errs.String())
		}
	}
}

func TestRootlessCodeAndSignal(t *testing.T) {
	run := rootless(t)
	var exit *exec.ExitError
	if err := run("exit 42").Run(); !errors.As(err, &exit) || exit.ExitCode() != 42 {
		t.Errorf("exit 42 gave %v", err)
	}
	// TERM to the process outside ends the one inside, which takes the box with it.
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		c := run("echo ready; sleep 987.65" + own())
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
		if err := c.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
		gone(t, "987.65")
	}
}

// own ends the arguments by which processes of this run of the tests are known: others may run beside it.
func own() string { return strconv.Itoa(os.Getpid()) }

// gone waits until no process has arg, and what is this run's own, on its command line.
func gone(t *testing.T, arg string) {
	t.Helper()
	noProcess(t, arg+own())
}

// noProcess waits until no process at all has arg on its command line.
func noProcess(t *testing.T, arg string) {
	t.Helper()
	wait(t, "the end of a process with the argument "+arg, func() bool {
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(files, func(f string) bool {
			data, _ := os.ReadFile(f)
			return bytes.Contains(append([]byte{0}, data...), []byte("\x00"+arg+"\x00"))
		})
	})
}

// Root may ask for a user namespace.
func TestRootlessAsRoot(t *testing.T) {
	needRoot(t)
	dir := publicDir(t)
	makeRoot(t, filepath.Join(dir, "lower"))
	out, err := helperCommand(t, dir, "rootless", dir, "id -u; touch /x; chown 33:44 /x; stat -c %u:%g /x; grep CapEff /proc/self/status").CombinedOutput()
	if err != nil || string(out) != "0\n33:44\nCapEff:\t00000000a80425fb\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

// Ctrl-C in a terminal ends the program outside and inside, and the terminal stays usable.
func TestEnterTerminal(t *testing.T) {
	run := rootless(t)
	master, slave := pty(t)
	c := run("trap 'echo one' INT; echo ready; i=0; while [ $i -lt 6000 ]; do i=$((i+1)); sleep 0.05; done; echo end")
	c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
	c.SysProcAttr.Setsid, c.SysProcAttr.Setctty = true, true
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	expect(t, master, "ready")
	// The box has a session of its own: the key reaches strake alone, outside and inside.
	if _, err := master.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("Ctrl-C did not end the program")
	}
}
