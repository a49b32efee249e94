package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProbe(t *testing.T) {
	needRoot(t)
	i, err := Choose(Auto, nil)
	if err != nil || i.Rung != Root || i.UserNS || i.OneID || i.SharedPID || i.NoOverlay || i.Reason == "" || len(i.Better) > 0 {
		t.Errorf("Choose(auto) gave %+v, %v", i, err)
	}
	for _, want := range []Rung{Rootless, Chroot, None} {
		i, err := Choose(want, nil)
		if err != nil || i.Rung != want || i.OneID || i.Reason == "" {
			t.Errorf("Choose(%s) gave %+v, %v", want, i, err)
		}
		if want == None != (i.CheckRun() != nil) {
			t.Errorf("%s: CheckRun gave %v", want, i.CheckRun())
		}
	}
	if _, err := Choose("jail", nil); err == nil {
		t.Error("Probe took an unknown rung")
	}
	dir := filepath.Join(publicDir(t), "store")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := ProbeStore(i, dir); err != nil || got.NoOverlay {
		t.Errorf("ProbeStore gave %+v, %v", got, err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("ProbeStore left %v", left)
	}
}

// An overlay cannot have its upper directory on an overlay.
func TestProbeStoreOnOverlay(t *testing.T) {
	needRoot(t)
	dir := publicDir(t)
	for _, d := range []string{"l", "u", "w", "m"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m := filepath.Join(dir, "m")
	if err := unix.Mount("overlay", m, "overlay", 0, "lowerdir="+dir+"/l,upperdir="+dir+"/u,workdir="+dir+"/w"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(m, unix.MNT_DETACH)
	i, err := ProbeStore(Isolation{Rung: Root, Reason: "root"}, m)
	if err != nil || !i.NoOverlay || !strings.Contains(i.Reason, "the store is on an overlay file system") {
		t.Errorf("got %+v, %v", i, err)
	}
}

// An ordinary user finds out before he enters a namespace, and leaves nothing.
func TestSurveyStoreAsUser(t *testing.T) {
	for _, subordinate := range []bool{true, false} {
		t.Run(map[bool]string{true: "many ids", false: "one id"}[subordinate], func(t *testing.T) {
			cred := user(t, subordinate)
			dir := publicDir(t)
			store := filepath.Join(dir, "store")
			if err := os.Mkdir(store, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(store, int(cred.Uid), int(cred.Gid)); err != nil {
				t.Fatal(err)
			}
			cmd := helperCommand(t, dir, "store", store)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != "<nil> <nil>\n" {
				t.Errorf("got %s, %v", out, err)
			}
			if left, _ := os.ReadDir(store); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestSurvey(t *testing.T) {
	needRoot(t)
	var names []string
	for _, f := range Survey() {
		names = append(names, f.Name())
		if f.Obstacle != nil {
			t.Errorf("%s: %v", f.Name(), f.Obstacle)
		}
	}
	if got := strings.Join(names, "; "); got != "root; rootless; rootless, one id; chroot; none" {
		t.Errorf("got %s", got)
	}
}

func TestProbeAsUser(t *testing.T) {
	for _, c := range []struct {
		name         string
		subordinate  bool
		want, output string
	}{
		{"ranges", true, "auto", "with 65536 subordinate ids UserNS:false OneID:false SharedPID:false NoHostname:false NoOverlay:false"},
		{"ranges missing", false, "auto", "with one id UserNS:false OneID:true SharedPID:false NoHostname:false NoOverlay:false"},
		{"ranges missing", false, "rootless", "OneID:true"},
		{"root", false, "root", "isolation root: this process is not root: sudo"},
		{"chroot", false, "chroot", "isolation chroot: this process is not root"},
		{"none", false, "none", "Rung:none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cred := user(t, c.subordinate)
			cmd := helperCommand(t, publicDir(t), "probe", c.want)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), c.output) {
				t.Errorf("want %s, got %s %v", c.output, out, err)
			}
		})
	}
}

// What is missing is named, with what mends it.
func TestProbeNamesWhatIsMissing(t *testing.T) {
	cred := user(t, false)
	cmd := helperCommand(t, publicDir(t), "survey")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	out, err := cmd.CombinedOutput()
	if err != nil || !regexp.MustCompile(`usermod --add-subuids (\d+-\d+) --add-subgids (\d+-\d+) strk`).Match(out) {
		t.Errorf("without subordinate ids: %s %v", out, err)
	}
}

// The ids that are proposed for a user are nobody's.
func TestSubIDs(t *testing.T) {
	for _, c := range []struct {
		text, mapped string
		free         uint64
	}{
		{"", "", 100000},
		{"a:100000:65536\n", "", 165536},
		{"b:231072:65536\na:100000:65536\nc:165536:65536\n", "", 296608},
		{"a:100000:10\nb:200000:65536\n", "", 100010},
		{"a:1000:5\nb:150000:1\n\n#\nx:y:z\nd:1:0\n", "", 150001},
		{"me:100000:65536\n", "0 77 1;1 100000 65536", 165536},
		{"a:100000:65536\n1000:300000:10\nme:400000:9\n", "0 77 1;1 300000 10;11 400000 9", 165536},
		{"me:100000:100000\nme:500000:5\n", "0 77 1;1 100000 65536", 200000},
	} {
		file := filepath.Join(t.TempDir(), "subuid")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := readSubIDs(file)
		if err != nil {
			t.Fatal(err)
		}
		var mapped []string
		for _, r := range all.of("me", 1000, 77) {
			mapped = append(mapped, fmt.Sprint(r.ContainerID, r.HostID, r.Size))
		}
		if c.mapped == "" {
			c.mapped = "0 77 1"
		}
		if got := strings.Join(mapped, ";"); got != c.mapped || all.free() != c.free {
			t.Errorf("%q: mapped %s, want %s; free from %d, want %d", c.text, got, c.mapped, all.free(), c.free)
		}
	}
	if all, err := readSubIDs(filepath.Join(t.TempDir(), "none")); err != nil || len(all) > 0 {
		t.Errorf("no file gave %v, %v", all, err)
	}
}

// fullRoot is a root with all capabilities on a machine that restricts nothing.
func fullRoot() machine {
	return machine{caps: 1<<41 - 1, bounding: 1<<41 - 1, ids: 1 << 32, sysctl: func(string) string { return "" }}
}

func ordinary() machine {
	m := fullRoot()
	m.uid, m.euid, m.gid, m.caps = 1000, 1000, 1000, 0
	return m
}

func TestHints(t *testing.T) {
	set := func(name, value string) func(string) string {
		return func(n string) string {
			if n == name {
				return value
			}
			return ""
		}
	}
	docker := func(m machine) machine {
		m.caps &= 0xa80425fb
		m.bounding, m.seccomp = 0xa80425fb, true
		return m
	}
	at := func(index int, e unix.Errno) []outcome {
		out := make([]outcome, len(boxAttempts()))
		for i := range index {
			out[i] = worked
		}
		out[index] = outcome(e)
		return out
	}
	for _, c := range []struct {
		name    string
		machine func() machine
		user    bool // in a user namespace
		out     []outcome
		err     error
		call    string
		want    string // in the text
	}{
		{name: "docker's defaults, root", machine: func() machine { return docker(fullRoot()) }, err: unix.EPERM, call: "clone", want: "--privileged"},
		{name: "docker's defaults, root, namespace", machine: func() machine { return docker(fullRoot()) }, user: true, err: unix.EPERM, call: "clone", want: "seccomp=unconfined"},
		{name: "docker's defaults, user", machine: func() machine { return docker(ordinary()) }, user: true, err: unix.EPERM, call: "clone", want: "Kubernetes: securityContext.seccompProfile"},
		{name: "SYS_ADMIN alone", machine: func() machine { m := fullRoot(); m.seccomp = true; return m }, out: at(11, unix.EPERM), call: "pivot_root", want: "seccomp=unconfined"},
		{name: "docker's AppArmor", machine: func() machine { m := fullRoot(); m.apparmor = "docker-default (enforce)"; return m }, out: at(0, unix.EACCES), call: "mount", want: "apparmor=unconfined"},
		{name: "a profile that restricts nothing", machine: func() machine { m := fullRoot(); m.seccomp, m.apparmor = true, "strake (unconfined)"; return m }, out: at(0, unix.EPERM), call: "mount", want: "seccomp=unconfined"},
		{name: "Ubuntu 24.04", user: true, machine: func() machine {
			m := ordinary()
			m.sysctl = set("kernel/apparmor_restrict_unprivileged_userns", "1")
			return m
		}, out: at(0, unix.EACCES), call: "mount", want: "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give strake an AppArmor profile with the rule «userns,»"},
		{name: "Ubuntu 24.04, no namespace", user: true, machine: func() machine {
			m := ordinary()
			m.sysctl = set("kernel/apparmor_restrict_unprivileged_userns", "1")
			return m
		}, err: unix.EPERM, call: "clone", want: "kernel.apparmor_restrict_unprivileged_userns=0"},
		{name: "none allowed", user: true, machine: func() machine { m := ordinary(); m.sysctl = set("user/max_user_namespaces", "0"); return m }, err: unix.ENOSPC, call: "clone", want: "sysctl -w user.max_user_namespaces=15000"},
		{name: "used up", user: true, machine: ordinary, err: unix.ENOSPC, call: "clone", want: "used up"},
		{name: "old Debian", user: true, machine: func() machine { m := ordinary(); m.sysctl = set("kernel/unprivileged_userns_clone", "0"); return m }, err: unix.EPERM, call: "clone", want: "sysctl -w kernel.unprivileged_userns_clone=1"},
		{name: "no namespaces", user: true, machine: ordinary, err: unix.EINVAL, call: "clone", want: "CONFIG_USER_NS"},
		{name: "in a chroot", user: true, machine: ordinary, err: unix.EPERM, call: "clone", want: "chroot"},
		{name: "old kernel", machine: fullRoot, out: at(8, unix.ENOSYS), call: "mount_setattr", want: "Linux 5.12"},
		{name: "no capability to map", user: true, machine: func() machine { m := docker(fullRoot()); m.caps = 0; return m }, err: errMapping{unix.EPERM}, want: "--cap-add SETFCAP"},
		{name: "setuid newuidmap in a container", user: true, machine: func() machine { return docker(ordinary()) }, err: errMapping{errors.New("newuidmap: write to uid_map failed")}, want: "setcap cap_setuid=ep /usr/bin/newuidmap"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := c.machine().judge(boxAttempts(), c.out, c.err, c.user).obstacle
			if o == nil || o.Call != c.call || !strings.Contains(o.Error(), c.want) {
				t.Errorf("got %+v", o)
			}
		})
	}
	t.Run("capabilities", func(t *testing.T) {
		out := make([]outcome, len(boxAttempts()))
		for i := range out {
			out[i] = worked
		}
		m := fullRoot()
		m.caps &^= 1<<capMknod | 1<<capSetpcap
		const want = "this root has no CAP_SETPCAP, CAP_MKNOD: run the container with --cap-add SETPCAP --cap-add MKNOD (Kubernetes: securityContext.capabilities.add)"
		if o := m.judge(boxAttempts(), out, nil, false).obstacle; o == nil || o.Error() != want {
			t.Errorf("as it is: got %v", o)
		}
		if o := m.judge(boxAttempts(), out, nil, true).obstacle; o != nil {
			t.Errorf("in a user namespace of its own: got %v", o)
		}
	})
	t.Run("soft", func(t *testing.T) {
		out := make([]outcome, len(boxAttempts()))
		for i := range out {
			out[i] = worked
		}
		out[procAttempt], out[overlayAttempt], out[nameAttempt] = outcome(unix.EPERM), outcome(unix.ENODEV), outcome(unix.EPERM)
		r := fullRoot().judge(boxAttempts(), out, nil, false)
		if r.obstacle != nil || !r.sharedPID || !r.noName || !strings.Contains(r.noOverlay, "modprobe overlay") {
			t.Errorf("got %+v", r)
		}
	})
}

// A root that would lose owners or modes records them.
func TestNoneRecords(t *testing.T) {
	for _, c := range []struct {
		without int
		records bool
	}{{capMknod, false}, {capChown, true}, {capFowner, true}, {capFsetid, true}, {capDACOverride, true}, {capSetfcap, true}} {
		m := fullRoot()
		m.caps &^= 1 << c.without
		if i := (&prober{machine: m}).none().Isolation; i.OneID != c.records {
			t.Errorf("without capability %d it records: %v", c.without, i.OneID)
		}
	}
}

func TestAdvice(t *testing.T) {
	in := func(rung Rung, one bool, o Obstacle) Finding {
		return Finding{Isolation: Isolation{Rung: rung, OneID: one}, Obstacle: &o}
	}
	notRoot := Obstacle{NotRoot: true, Why: "this process is not root", Fix: "sudo"}
	privileged, unconfined := Obstacle{Err: unix.EPERM, Fix: "privileged"}, Obstacle{Err: unix.EPERM, Fix: "unconfined"}
	for _, c := range []struct {
		name string
		i    Isolation
		want string
	}{
		{"root", Isolation{Rung: Root}, ""},
		{"a user", Isolation{Rung: Rootless, Better: []Finding{in(Root, false, notRoot)}}, ""},
		{"root in a namespace", Isolation{Rung: Rootless, Better: []Finding{in(Root, false, privileged)}}, ""},
		{"one id", Isolation{Rung: Rootless, OneID: true, Better: []Finding{in(Root, false, notRoot), in(Rootless, false, Obstacle{Why: "newuidmap is missing", Fix: "install it"})}}, "rootless: newuidmap is missing: install it"},
		{"chroot", Isolation{Rung: Chroot, Better: []Finding{in(Root, false, privileged), in(Rootless, false, unconfined), in(Rootless, true, unconfined)}}, "rootless: operation not permitted: unconfined"},
		{"none", Isolation{Rung: None, Better: []Finding{in(Root, false, notRoot), in(Rootless, false, Obstacle{Why: "newuidmap is missing", Fix: "install it"}), in(Rootless, true, unconfined), in(Chroot, false, notRoot)}}, "rootless, one id: operation not permitted: unconfined"},
	} {
		if got := c.i.Advice(); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestNoRunError(t *testing.T) {
	better := []Finding{
		{Isolation: Isolation{Rung: Root}, Obstacle: &Obstacle{Why: "this process is not root", Fix: "sudo"}},
		{Isolation: Isolation{Rung: Rootless, OneID: true}, Obstacle: &Obstacle{What: "making a user namespace", Err: unix.EPERM, Fix: "unconfine"}},
		{Isolation: Isolation{Rung: Chroot}, Obstacle: &Obstacle{Why: "this process is not root"}},
	}
	err := Isolation{Rung: None, Better: better}.CheckRun()
	var none *NoRunError
	if !errors.As(err, &none) || none.Hint() != "unconfine" || !strings.Contains(err.Error(), "\n  rootless, one id: making a user namespace: operation not permitted") {
		t.Errorf("got %v", err)
	}
	if err := (Isolation{Rung: Chroot, Better: better}).CheckRun(); err != nil {
		t.Error(err)
	}
}

func BenchmarkProbe(b *testing.B) {
	needRoot(b)
	for b.Loop() {
		if _, err := Choose(Auto, nil); err != nil {
			b.Fatal(err)
		}
	}
}
