package runner

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
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
	r := &tried{cmd: a.run("export "+helperVar+"=attack\n"+script, args...)}
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
					p.Env = append(p.Env, helperVar+"=attack")
					p.Args[2] = strings.ReplaceAll(p.Args[2], "| grep -v ':/$'", "| grep -v ':/$' || true")
					c.change(s, p)
				})
			if want := map[bool]string{true: "null\n"}[c.opens]; out != want {
				t.Errorf("the step said %q, want %q", out, want)
			}
		})
	}
}
