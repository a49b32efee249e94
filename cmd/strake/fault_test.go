package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/strake-build/strake/layer/registry/registrytest"
)

// faultDockerfile has what can be interrupted: a large COPY, parallel stages, RUNs that write and fork. Nothing else on the machine sleeps as long as SLEEP.
const faultDockerfile = `FROM scratch AS base
COPY busybox /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
FROM base AS one
COPY many /many
RUN for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of=/f$i bs=64k count=8 2>/dev/null; done; sleep 0.05
FROM base AS two
RUN (sleep SLEEP & sleep SLEEP &) ; mkdir /d && for i in 1 2 3 4 5 6 7 8 9; do echo $i > /d/$i; sleep 0.01; done
FROM base
COPY --from=one /many /many
COPY --from=two /d /d
RUN rm -r /many/1 && cat /d/* > /sum
`

// faults is a store and a context to interrupt builds in.
type faults struct {
	t              *testing.T
	context, store string
	sleep          string // how long the steps' processes would, if they were left
}

func newFaults(t *testing.T) *faults {
	t.Helper()
	if ok, _ := condition("root"); !ok {
		if required() {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		if required() {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	f := &faults{t: t, context: t.TempDir(), store: filepath.Join(t.TempDir(), "store"), sleep: fmt.Sprintf("86413.%d", os.Getpid())}
	program, err := os.ReadFile(busybox)
	f.must(err)
	f.must(os.WriteFile(filepath.Join(f.context, "busybox"), program, 0o755))
	f.must(os.WriteFile(filepath.Join(f.context, "Dockerfile"), []byte(strings.ReplaceAll(faultDockerfile, "SLEEP", f.sleep)), 0o644))
	for i := range 300 {
		dir := filepath.Join(f.context, "many", fmt.Sprint(i%10))
		f.must(os.MkdirAll(dir, 0o755))
		f.must(os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), bytes.Repeat([]byte{byte(i)}, i*20), 0o644))
	}
	return f
}

func (f *faults) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *faults) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	path, err := exec.LookPath("strake")
	f.must(err)
	cmd := exec.Command(path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "STRAKE_ROOT="+f.store)
	cmd.WaitDelay = time.Minute
	return cmd, &out
}

func (f *faults) run(args ...string) string {
	f.t.Helper()
	cmd, out := f.command(args...)
	if err := cmd.Run(); err != nil {
		f.t.Fatalf("strake %q: %v\n%s", args, err, out)
	}
	return out.String()
}

// interrupted runs a build with --no-cache every other time, and sends it signal after a random while.
func (f *faults) interrupted(signal syscall.Signal, i int) (code int, output string) {
	f.t.Helper()
	args := []string{"build", "-q", "-t", "app", f.context}
	if i%2 == 0 {
		args = append(args, "--no-cache")
	}
	return f.signaled(signal, 400*time.Millisecond, args...)
}

// signaled runs a command and sends it signal after a random while, at most that long.
func (f *faults) signaled(signal syscall.Signal, within time.Duration, args ...string) (code int, output string) {
	f.t.Helper()
	cmd, out := f.command(args...)
	f.must(cmd.Start())
	time.Sleep(rand.N(within))
	_ = cmd.Process.Signal(signal)
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		f.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// checkNothingIsLeft waits for processes of a step and for mounts to go, which the kernel may take a while for after a kill.
func (f *faults) checkNothingIsLeft() {
	f.t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		left := f.leftovers()
		if left == "" {
			return
		}
		if time.Now().After(until) {
			f.t.Errorf("left behind: %s", left)
			return
		}
	}
}

func (f *faults) leftovers() string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	f.must(err)
	if strings.Contains(string(mounts), f.store) {
		return "a mount"
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	f.must(err)
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		if text := strings.ReplaceAll(string(line), "\x00", " "); strings.Contains(text, "sleep "+f.sleep) || strings.Contains(text, f.context) {
			return p + ": " + text
		}
	}
	return ""
}

// check builds once more, to the end, and looks at what came of it.
func (f *faults) check() {
	f.t.Helper()
	f.run("build", "-t", "app", f.context)
	got := f.run("run", "app", "/bin/sh", "-c", "cat /sum; ls /many; md5sum < /many/9/299")
	want := "1\n2\n3\n4\n5\n6\n7\n8\n9\n0\n2\n3\n4\n5\n6\n7\n8\n9\n" + f.md5()
	if got != want {
		f.t.Errorf("the image holds %q, want %q", got, want)
	}
}

