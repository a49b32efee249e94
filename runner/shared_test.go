package runner

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sharedWorld is a world without pid namespaces.
func sharedWorld(t testing.TB) *world {
	w := newWorld(t)
	w.linux.Isolation.SharedPID = true
	return w
}

func helpShared(args []string) error { return helpBox(Isolation{Rung: Root, SharedPID: true}, args) }

// sharedHelpers run boxes of all kinds without a pid namespace.
func sharedHelpers() []string { return []string{"shared", "chroot"} }

// withoutPIDNamespace are the kinds of boxes whose init has to find what the step leaves behind.
func withoutPIDNamespace() map[string]func(testing.TB) *world {
	return map[string]func(testing.TB) *world{"shared": sharedWorld, "chroot": chrootWorld}
}

// each runs a test in worlds of all kinds without a pid namespace.
func each(t *testing.T, f func(t *testing.T, w *world)) {
	for name, make := range withoutPIDNamespace() {
		t.Run(name, func(t *testing.T) { f(t, make(t)) })
	}
}

// Daemons of all sorts are dead when Run returns.
func TestSharedDaemons(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for name, script := range map[string]string{
			"background":  "sleep 543.21" + own() + " &",
			"double fork": "(setsid sh -c '(setsid sleep 543.21" + own() + " &) ; sleep 543.21" + own() + "' &) ; sleep 0.05",
			"ignoring":    "(trap '' TERM HUP INT; setsid sh -c \"trap '' TERM HUP; sleep 543.21" + own() + "; sleep 543.21" + own() + "\" &) ; sleep 0.05",
			"other user":  "(setsid su x -c 'sleep 543.21" + own() + "' &) ; sleep 0.1",
			"stopped":     "sleep 543.21" + own() + " & kill -STOP $!",
			"chain":       "f() { sleep 0 & f & exit; }; f & sleep 0.05",
			"forking on":  "f() { sleep 543.21" + own() + " & sleep 0.01; f & }; f; f; sleep 0.05",
		} {
			start := time.Now()
			out, err := w.sh(script, func(s *Sandbox, _ *Process) {
				s.Mounts = append(s.Mounts, Mount{Type: Bind, Target: "/etc/passwd", Data: []byte("root::0:0::/:/bin/sh\nx::5:6::/:/bin/sh\n"), Mode: 0o644})
			})
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
			if d := time.Since(start); d > 5*time.Minute {
				t.Errorf("%s: it took %v", name, d)
			}
			running(t, name, "543.21")
		}
	})
}

// running fails if a process has arg, and what is this run's own, on its command line now.
func running(t *testing.T, name, arg string) {
	t.Helper()
	arg += own()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, _ := os.ReadFile(f)
		if strings.Contains("\x00"+string(data), "\x00"+arg+"\x00") {
			t.Errorf("%s: %s is left: %q", name, f, data)
		}
	}
}

func TestSharedCancel(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.fresh()
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(context.Background())
		p := Process{
			Args: []string{"/bin/sh", "-c", "trap '' TERM; (setsid sleep 432.1" + own() + " &); echo ready; sleep 432.1" + own()}, Env: []string{testPath},
			Stdout: writerFunc(func([]byte) { cancel(cause) }),
		}
		if err := w.linux.Run(ctx, w.box, p); !errors.Is(err, cause) {
			t.Errorf("Run gave %v", err)
		}
		running(t, "cancel", "432.1")
	})
}

// Nothing outlives strake, even if that is killed.
func TestSharedDiesWithParent(t *testing.T) {
	needRoot(t)
	for _, helper := range sharedHelpers() {
		dir := publicDir(t)
		makeRoot(t, filepath.Join(dir, "lower"))
		c := helperCommand(t, dir, helper, dir, "(setsid sleep 321.09"+own()+" &); (setsid sh -c 'while :; do sleep 321.09"+own()+"; done' &); echo ready; sleep 321.09"+own())
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
		gone(t, "321.09")
	}
}

// A step can neither signal nor look into what is not its own. It is tried in a pid namespace apart, since it would kill all that there is.
func TestSharedHarmless(t *testing.T) {
	needRoot(t)
	for _, helper := range sharedHelpers() {
		dir := publicDir(t)
		makeRoot(t, filepath.Join(dir, "lower"))
		script := `
own=$$
for p in $victim $strake $PPID; do
	for s in 0 CONT TERM KILL; do kill -$s $p 2>/dev/null && echo "sent $s to $p"; done
	cat /proc/$p/environ >/dev/null 2>&1 && echo "saw the environment of $p"
	ls /proc/$p/root/ >/dev/null 2>&1 && echo "saw the root of $p"
	ls -l /proc/$p/fd/ 2>/dev/null | grep -e '->' && echo "saw the files of $p"
	renice -n 5 -p $p >/dev/null 2>&1 && echo "reniced $p"
done
(trap '' TERM; kill -TERM -1 2>/dev/null)
sleep 100 & kill -KILL $! && wait $!; echo $?`
		script = strings.ReplaceAll(script, "$strake", "$(awk '{print $4}' /proc/$PPID/stat)")
		c := helperCommand(t, dir, helper, dir, "trap '' TERM; victim=VICTIM; "+script)
		outer := `sleep 210.98` + own() + ` & victim=$!; "$@" "$(printf %s "$script" | sed s/VICTIM/$victim/)"; echo "code $?"; kill $victim && echo alive; wait`
		u := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "/bin/sh", "-c", outer, "sh", c.Path, dir)
		u.Env = append(c.Env, "script="+c.Args[2])
		out, err := u.Output() // the shell reports a killed job at any time
		if err != nil || string(out) != "137\ncode 0\nalive\n" {
			t.Errorf("%s: %v: the script said %q", helper, err, out)
		}
	}
}

func BenchmarkSharedRunTrue(b *testing.B) {
	for name, make := range withoutPIDNamespace() {
		b.Run(name, func(b *testing.B) {
			w := make(b)
			w.fresh()
			for b.Loop() {
				if w.base == "" {
					w.fresh()
				}
				if err := w.linux.Run(context.Background(), w.box, Process{Args: []string{"/bin/true"}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Where the host name cannot be set, a step is told it all the same, whatever else is supervised.
func TestHostnameIsTold(t *testing.T) {
	for name, i := range map[string]Isolation{"alone": {Rung: Root}, "shared": {Rung: Root, SharedPID: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.linux.Isolation = i
			w.linux.Isolation.NoHostname = true
			for _, insecure := range []bool{false, true} {
				got := w.must("hostname; uname -n", func(s *Sandbox, _ *Process) { s.Insecure = insecure })
				if got != "boxtest\nboxtest\n" {
					t.Errorf("insecure %v: got %q", insecure, got)
				}
			}
		})
	}
}
