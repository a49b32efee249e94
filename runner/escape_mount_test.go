package runner

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// hostile fills the root with links that lead out, if they are followed on the host, by root or by the init.
func (a attacked) hostile(t *testing.T, victim string) {
	t.Helper()
	up := strings.Repeat("../", 30)
	files := map[string]string{
		"abs": "-> " + victim, "up": "-> " + up + victim[1:], "magic/root": "-> /proc/self/root", "magic/cwd": "-> /proc/self/cwd", "chain/a": "-> ../up", "chain/b": "-> a/x",
		"fds/3": "-> /proc/self/fd/3", "dangling": "-> " + victim + "/new",
		"dev2/null": "-> /proc/keys", "dev2/zero": "-> /proc/sys/kernel/core_pattern", "dev3/null": "-> /proc/1/environ",
		"etc/hosts": "-> " + up + victim[1:] + "/hosts", "etc/resolv.conf": "-> " + victim + "/resolv",
	}
	for i := range 8 {
		files["fds/n"+strconv.Itoa(i)] = "-> /proc/self/fd/" + strconv.Itoa(i)
	}
	tree(t, filepath.Join(a.dir, "lower"), files)
	evil := map[string]string{"abs": "-> " + victim, "up": "-> " + up + victim[1:], "magic": "-> /proc/self/root" + victim, "fd": "-> /proc/self/fd/4"}
	if _, err := os.Lstat(filepath.Join(a.dir, "evil")); err != nil {
		tree(t, filepath.Join(a.dir, "evil"), evil)
	}
	if out, err := exec.Command("chown", "-hR", "--reference="+a.dir, filepath.Join(a.dir, "lower"), filepath.Join(a.dir, "evil")).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v\n%s", err, out)
	}
}

// Working directories, mount points and sources that are links, or lead through /proc, stay inside, or are refused (CVE-2024-21626, CVE-2021-30465,
// CVE-2023-27561, CVE-2024-45310, CVE-2024-9407, CVE-2024-9675, CVE-2024-23652): nothing is made, read or removed on the host.
func TestEscapeLinks(t *testing.T) {
	eachIsolation(t, func(t *testing.T, a attacked) {
		victim := publicDir(t)
		tree(t, victim, map[string]string{"passwd": "host\n", "sub/empty/": "", "x/": "", "hosts": "", "resolv": ""})
		if out, err := exec.Command("chmod", "-R", "a+rwX", victim).CombinedOutput(); err != nil {
			t.Fatalf("chmod: %v\n%s", err, out)
		}
		a.hostile(t, victim)
		before := listing(t, victim)
		see := "cat passwd " + victim + "/passwd /c/passwd /m/passwd /m 2>/dev/null; ls sub /c/sub /m/sub 2>/dev/null; ls / | grep -c work; true"
		attempts := [][]string{
			{"dir=/abs"},
			{"dir=/up/evil/dir"},
			{"dir=/dangling/d"},
			{"dir=/magic/root/" + victim},
			{"dir=/magic/cwd/../../../../x"},
			{"dir=/proc/1/root" + victim},
			{"dir=/chain/b/new"},
			{"dir=/proc/" + strconv.Itoa(os.Getpid()) + "/root" + victim + "/new"},
			{"dir=/proc/" + strconv.Itoa(os.Getpid()) + "/cwd"},
			{"secret=/abs/passwd"},
			{"secret=/up/new"},
			{"secret=/chain/b/deep/er"},
			{"secret=/magic/root" + victim + "/passwd"},
			{"secret=/dangling"},
			{"secret=/proc/self/fd/3/x"},
			{"secret=/proc/" + strconv.Itoa(os.Getpid()) + "/root" + victim + "/new2"},
			{"secret=/etc/hosts"},
			{"bind=/abs:/m"},
			{"bind=/up/passwd:/m"},
			{"bind=/magic/root:/m"},
			{"bind=../../../../../.." + victim + ":/m"},
			{"bind=/etc:/abs"},
			{"bind=/etc:/up/new"},
			{"bind=/bin:/up/x"},
			{"inside=/abs"},
			{"inside=/up"},
			{"inside=/magic"},
			{"inside=/fd"},
			{"inside=../../" + filepath.Base(victim)},
		}
		for i := range 8 {
			attempts = append(attempts, []string{"dir=/fds/n" + strconv.Itoa(i)}, []string{"dir=/proc/self/fd/" + strconv.Itoa(i) + "/../../.."})
		}
		for _, args := range attempts {
			out, _ := a.run(see, args...).Output() // many are refused
			if strings.Contains(string(out), "host") || strings.Contains(string(out), "empty") {
				t.Errorf("%v: the step said %q", args, out)
			}
		}
		if after := listing(t, victim); after != before {
			t.Errorf("the host's files were\n%s\nand are\n%s", before, after)
		}
	})
}

// A /dev that is mounted over strake's own does not make strake read or mount what its links name (CVE-2025-31133, CVE-2025-52565).
func TestEscapeDev(t *testing.T) {
	eachIsolation(t, func(t *testing.T, a attacked) {
		if strings.HasSuffix(t.Name(), "/chroot") {
			t.Skip("nothing can be put over /dev")
		}
		a.hostile(t, publicDir(t))
		const masked = "for f in /proc/interrupts /proc/kcore /proc/keys /proc/timer_list; do test ! -e $f || test -c $f || test -d $f || echo $f is no device; (head -c 1 $f | grep -q .) 2>/dev/null && echo read $f; done; " +
			"(echo x >/proc/interrupts) 2>/dev/null; cat; true"
		for _, dev := range []string{"dev2", "dev3"} {
			r := &tried{cmd: a.run(masked, "bind=/"+dev+":/dev", "null")}
			if strings.HasSuffix(t.Name(), "/shared") || strings.HasSuffix(t.Name(), "/one_id") && r.cmd == nil {
				r.cmd = a.run("cat", "bind=/"+dev+":/dev", "null") // the masks are those of the container around
			}
			r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.errs
			r.cmd.Env = append(r.cmd.Env, "REGISTRY_PASSWORD=escape")
			if err := r.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			r.report(t)
		}
	})
}
