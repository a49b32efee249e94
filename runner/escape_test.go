package runner

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/sandbox"
)

// attacked is a way to run boxes that the tests of escapes attack.
type attacked struct {
	dir string // what the boxes are made below; lower in it is their root
	run func(script string, args ...string) *exec.Cmd
}

// isolations are all ways to run boxes.
func isolations() map[string]func(*testing.T) attacked {
	asRoot := func(helper string) func(*testing.T) attacked {
		return func(t *testing.T) attacked {
			needRoot(t)
			dir := publicDir(t)
			makeRoot(t, filepath.Join(dir, "lower"))
			return attacked{dir, func(script string, args ...string) *exec.Cmd {
				return helperCommand(t, dir, helper, append([]string{dir, script}, args...)...)
			}}
		}
	}
	user := func(subordinate bool) func(*testing.T) attacked {
		return func(t *testing.T) attacked {
			run := asUser(t, subordinate)
			return attacked{run("").Args[1], run}
		}
	}
	return map[string]func(*testing.T) attacked{
		"root": asRoot("run"), "shared": asRoot("shared"), "chroot": asRoot("chroot"), "rootless": user(true), "one id": user(false),
		"self-mapped": asRoot("rootless"),
	}
}

// eachIsolation runs a test on all of them.
func eachIsolation(t *testing.T, f func(t *testing.T, a attacked)) {
	for name, prepare := range isolations() {
		t.Run(name, func(t *testing.T) { f(t, prepare(t)) })
	}
}

// program puts the test program into the root, as /bin/attack, with the libraries that it may need: it has some if it was built with cgo.
func (a attacked) program(t *testing.T) {
	t.Helper()
	lower := filepath.Join(a.dir, "lower")
	attack := filepath.Join(lower, "bin/attack")
	if err := os.Rename(copyTest(t, filepath.Join(lower, "bin")), attack); err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(attack)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	if interp := f.Section(".interp"); interp != nil {
		data, err := interp.Data()
		if err != nil {
			t.Fatal(err)
		}
		libs = append(libs, strings.TrimRight(string(data), "\x00"))
	}
	for _, lib := range libs {
		for _, from := range []string{lib, "/lib/" + lib, "/lib64/" + lib, "/lib/x86_64-linux-gnu/" + lib, "/lib/aarch64-linux-gnu/" + lib} {
			to := filepath.Join(lower, from)
			if _, err := os.Stat(from); err != nil || !filepath.IsAbs(from) {
				continue
			}
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("cp", "-L", from, to).CombinedOutput(); err != nil {
				t.Fatalf("cp: %v\n%s", err, out)
			}
			break
		}
	}
}

// asAttack begins a script that executes the test program in a box.
const asAttack = "export " + helperVar + "=attack " + helperRace

// fails runs an attack and reports what it could do.
func (a attacked) fails(t *testing.T, script string, args ...string) {
	t.Helper()
	a.start(t, script, args).report(t)
}

// tried is an attack under way.
type tried struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	errs bytes.Buffer
}

func (a attacked) start(t *testing.T, script string, args []string) *tried {
	t.Helper()
	r := &tried{cmd: a.run(asAttack+"\n"+script, args...)}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.errs
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *tried) report(t *testing.T) {
	t.Helper()
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("the attack gave %v: %s", err, r.errs.String())
	}
	for line := range strings.Lines(r.out.String()) {
		t.Error(strings.TrimSpace(line))
	}
}

func TestEscapeCalls(t *testing.T) {
	eachIsolation(t, func(t *testing.T, a attacked) {
		a.program(t)
		a.fails(t, "/bin/attack calls")
	})
}

// hostDevices are devices that no box may open: disks, memory, the kernel's log, tun, fuse, loop control, terminals, processors.
func hostDevices(t *testing.T, lower string) string {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	list := fmt.Sprintf("b:%d:%d", st.Dev>>8&0xfff, st.Dev&0xff) +
		" b:8:0 b:7:0 c:1:1 c:1:2 c:1:4 c:1:11 c:10:200 c:10:229 c:10:235 c:10:237 c:4:0 c:4:64 c:5:1 c:203:0"
	// Nodes may be in an image as well.
	for name, dev := range map[string][2]int{"disk": {syscall.S_IFBLK, int(st.Dev)}, "loop": {syscall.S_IFBLK, 7 << 8}, "mem": {syscall.S_IFCHR, 1<<8 | 1}, "fuse": {syscall.S_IFCHR, 10<<8 | 229}} {
		if err := syscall.Mknod(filepath.Join(lower, name), uint32(dev[0])|0o666, dev[1]); err != nil {
			t.Fatal(err)
		}
		list += " there:/" + name
	}
	return list
}

