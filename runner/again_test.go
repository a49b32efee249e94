package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// idle returns the pid of the only init that waits for a box after one, 0 if there is none.
func (w *world) idle() int {
	w.t.Helper()
	select {
	case s := <-w.linux.free:
		w.linux.free <- s
		return s.process.Pid
	default:
		return 0
	}
}

// An init makes one box after the other, and each is as if it were the first.
func TestInitMakesManyBoxes(t *testing.T) {
	w := newWorld(t)
	const look = "hostname; umask; pwd; cut -d' ' -f 4- /proc/self/mountinfo | sed 's/ - .*//' | sort; ls /proc/self/fd /dev/mqueue /dev/shm /tmp 2>&1; " +
		"sed -n 's/:.*//p' /proc/net/dev | sort; grep -E '^(Cap|Sig[BCI]|Seccomp:|NoNew|Uid|Gid|Groups)' /proc/self/status; touch /dev/mqueue/q /dev/shm/s"
	none := func(s *Sandbox, p *Process) { s.Network, s.Hostname, p.Dir, p.User = NoNetwork, "other", "/bin", "5:6" }
	plain, other := w.must(look), ""
	pid := w.idle()
	if pid == 0 {
		t.Fatal("the init is not kept")
	}
	fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	for i := range 3 {
		out := w.must(look, none)
		if i > 0 && out != other {
			t.Errorf("box %d without network saw\n%s\nthe first one\n%s", i, out, other)
		}
		other = out
		if out := w.must(look); out != plain {
			t.Errorf("box %d saw\n%s\nthe first one\n%s", i, out, plain)
		}
		if _, err := w.sh("exit 3"); exitCode(err) != 3 {
			t.Errorf("exit 3 gave %v", err)
		}
		if now := w.idle(); now != pid {
			t.Fatalf("box %d was made by another init: %d, not %d", i, now, pid)
		}
	}
	if now, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); len(now) != len(fds) {
		t.Errorf("the init has %d descriptors, after its first box it had %d", len(now), len(fds))
	}
	atHome(t, pid)
}

// atHome checks that no thread of the init pid has anything of a box.
func atHome(t *testing.T, pid int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	for _, ns := range []string{"ns/mnt", "ns/ipc", "ns/uts", "ns/net", "ns/cgroup", "ns/pid_for_children", "root"} {
		seen := map[string]bool{}
		for _, task := range tasks {
			if l, err := os.Readlink(filepath.Join(task, ns)); err == nil { // a thread may end
				seen[l] = true
			}
		}
		if len(seen) != 1 {
			t.Errorf("threads of the init have different %s: %v", ns, seen)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil || strings.Contains(string(mounts), "/proc/self/fd") {
		t.Errorf("the init still sees a box: %v\n%s", err, mounts)
	}
}

// An init is the last box's if that could not be made, had more rights, secrets, or another control group; one that has died in the
// meantime is replaced.
func TestInitIsReplaced(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*Sandbox, *Process){
		"no program": func(_ *Sandbox, p *Process) { p.Args = []string{"/nothing"} },
		"bad mount":  func(s *Sandbox, _ *Process) { s.Mounts = []Mount{{Type: Bind, Source: "/nothing", Target: "/x"}} },
		"insecure":   func(s *Sandbox, _ *Process) { s.Insecure = true },
		"limits":     func(s *Sandbox, _ *Process) { s.Limits.Pids = 20 },
		"secrets":    func(s *Sandbox, _ *Process) { s.Secrets = true },
	} {
		w.must("true") // so that the init has made a box already
		if _, err := w.sh("true", change); (name == "no program" || name == "bad mount") != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
		if pid := w.idle(); pid != 0 {
			t.Errorf("%s: the init is kept", name)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	w.must("true")
	pid := w.idle()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, "the end of the init", func() bool { // until it is a zombie of one thread, whose socket is closed
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, fields, _ := strings.Cut(string(stat), ") ")
		f := strings.Fields(fields)
		return len(f) > 17 && f[0] == "Z" && f[17] == "1"
	})
	w.must("true")
	if now := w.idle(); now == pid || now == 0 {
		t.Errorf("after the init %d was killed, the next is %d", pid, now)
	}
}

func exitCode(err error) int {
	var e *ExitError
	if !errors.As(err, &e) {
		return -1
	}
	return e.Code
}
