package runner

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// callsIn builds testdata/calls for a box's root, or takes what has been built where there is no compiler.
func callsIn(t testing.TB, root string) {
	t.Helper()
	if built := os.Getenv("STRAKE_TEST_CALLS"); built != "" {
		if out, err := exec.Command("cp", built, filepath.Join(root, "bin/calls")).CombinedOutput(); err != nil {
			t.Fatalf("copying the program: %v\n%s", err, out)
		}
		return
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(root, "bin/calls"), "./testdata/calls")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
}

// pidNamespaces are boxes with a pid namespace and without: further arguments of the helper.
func pidNamespaces() map[string][]string {
	return map[string][]string{"own": nil, "shared": {"sharedpid"}}
}

// Every call returns in a box with one id what it does as root, errors and all.
func TestOneIDCalls(t *testing.T) {
	for name, args := range pidNamespaces() {
		t.Run(name, func(t *testing.T) { compareCalls(t, args) })
	}
}

func compareCalls(t *testing.T, args []string) {
	t.Helper()
	run := asUser(t, false)
	program := run("mkdir /w; touch /ro")
	data := program.Args[1]
	callsIn(t, filepath.Join(data, "lower"))
	mine := filepath.Join(publicDir(t), "data")
	makeRoot(t, filepath.Join(mine, "lower"))
	callsIn(t, filepath.Join(mine, "lower"))
	for _, what := range []string{"chown", "ids", "hostile", "race"} {
		script := "mkdir /w && calls " + what
		var errs bytes.Buffer
		one := run(script, append(args, "mounts")...)
		one.Stderr = &errs
		got, err := one.Output()
		if err != nil {
			t.Fatalf("%s with one id: %v\n%s%s", what, err, got, errs.String())
		}
		want, err := helperCommand(t, publicDir(t), "run", append([]string{mine, script, "mounts"}, args...)...).Output()
		if err != nil {
			t.Fatalf("%s as root: %v\n%s", what, err, want)
		}
		g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
		if len(g) != len(w) {
			t.Fatalf("%s: got %d lines, want %d:\n%s", what, len(g), len(w), got)
		}
		for i := range g {
			if g[i] != w[i] {
				t.Errorf("%s: got %q, want %q", what, g[i], w[i])
			}
		}
	}
}

// Calls by 20,000 of one process: microseconds for each, and how much of that the two processes worked.
func BenchmarkOneIDChown(b *testing.B) {
	run := asUser(b, false)
	callsIn(b, filepath.Join(run("").Args[1], "lower"))
	for b.Loop() {
		c := run("mkdir /w && calls speed")
		out, err := c.Output()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64((c.ProcessState.UserTime()+c.ProcessState.SystemTime()).Microseconds())/20_000, "cpu-µs/chown") // with the box and all
		us, err := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(us), "µs/chown")
	}
}

func TestOneID(t *testing.T) {
	for name, args := range pidNamespaces() {
		t.Run(name, func(t *testing.T) { checkOneID(t, args) })
	}
}