func TestEscapeDevices(t *testing.T) {
	eachIsolation(t, func(t *testing.T, a attacked) {
		a.program(t)
		list := hostDevices(t, filepath.Join(a.dir, "lower"))
		a.fails(t, "/bin/attack devices "+list+"\ncd /dev\n/bin/attack devices "+list)
		a.fails(t, "test -c /dev/null && echo > /dev/null && head -c 1 /dev/zero >/dev/null && test -e /dev/full ")
	})
}

// changeNodes does to device nodes what leaves them as they should be on any machine, but for the time of the change.
const changeNodes = "for f in /dev/null /dev/full /dev/tty /dev/given /proc/keys /proc/interrupts; do chmod 0666 $f; chown 0:0 $f; touch $f; done 2>/dev/null; echo x >/dev/null && cat </dev/null"

// nodeTimes are the times of the last change of the host's nodes.
func nodeTimes(t *testing.T) (all []unix.Timespec) {
	t.Helper()
	for _, d := range devicesOfBox() {
		var st unix.Stat_t
		if err := unix.Stat("/dev/"+d, &st); err != nil {
			t.Fatal(err)
		}
		all = append(all, st.Ctim)
	}
	return all
}

// Where device nodes are the host's own, they cannot be changed, only used; neither under another name.
func TestEscapeDeviceNodes(t *testing.T) {
	eachIsolation(t, func(t *testing.T, a attacked) {
		before := nodeTimes(t)
		a.fails(t, changeNodes)
		if after := nodeTimes(t); !slices.Equal(after, before) {
			t.Errorf("the host's nodes were changed at %v, and now at %v", before, after)
		}
	})
	t.Run("given", func(t *testing.T) {
		w, before := newWorld(t), nodeTimes(t)
		out := w.must(changeNodes+"; head -c 1 /dev/given | wc -c", func(s *Sandbox, _ *Process) {
			s.Mounts = append(s.Mounts, Mount{Type: Bind, Source: "/dev/full", Target: "/dev/given"})
		})
		if after := nodeTimes(t); !slices.Equal(after, before) || out != "1\n" {
			t.Errorf("the step said %q; the host's nodes were changed at %v, and now at %v", out, before, after)
		}
	})
}

// A pipe with a name that is given as standard input is the host's: the process gets what comes through it, not the file.
func TestEscapeStdin(t *testing.T) {
	w := newWorld(t)
	for _, user := range []string{"0", "1234"} {
		pipe := filepath.Join(t.TempDir(), "pipe")
		if err := unix.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(pipe, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("text\n"); err != nil {
			t.Fatal(err)
		}
		out := w.must("chmod 0777 /proc/self/fd/0 2>/dev/null; head -n 1", func(_ *Sandbox, p *Process) { p.Stdin, p.User = f, user })
		var st unix.Stat_t
		if err := unix.Stat(pipe, &st); err != nil || st.Uid != 0 || st.Mode&0o777 != 0o600 {
			t.Errorf("as user %s: the host's pipe has mode %o and the user %d: %v", user, st.Mode, st.Uid, err)
		}
		if out != "text\n" {
			t.Errorf("as user %s: the process read %q", user, out)
		}
	}
}

// Where no control group can be made, where there is one with limits, and where a box is given a device, other devices are out of reach too.
func TestEscapeDevicesGuards(t *testing.T) {
	limited := func(s *Sandbox, _ *Process) { s.Limits.Pids = 100 }
	given := func(s *Sandbox, _ *Process) {
		s.Mounts = append(s.Mounts, Mount{Type: Bind, Source: "/dev/full", Target: "/dev/given"})
	}
	volume := t.TempDir()
	for name, c := range map[string]struct {
		unguarded, opens bool
		change           func(*Sandbox, *Process)
	}{
		"guard": {false, true, func(*Sandbox, *Process) {}}, "no guard": {true, false, func(*Sandbox, *Process) {}},
		"limits": {false, true, limited}, "given": {false, false, given},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.unguarded {
				w.linux.Dir = ""
			}
			if err := w.linux.prepare(); err != nil {
				t.Fatal(err)
			}
			if (w.linux.guard.group == nil) != c.unguarded {
				t.Fatalf("there is a guard: %v", w.linux.guard.group != nil)
			}
			lower := w.box.Root.Lower[0]
			attacked{dir: filepath.Dir(lower)}.program(t)
			list := hostDevices(t, lower)
			out := w.must("attack devices "+list+"; mknod /dev/fuse c 10 229; mknod /v/fuse c 10 229; attack devices there:/v/fuse there:/dev/fuse; mknod /null c 1 3 && (: </null) 2>/dev/null && echo null; "+
				"for d in null zero full random urandom; do : </dev/$d || echo no $d; done; rm -f /v/*; test ! -c /dev/given || : < /dev/given; cat /proc/self/cgroup | grep -v ':/$'",
				func(s *Sandbox, p *Process) {
					s.Mounts = append(s.Mounts, Mount{Type: Bind, Source: volume, Target: "/v"})
					p.Env = append(p.Env, helperVar+"=attack", helperRace)
					p.Args[2] = strings.ReplaceAll(p.Args[2], "| grep -v ':/$'", "| grep -v ':/$' || true")
					c.change(s, p)
				})
			if want := map[bool]string{true: "null\n"}[c.opens]; out != want {
				t.Errorf("the step said %q, want %q", out, want)
			}
		})
	}
}

