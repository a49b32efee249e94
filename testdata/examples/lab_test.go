// Package examples builds real applications with strake, from their bases up, moves
// them through real registries, and reads them with other programs.
//
// "make examples" runs it. It needs the network (packages of Debian, Go and npm) and
// what "make deps" installs; Docker, runc and umoci are tried by root only.
package examples

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lab is what the tests share: programs, folders and registries.
type lab struct {
	strake string
	cache  string // contexts of the bases, kept between runs
	work   string // everything else, removed at the end
	config string // DOCKER_CONFIG, where credentials go
}

func newLab(t *testing.T) *lab {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{strake: os.Getenv("STRAKE"), cache: os.Getenv("STRAKE_EXAMPLES")}
	if l.strake == "" {
		l.strake = filepath.Join(bin, "strake")
	}
	if _, err := os.Stat(l.strake); err != nil {
		t.Fatalf("%v: run \"make examples\", which builds it", err)
	}
	if l.cache == "" {
		l.cache = filepath.Join(bin, "examples")
	}
	if err := os.MkdirAll(l.cache, 0o755); err != nil {
		t.Fatal(err)
	}
	if l.work, err = os.MkdirTemp(l.cache, "work."); err != nil { //nolint:usetesting // on the disk of the examples, and removed with an ordinary user's identities
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, l.work) })
	l.config = l.dir(t, "config")
	return l
}

// dir makes a folder in the work folder.
func (l *lab) dir(t *testing.T, elem ...string) string {
	t.Helper()
	dir := filepath.Join(append([]string{l.work}, elem...)...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// remove deletes dir; what belongs to an ordinary user's subordinate identities is
// deleted from within their namespace.
func remove(t *testing.T, dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		out, err := exec.Command("unshare", "--map-auto", "--map-root-user", "rm", "-rf", dir).CombinedOutput()
		if err != nil {
			t.Errorf("removing %s: %v\n%s", dir, err, out)
		}
		return
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("removing %s: %v", dir, err)
	}
}

// need skips the test if a program is not installed, or fails it where everything has to be there.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			lack(t, fmt.Sprintf("%v: \"make deps\" installs it", err))
		}
	}
}

// needRoot skips the test for an ordinary user, or fails it where everything has to be there.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		lack(t, "needs root")
	}
}

func lack(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// run runs a program that has to succeed and returns its standard output and error together.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	return finish(t, exec.CommandContext(t.Context(), name, args...))
}

func finish(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out.String())
	}
	t.Logf("%.1fs  %s", time.Since(start).Seconds(), strings.Join(cmd.Args, " "))
	return out.String()
}

// exitCode returns the code that cmd.Run or cmd.Wait reported.
func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	t.Fatal(err)
	return -1
}

// server is a program in the background.
type server struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{} // closed when it has ended
	err  error         // of cmd.Wait, once done is closed
}

// start starts cmd; it is stopped at the end of the test, at the latest.
func start(t *testing.T, cmd *exec.Cmd) *server {
	t.Helper()
	s := &server{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &s.out, &s.out
	cmd.WaitDelay = time.Minute
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.done)
		s.err = cmd.Wait()
	}()
	t.Cleanup(func() { s.stop(t, syscall.SIGTERM) })
	return s
}

// patience is how long a program may take for what it does at once where nothing else keeps the machine busy.
const patience = 2 * time.Minute

// stop sends sig and returns the exit code; a program that does not end is killed and fails the test.
func (s *server) stop(t *testing.T, sig os.Signal) int {
	t.Helper()
	_ = s.cmd.Process.Signal(sig) // it may have ended
	select {
	case <-s.done:
	case <-time.After(patience):
		t.Errorf("%s does not end after %v", s.cmd.Path, sig)
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	var exit *exec.ExitError
	if s.err != nil && !errors.As(s.err, &exit) {
		t.Errorf("%s: %v", s.cmd.Path, s.err)
	}
	return s.cmd.ProcessState.ExitCode()
}

// dead fails the test if the server has ended.
func (s *server) dead(t *testing.T) {
	t.Helper()
	select {
	case <-s.done:
		t.Fatalf("%s ended: %v\n%s", strings.Join(s.cmd.Args, " "), s.err, s.out.String())
	default:
	}
}

// get asks url until it answers 200; alive is called in between.
func get(t *testing.T, url string, alive func(*testing.T)) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			body, readErr := io.ReadAll(resp.Body)
			resp.Body.Close()
			if readErr == nil && resp.StatusCode == http.StatusOK {
				return string(body)
			}
			err = errors.Join(errors.New(resp.Status), readErr)
		}
		alive(t)
		select {
		case <-ctx.Done():
			t.Fatalf("no answer from %s: %v", url, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
