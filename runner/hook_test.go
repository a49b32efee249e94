package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// host is a hook that is a script of the host's shell; $1 is where it may write. The state is in $state, its bundle in $bundle.
func host(kind HookKind, dir, script string) Hook {
	const read = `state=$(cat); bundle=$(printf %s "$state" | sed 's/.*"bundle":"\([^"]*\)".*/\1/'); root=$bundle/rootfs` + "\n"
	return Hook{Kind: kind, Path: "/bin/sh", Args: []string{"hook", "-e", "-c", read + script, "hook", dir}, Env: []string{"PATH=/bin:/usr/bin:/sbin"}}
}

func TestHooks(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	with := func(hooks ...Hook) func(*Sandbox, *Process) {
		return func(s *Sandbox, p *Process) {
			s.Hooks = hooks
			p.Env = append(p.Env, "HUSH=tell-nobody")
		}
	}
	// What it makes and mounts, the step sees; what is mounted there, it sees.
	out := w.must("cat /etc/made /mnt/mounted; ls /dev/shm", with(
		host(CreateContainer, dir, `test -c $root/dev/null; test -s $root/etc/hosts; touch $root/dev/shm/shared
			mkdir -p $root/mnt $root/etc; echo made >$root/etc/made; mount -t tmpfs none $root/mnt; echo mounted >$root/mnt/mounted`),
		host(CreateContainer, dir, `printf '%s\n' "$state" >$1/state; cp $bundle/config.json $1; env >$1/env; ls $root/mnt >$1/ls`),
	))
	if out != "made\nmounted\nshared\n" {
		t.Errorf("got %q", out)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	for name, want := range map[string]string{"state": `"pid":1`, "config.json": `rootfs","readonly":false`, "env": "PATH=/bin:/usr/bin:/sbin\n", "ls": "mounted\n"} {
		if got := read(name); !strings.Contains(got, want) || strings.Contains(got, "tell-nobody") || strings.Contains(got, "HOME") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), w.linux.Dir) {
		t.Errorf("mounts are left: %v", err)
	}
	if left, err := w.boxes(); err != nil || len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	// The root is the step's: a link in it leads nowhere else for the mounts of a box.
	out = w.must("cat /f", func(s *Sandbox, _ *Process) {
		s.Hooks = []Hook{host(CreateContainer, dir, "true")}
		s.Mounts = append(s.Mounts, Mount{Type: Bind, Target: "/f", Data: []byte("data"), Mode: 0o644})
	})
	if out != "data" {
		t.Errorf("got %q", out)
	}
}

func TestHooksFail(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	stop := host(Poststop, dir, `printf '%s' "$state" >$1/stopped`)
	for want, hook := range map[string]Hook{
		"prestart hook: running hook":                       host(Prestart, dir, "exit 4"),
		"exit status 5: because":                            host(CreateRuntime, dir, "echo because >&2; exit 5"),
		"createContainer hook: running hook":                host(CreateContainer, dir, "exit 6"),
		"running /no/such/hook: fork/exec /no/such/hook":    {Kind: CreateContainer, Path: "/no/such/hook"},
		"it did not end within its timeout of 100ms":        {Kind: CreateRuntime, Path: "/bin/sleep", Args: []string{"sleep", "99"}, Timeout: 100 * time.Millisecond},
		"running sleep 98: it did not end within its timeo": {Kind: CreateContainer, Path: "/bin/sleep", Args: []string{"sleep", "98"}, Timeout: 100 * time.Millisecond},
	} {
		out, err := w.sh("echo started", func(s *Sandbox, _ *Process) { s.Hooks = []Hook{stop, hook} })
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(out, "started") {
			t.Errorf("%s: %v, %q", want, err, out)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "stopped")); err != nil || strings.Contains(string(got), "pid") || !strings.Contains(string(got), "stopped") {
			t.Errorf("%s: poststop was not run: %s, %v", want, got, err)
		}
		os.Remove(filepath.Join(dir, "stopped"))
	}
	// What fails later changes nothing.
	out, err := w.sh("sleep 0.2; echo started; exit 9", func(s *Sandbox, _ *Process) {
		s.Hooks = []Hook{host(Poststart, dir, "exit 4"), host(Poststart, dir, "touch $1/second"), host(Poststop, dir, "exit 5")}
	})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 9 || !strings.HasPrefix(out, "started\nwarning: poststart hook: ") || !strings.Contains(out, "poststop hook: ") {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "second")); err != nil {
		t.Error(err)
	}
	// Who is waiting for a hook can be cancelled.
	cause := errors.New("enough")
	for _, kind := range []HookKind{CreateRuntime, CreateContainer} {
		w.fresh()
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() {
			s := w.box
			s.Hooks = []Hook{host(kind, dir, "echo >$1/"+string(kind)+"; exec sleep 97")}
			done <- w.linux.Run(ctx, s, Process{Args: []string{"/bin/true"}, Env: []string{testPath}})
		}()
		wait(t, "the hook to begin", func() bool {
			_, err := os.Stat(filepath.Join(dir, string(kind)))
			return err == nil
		})
		cancel(cause)
		if err := <-done; !errors.Is(err, cause) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if left, err := w.boxes(); err != nil || len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	_, err = chrootWorld(t).sh("true", func(s *Sandbox, _ *Process) { s.Hooks = []Hook{stop} })
	if err == nil || !strings.Contains(err.Error(), "isolation chroot: a device with hooks needs a mount namespace") {
		t.Errorf("by chroot: %v", err)
	}
}

func TestGroups(t *testing.T) {
	w := newWorld(t)
	if out := w.must("id -G", func(_ *Sandbox, p *Process) { p.Groups, p.User = []uint32{44, 109}, "7:8" }); out != "8 44 109\n" {
		t.Errorf("got %q", out)
	}
	run := rootless(t)
	out, err := run("id -G", "groups=44,109").CombinedOutput()
	if err != nil || string(out) != "0 44 109\n" {
		t.Errorf("in a user namespace: %q, %v", out, err)
	}
	out, err = run("id -G", fmt.Sprintf("groups=%d", 1<<20)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "supplementary group 1048576: it is not in this user namespace") {
		t.Errorf("in a user namespace: %q, %v", out, err)
	}
}