func (f *faults) md5() string {
	cmd := exec.Command("md5sum")
	cmd.Stdin = bytes.NewReader(bytes.Repeat([]byte{byte(299 % 256)}, 299*20))
	out, err := cmd.Output()
	f.must(err)
	return string(out)
}

// moments says how many random moments to kill at, and for how long to go on: STRAKE_FAULTS of them, however long it
// takes, or 200 in a minute.
func moments(t *testing.T) (n int, until time.Time) {
	t.Helper()
	value := os.Getenv("STRAKE_FAULTS")
	if value == "" {
		return 200, time.Now().Add(time.Minute)
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatal(err)
	}
	return n, time.Now().Add(24 * time.Hour)
}

// TestKilledAtAnyMomentTheNextBuildWorks kills builds beside others, and what prunes and checks the store between them.
func TestKilledAtAnyMomentTheNextBuildWorks(t *testing.T) {
	f := newFaults(t)
	n, until := moments(t)
	killed := 0
	for round := 0; killed < n && time.Now().Before(until); round++ {
		killed += f.killBesideABuild(min(n-killed, 12))
		for _, args := range [][]string{{"prune", "-f"}, {"prune", "-fa"}, {"fsck", "--repair"}, {"du"}, {"rmi", "-f", "app"}} {
			if killed < n {
				f.signaled(syscall.SIGKILL, 60*time.Millisecond, args...)
				killed++
			}
		}
		if round%3 == 2 {
			f.check()
		}
	}
	t.Logf("killed %d commands", killed)
	f.check()
	f.checkNothingIsLeft()
	f.run("fsck") // which removes what killed commands left, now that all their processes have ended
	checkStoreIsTidy(t, f.store)
}