// A step finds nothing of strake, of the host or of another step that runs at the same time: neither in what it inherits nor in /proc.
func TestEscapeProc(t *testing.T) {
	eachIsolation(t, func(t *testing.T, a attacked) {
		a.program(t)
		const marker = "escape-marker-4711"
		host := filepath.Join(publicDir(t), marker) // a file of the host, which everybody may read
		if err := os.WriteFile(host, []byte(marker), 0o644); err != nil {
			t.Fatal(err)
		}
		leak, err := os.Open(filepath.Dir(host)) // strake's caller may leave descriptors open
		if err != nil {
			t.Fatal(err)
		}
		defer leak.Close()
		// Another step, with secrets in its environment, its files and its arguments, and a daemon of it.
		other := a.run("mkdir -p /run/secrets; echo " + marker + " >/run/secrets/x; exec 5</run/secrets/x; export SECRET=" + marker + "; (sleep 100 <&5 &); echo ready; /bin/sleep 100 <&5 # " + marker)
		ready, err := other.StdoutPipe()
		if err == nil {
			err = other.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = other.Process.Kill()
			_ = other.Wait()
		}()
		if _, err := io.ReadFull(ready, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		files := "environ,maps,cmdline"
		if strings.HasSuffix(t.Name(), "/shared") {
			files = "environ,maps" // the names of what runs around are in sight: docs/isolation.md
		}
		r := &tried{cmd: a.run(asAttack + "; /bin/attack proc " + files + " escape-marker run/secrets/x " + host)}
		r.cmd.Env = append(r.cmd.Env, "REGISTRY_PASSWORD="+marker)
		r.cmd.ExtraFiles = []*os.File{leak, leak, leak}
		r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.errs
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r.report(t)
	})
}

// What is mounted read-only stays so: binds of files and directories, secrets, /etc/hosts, the kernel's settings.
func TestEscapeReadOnly(t *testing.T) {
	eachIsolation(t, func(t *testing.T, a attacked) {
		a.program(t)
		if strings.HasSuffix(t.Name(), "/chroot") { // what is read-only, and /proc, are copies there
			const pattern = "/proc/sys/kernel/core_pattern"
			before, err := os.ReadFile(pattern)
			if err != nil {
				t.Fatal(err)
			}
			a.fails(t, "mkdir -p /proc/sys/kernel; (echo escape >"+pattern+") 2>/dev/null; true")
			if after, err := os.ReadFile(pattern); err != nil || !bytes.Equal(before, after) {
				t.Errorf("%s is %q now: %v", pattern, after, err)
			}
			return
		}
		a.fails(t, "cp /ro/bin/busybox /tmp/; /bin/attack write /etc/hosts /etc/resolv.conf /ro/bin/busybox /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/sys/fs/binfmt_misc/register /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run", "mounts")
	})
}

// The host's abstract sockets are out of reach although its network is shared, where the kernel can do that; those of the step are not.
func TestEscapeAbstractSockets(t *testing.T) {
	name := fmt.Sprintf("strake-escape-%d", os.Getpid())
	l, err := net.Listen("unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	eachIsolation(t, func(t *testing.T, a attacked) {
		if !sandbox.Scoped() {
			t.Skip("this kernel has no scopes of Landlock (Linux 6.12)")
		}
		a.program(t)
		a.fails(t, "/bin/attack socket "+name)
		out, err := a.run(asAttack + "; /bin/attack own-socket " + name + "-own").CombinedOutput()
		if err != nil {
			t.Errorf("a socket of the step's own: %v\n%s", err, out)
		}
	})
}

// Nothing can be typed into strake's terminal.
func TestEscapeTerminal(t *testing.T) {
	eachIsolation(t, func(t *testing.T, a attacked) {
		a.program(t)
		master, slave := pty(t)
		defer master.Close()
		defer slave.Close()
		r := &tried{cmd: a.run(asAttack + "; /bin/attack terminal; /bin/attack terminal </dev/tty; true")}
		r.cmd.Stdin, r.cmd.Stdout = slave, &r.out
		if r.cmd.SysProcAttr == nil {
			r.cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		r.cmd.SysProcAttr.Setsid, r.cmd.SysProcAttr.Setctty = true, true
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r.report(t)
	})
}