func checkOneID(t *testing.T, args []string) {
	t.Helper()
	run := asUser(t, false)
	for _, c := range []struct{ script, want, arg string }{
		{"id -u; echo $HOME", "0\n/\n", "host"},
		{"touch /x && chown 33:44 /x && stat -c %u:%g /x; rm /x", "33:44\n", "host"},
		{"id -u; id -g; echo $HOME", "1000\n1000\n/home/app\n", "user=app"},
		{"mkdir -p /d; ln -s x /d/l; chown -h 5:6 /d/l; stat -c %u:%g /d/l /d; cd /d; stat -c %u:%g l", "5:6\n0:0\n5:6\n", "host"},
		{"mkfifo /p; chown 7 /p; stat -c %u:%g /p; chown 0 /p; stat -c %u:%g /p", "7:0\n0:0\n", "host"},
		{"mkfifo /p; chown 7 /p; ln -s p /k; stat -L -c %u:%g /p /k; exec 5<>/p; stat -L -c %u:%g /dev/fd/5", "7:0\n7:0\n7:0\n", "host"},
		{"mkdir /dev/shm/d; chown 7:8 /dev/shm/d; stat -c %u:%g /dev/shm/d; cp -a /dev/shm/d /d; stat -c %u:%g /d; exec 5</d; stat -L -c %u:%g /proc/self/fd/5", "7:8\n7:8\n7:8\n", "host"},
		{"touch /m; chown 1:2 /m; chown :9 /m; stat -c %u:%g /m; chown 8 /m;  stat -c %u:%g /m; chown 0:0 /m;  stat -c %u:%g /m", "1:9\n8:9\n0:0\n", "host"},
		{"touch /s; chmod 6755 /s; chown 1 /s; stat -c %a /s", "755\n", "host"},
		{"umask 027; mkdir -p /u/u; chown app /u/u; cd /u; cat > s <<E\ncd /u/u; touch f; mkdir d; ln -s x l; mkfifo p; ln -s /u/u/dang k; echo 1 > k; mv l m; ln m n; stat -c %n:%u:%g:%a f d m p dang k n\nE\nchmod 755 /u; su app -c \". /u/s\"", "" +
			"f:1000:1000:640\nd:1000:1000:750\nm:1000:1000:777\np:1000:1000:640\ndang:1000:1000:640\nk:1000:1000:777\nn:1000:1000:777\n", "host"},
		{"mkdir /g; chown 0:50 /g; chmod 2775 /g; cd /g; touch f; mkdir d; ln -s a l; stat -c %n:%u:%g:%a f d l", "f:0:50:644\nd:0:50:2755\nl:0:50:777\n", "host"},
		{"touch /no", "EACCES", "user=app"},
		// Of a user that a step of root becomes, some calls are reported.
		{"mkdir /s; echo x >/s/f; cp /bin/busybox /s/run; chmod 700 /s/f /s/run; su app -c 'test -r /s/f || echo r; mv /s/f /s/g || echo mv; /s/run true || echo run; ln -s x /s/l || echo ln' 2>/dev/null", "r\nmv\nrun\nln\n", "host"},
		{"mkdir /w; chmod 777 /w; mknod /w/d c 1 3; chown 4:5 /w/d; chmod 600 /w/d", "", "host"},
		{"chown 0 /bin/sh", "EPERM", "user=app"},
		{"mkdir /st; ln -s x /st/a; chown -h 5 /st/a; rm /st/a; ln -s y /st/a; stat -c %u /st/a", "0\n", "host"},
		{"mkdir -p /c/bin; cp /bin/busybox /c/bin; mkdir /c/d; chroot /c /bin/busybox chown 5:6 /d; stat -c %u:%g /c/d; chroot /c /bin/busybox stat -c %u:%g /d ../../d", "5:6\n5:6\n5:6\n", "host"},
		{"mkdir /x; cd /x; cp /bin/busybox .; chown 7:8 busybox; chmod 6755 busybox; ./busybox id -u; ./busybox id -g; ./busybox id -ru; cp -a busybox /copy; stat -c %u:%g:%a /copy", "7\n8\n0\n7:8:6755\n", "host"},
	} {
		var errs bytes.Buffer
		cmd := run(c.script, append(args, c.arg)...)
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if text, ok := map[string]string{"EACCES": "Permission denied", "EPERM": "Operation not permitted"}[c.want]; ok {
			if err == nil || !bytes.Contains(errs.Bytes(), []byte(text)) {
				t.Errorf("%s: %v: %s", c.script, err, errs.String())
			}
			continue
		}
		if err != nil || string(out) != c.want {
			t.Errorf("%s: got %q, want %q: %v\n%s", c.script, out, c.want, err, errs.String())
		}
	}
}