// killBesideABuild kills n builds, two at once, while others beside them run to their ends.
func (f *faults) killBesideABuild(n int) int {
	f.t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			args := []string{"build", "-q", "-t", fmt.Sprintf("beside%d", i%2), f.context}
			if i%3 == 0 {
				args = append(args, "--no-cache")
			}
			cmd, out := f.command(args...)
			stuck := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
			err := cmd.Run()
			stuck.Stop()
			if err != nil {
				f.t.Errorf("the build beside those that were killed: %v\n%s", err, out)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for i := 0; i < n; i += 2 {
		var two sync.WaitGroup
		for j := i; j < min(i+2, n); j++ {
			two.Go(func() { f.interrupted(syscall.SIGKILL, j) })
		}
		two.Wait()
	}
	close(done)
	wg.Wait()
	return n
}

// prunedDockerfile shares a step between images, has one for each, and a file that differs with N.
const prunedDockerfile = `FROM scratch AS base
COPY busybox /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
FROM base AS shared
COPY many /many
FROM shared
ARG N
RUN --mount=type=cache,target=/cache echo $N > /cache/n && cat /cache/n > /n
RUN cat /n /many/9/299 | md5sum > /sum
`

// TestPruneBesideBuildsAndRuns builds and runs images, some of the commands killed, while others prune all the time.
func TestPruneBesideBuildsAndRuns(t *testing.T) {
	f := newFaults(t)
	f.must(os.WriteFile(filepath.Join(f.context, "Dockerfile"), []byte(prunedDockerfile), 0o644))
	build := func(n int) []string {
		return []string{"build", "-q", "--cache-max-size", "100k", "--build-arg", fmt.Sprint("N=", n), "-t", fmt.Sprint("pruned", n), f.context}
	}
	f.run(build(0)...)
	// It runs all the time, and its image loses its name to others.
	server, out := f.command("run", "--name", "server", "pruned0", "/bin/sh", "-c", "while read line; do cat /n /sum; done")
	input, err := server.StdinPipe()
	f.must(err)
	server.Args = slices.Insert(server.Args, 2, "-i")
	f.must(server.Start())
	end := time.Now().Add(10 * time.Second)
	var wg sync.WaitGroup
	work := func(do func(i int)) {
		wg.Go(func() {
			for i := 0; time.Now().Before(end) && !t.Failed(); i++ {
				do(i)
			}
		})
	}
	for w := range 2 {
		work(func(i int) {
			n := w*2 + i%2
			f.try(build(n)...)
			if got := f.try("run", fmt.Sprint("pruned", n), "/bin/cat", "/n"); got != fmt.Sprintln(n) {
				t.Errorf("image %d holds %q", n, got)
			}
		})
	}
	work(func(i int) { f.signaled(syscall.SIGKILL, 300*time.Millisecond, build(5)...) })
	work(func(i int) { f.signaled(syscall.SIGKILL, 100*time.Millisecond, "prune", "-fa") })
	work(func(i int) {
		f.try([][]string{{"prune", "-f"}, {"prune", "-fa"}, {"fsck", "--repair"}, {"du"}}[i%4]...)
	})
	wg.Wait()
	f.must(func() error { _, err := fmt.Fprintln(input, "more"); return errors.Join(err, input.Close()) }())
	if err := server.Wait(); err != nil || !strings.HasPrefix(out.String(), "0\n") {
		t.Errorf("the container that ran meanwhile: %v\n%s", err, out)
	}
	f.run("fsck")
	f.run("prune", "-f")
	if text := f.run("du"); strings.Contains(text, "cache layers") {
		t.Errorf("not all is pruned that nobody needs:\n%s", text)
	}
	f.run(build(1)...)
	f.checkNothingIsLeft()
	f.run("prune", "-f") // which removes what killed commands left, now that all their processes have ended
	checkStoreIsTidy(t, f.store)
}

// try is run for other goroutines than the test's.
func (f *faults) try(args ...string) string {
	cmd, out := f.command(args...)
	if err := cmd.Run(); err != nil {
		f.t.Errorf("strake %q: %v\n%s", args, err, out)
	}
	return out.String()
}

func TestInterruptedAtAnyMoment(t *testing.T) {
	f := newFaults(t)
	for i := range 15 {
		code, out := f.interrupted(syscall.SIGINT, i)
		// 0: it was faster than the signal; -1: it came before strake could catch it.
		if code != 130 && code != 0 && code != -1 {
			t.Errorf("exit code %d:\n%s", code, out)
		}
		f.checkNothingIsLeft()
		checkStoreIsTidy(t, f.store)
	}
	f.check()
}

// TestTransfersInterruptedAtAnyMoment interrupts what moves images, and wants files and the store that images come to as they were.
func TestTransfersInterruptedAtAnyMoment(t *testing.T) {
	f := newFaults(t)
	f.run("build", "-t", "app", f.context)
	image := registrytest.Start(t, registrytest.Config{}).Host + "/app:1"
	f.run("tag", "app", image)
	f.run("push", image)
	archive, out, other := filepath.Join(t.TempDir(), "app.tar"), t.TempDir(), filepath.Join(t.TempDir(), "other")
	f.run("save", "-o", archive, image)
	for i := range 10 {
		for _, args := range [][]string{
			{"save", "-o", filepath.Join(out, "app.tar"), "app"},
			{"push", image},
			{"--root", other, "load", "-i", archive},
			{"--root", other, "pull", image},
		} {
			code, text := f.signaled(syscall.SIGINT, time.Duration(i+1)*15*time.Millisecond, args...)
			if code != 130 && code != 0 && code != -1 {
				t.Errorf("%q: exit code %d:\n%s", args, code, text)
			}
			f.checkNothingIsLeft()
			checkStoreIsTidy(t, f.store)
			checkStoreIsTidy(t, other)
			f.checkWhole(other, image, code)
			for _, name := range dirNames(t, out) {
				if name != "app.tar" || code == 130 {
					t.Errorf("%q, exit code %d, left %s", args, code, name)
				}
				f.must(os.Remove(filepath.Join(out, name)))
			}
		}
	}
	f.run("--root", other, "pull", image)
	f.checkWhole(other, image, 0)
}

// checkWhole fails unless the store root holds the whole image or, after an interrupt, nothing of it, and empties it.
func (f *faults) checkWhole(root, image string, code int) {
	f.t.Helper()
	if _, err := os.Stat(root); err != nil {
		return // the command did not come so far
	}
	if f.run("--root", root, "images", "-q") != "" {
		if code == 130 {
			f.t.Errorf("an interrupted command left its image")
		}
		f.run("--root", root, "fsck")
		if got := f.run("--root", root, "run", "--pull=never", image, "cat", "/sum"); got == "" {
			f.t.Errorf("the image is not whole")
		}
		f.run("--root", root, "rmi", image)
	}
	for _, dir := range []string{"blobs/sha256", "layers/diffid"} {
		if left := dirNames(f.t, filepath.Join(root, dir)); len(left) > 0 {
			f.t.Errorf("exit code %d: without an image, %s has %q", code, dir, left)
		}
	}
}

// dirNames lists what is in a directory, which need not be there.
func dirNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// checkStoreIsTidy fails if a store has temporary files of commands that ended.
func checkStoreIsTidy(t *testing.T, store string) {
	t.Helper()
	for _, dir := range []string{"tmp", "layers/tmp", "blobs/tmp", "cache/tmp", "run"} {
		entries, err := os.ReadDir(filepath.Join(store, dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				t.Errorf("left in the store: %s", filepath.Join(dir, e.Name()))
			}
		}
	}
}
