package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// testEnvironment is an environment with these variables, as an ordinary user without a terminal.
func testEnvironment(t *testing.T, vars map[string]string) *environment {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	return &environment{
		stdin: null, stdout: null, stderr: null,
		lookup: func(k string) (string, bool) { v, ok := vars[k]; return v, ok },
		setenv: func(string, string) error { return nil },
		now:    time.Now,
		uid:    1000,
		flags:  globalFlags{isolation: "auto"},
	}
}

func TestRoot(t *testing.T) {
	for _, c := range []struct {
		vars map[string]string
		flag string
		uid  int
		want string
	}{
		{vars: map[string]string{"HOME": "/h"}, uid: 1, want: "/h/.local/share/strake"},
		{vars: map[string]string{"HOME": "/h", "XDG_DATA_HOME": "/d"}, uid: 1, want: "/d/strake"},
		{vars: map[string]string{"HOME": "/h", "XDG_DATA_HOME": "d"}, uid: 1, want: "/h/.local/share/strake"},
		{vars: map[string]string{"HOME": "/h"}, uid: 0, want: "/var/lib/strake"},
		{vars: map[string]string{"STRAKE_ROOT": "/r"}, uid: 0, want: "/r"},
		{vars: map[string]string{"STRAKE_ROOT": "/r"}, flag: "/f", uid: 1, want: "/f"},
		{uid: 1, want: ""},
	} {
		env := testEnvironment(t, c.vars)
		env.uid, env.flags.root = c.uid, c.flag
		got, err := env.root()
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%v %q %d: %q, %v; want %q", c.vars, c.flag, c.uid, got, err, c.want)
		}
	}
}

func TestAuthFiles(t *testing.T) {
	env := testEnvironment(t, map[string]string{"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/1"})
	want := []string{"/h/.docker/config.json", "/run/user/1/containers/auth.json", "/h/.config/containers/auth.json"}
	if got := env.authFiles(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	env.flags.authFile = "/a"
	if got := env.authFiles(); got != nil {
		t.Errorf("got %q with --authfile", got)
	}
	env = testEnvironment(t, map[string]string{"HOME": "/h", "REGISTRY_AUTH_FILE": "/r"})
	if got := env.authFiles(); !slices.Equal(got, []string{"/r"}) {
		t.Errorf("got %q with $REGISTRY_AUTH_FILE", got)
	}
	if f, err := testEnvironment(t, map[string]string{"DOCKER_CONFIG": "/c"}).loginFile(); f != "/c/config.json" || err != nil {
		t.Errorf("login writes %q, %v", f, err)
	}
	if f, err := testEnvironment(t, nil).loginFile(); err == nil {
		t.Errorf("login without a home writes %q", f)
	}
}

func TestInputEndsWithContext(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	env := testEnvironment(t, nil)
	env.stdin = r
	ctx, cancel := context.WithCancelCause(t.Context())
	in := env.input(ctx)
	w.WriteString("some")
	buf := make([]byte, 10)
	if n, err := in.Read(buf); n != 4 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	cancel(errInterrupted)
	if _, err := in.Read(buf); !errors.Is(err, errInterrupted) {
		t.Errorf("a waiting read ends with %v", err)
	}
}

func TestInputWhole(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	env := testEnvironment(t, nil)
	env.stdin = r
	go func() {
		io.Copy(w, strings.NewReader(strings.Repeat("x", 1<<20)))
		w.Close()
	}()
	got, err := io.ReadAll(env.input(t.Context()))
	if len(got) != 1<<20 || err != nil {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func TestInterrupts(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		ctx, stop := (&interrupts{}).start()
		if err := syscall.Kill(os.Getpid(), signal); err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), errInterrupted) {
			t.Errorf("%v: the cause is %v", signal, context.Cause(ctx))
		}
		stop()
	}
}

// A second signal ends the process, but for an echo of the first; so does cleaning up for too long.
func TestSecondInterrupt(t *testing.T) {
	for name, again := range map[string]func(ch chan<- os.Signal){
		"second signal": func(ch chan<- os.Signal) { time.Sleep(echoTime); ch <- os.Interrupt },
		"too long":      func(chan<- os.Signal) { time.Sleep(cleanUpTime) },
	} {
		synctest.Test(t, func(t *testing.T) {
			var codes []int
			i := &interrupts{ch: make(chan os.Signal, 2), stderr: io.Discard, exit: func(code int) { codes = append(codes, code) }}
			_, end := i.heed()
			defer end()
			i.ch <- os.Interrupt
			time.Sleep(echoTime - 1)
			i.ch <- os.Interrupt
			synctest.Wait()
			if len(codes) > 0 {
				t.Fatal("an echo of the first signal ends the process")
			}
			again(i.ch)
			synctest.Wait()
			if !slices.Equal(codes, []int{codeInterrupted}) {
				t.Errorf("%s: the exit codes are %v", name, codes)
			}
		})
	}
}
