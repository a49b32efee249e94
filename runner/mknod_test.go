package runner

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// devicesOf returns what the files that the boxes of cmd have made say they stand for.
func devicesOf(t *testing.T, cmd *exec.Cmd, names ...string) []string {
	t.Helper()
	got := make([]string, len(names))
	for i, n := range names {
		files, err := filepath.Glob(filepath.Join(cmd.Args[1], "box-*", n))
		if err != nil || len(files) != 1 {
			t.Errorf("%s is there %d times", n, len(files))
			continue
		}
		buf := make([]byte, 100)
		size, err := unix.Lgetxattr(files[0], "user.containers.override_stat", buf)
		var st unix.Stat_t
		if serr := unix.Lstat(files[0], &st); serr != nil || st.Size != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
			t.Errorf("%s is no empty file: %v", n, serr)
		}
		if err != nil {
			got[i] = err.Error()
			continue
		}
		got[i] = string(buf[:size])
	}
	return got
}

func TestRootlessDevices(t *testing.T) {
	run := rootless(t)
	script := `set -e
mkdir -p /d/sub /c/in /g; ln -s d/sub /l; chmod 2755 /g; chown 0:7 /g
cd /d; mknod rel c 1 3; mknod ../up b 8 17; mknod /l/through c 4 64; mknod ./sub/../dots c 1 5
(umask 027; mknod masked c 5 1); mknod -m 600 mode c 5 2; mknod /g/group b 259 70000
mknod later c 10 229; chown 33:44 later; mv later moved; chmod 4711 moved
mknod gone c 1 3; rm gone
cp /bin/busybox /c/busybox; chroot /c /busybox mknod /in/abs c 1 7; chroot /c /busybox mknod ../../../esc c 1 8
i=0; while [ $i -lt 300 ]; do mknod /d/sub/n$i c 1 3; i=$((i+1)); done
for j in 1 2 3 4 5; do (mknod /d/p$j c 1 9) & done; wait
ls /esc 2>/dev/null || echo none
mkfifo fifo; test -p fifo; test -f rel; mknod fifo2 p; test -p fifo2
`
	cmd := run(script)
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "none\n" {
		t.Fatalf("got %q, %v", out, err)
	}
	want := [][2]string{
		{"upper/d/rel", "0:0:644:char-1-3"},
		{"upper/up", "0:0:644:block-8-17"},
		{"upper/d/sub/through", "0:0:644:char-4-64"},
		{"upper/d/dots", "0:0:644:char-1-5"},
		{"upper/d/masked", "0:0:640:char-5-1"},
		{"upper/d/mode", "0:0:600:char-5-2"},
		{"upper/g/group", "0:7:644:block-259-70000"},
		{"upper/d/moved", "33:44:4711:char-10-229"},
		{"upper/c/in/abs", "0:0:644:char-1-7"},
		{"upper/c/esc", "0:0:644:char-1-8"},
		{"upper/d/sub/n299", "0:0:644:char-1-3"},
		{"upper/d/p5", "0:0:644:char-1-9"},
	}
	for _, w := range want {
		if got := devicesOf(t, cmd, w[0]); got[0] != w[1] {
			t.Errorf("%s: got %q, want %q", w[0], got[0], w[1])
		}
	}
}

func TestRootlessDevicesRefused(t *testing.T) {
	run := rootless(t)
	for _, c := range []struct{ script, want, arg string }{
		{"mknod /x c 1 3 && mknod /x c 1 3", "File exists", "host"},
		{"mkdir /e; mknod /e c 1 3", "File exists", "host"},
		{"ln -s nothing /s; mknod /s c 1 3", "File exists", "host"},
		{"mknod /none/x c 1 3", "No such file or directory", "host"},
		{"mknod /slash/ c 1 3", "No such file or directory", "host"},
		{"touch /f; mknod /f/x c 1 3", "Not a directory", "host"},
		{"mknod /proc/1/cwd/x c 1 3", "Too many levels of symbolic links", "host"},
		{"mknod /ro/x c 1 3", "Read-only file system", "mounts"},
		{"mknod /sys/x c 1 3", "Permission denied|Operation not permitted|Read-only file system", "host"},
		{"mknod /white c 0 0", "Operation not permitted", "host"},
		{"cd /dev/shm && mknod x c 1 3", "Operation not permitted", "user=app"},
		{"cd /dev/shm && mkfifo p && test -p p && mknod x b 8 1", "Operation not permitted", "user=app"},
		{"mknod /x" + string(bytes.Repeat([]byte("x"), 300)) + " c 1 3", "File name too long", "host"},
	} {
		cmd := run(c.script, c.arg)
		out, err := cmd.CombinedOutput()
		if err == nil || !matchesAny(string(out), c.want) {
			t.Errorf("%s: got %q, %v, want %q", c.script, out, err, c.want)
		}
	}
}

func matchesAny(text, alternatives string) bool {
	for a := range bytes.SplitSeq([]byte(alternatives), []byte("|")) {
		if bytes.Contains([]byte(text), a) {
			return true
		}
	}
	return false
}

// Devices in other mounts are made there.
func TestRootlessDevicesInMounts(t *testing.T) {
	run := rootless(t)
	cmd := run("mknod /rw/x c 1 3 && mknod /c/y b 8 1 && mknod /dev/z c 1 3", "mounts")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("got %q, %v", out, err)
	}
	if got := devicesOf(t, cmd, "cache/sub/y"); got[0] != "0:0:644:block-8-1" {
		t.Errorf("got %q", got)
	}
}

// A step that ends while others of its processes still make devices ends as always.
func TestRootlessDevicesEnd(t *testing.T) {
	run := rootless(t)
	cmd := run("for j in 1 2 3; do (i=0; while :; do mknod /n$j-$i c 1 3; i=$((i+1)); done) & done; until [ -e /n1-9 -a -e /n2-9 -a -e /n3-9 ]; do :; done; exit 7")
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("got %v", err)
	}
	files, err := filepath.Glob(filepath.Join(cmd.Args[1], "box-*/upper/n*"))
	if err != nil || len(files) == 0 {
		t.Errorf("%d devices: %v", len(files), err)
	}
	for _, f := range files {
		if _, err := unix.Lgetxattr(f, "user.containers.override_stat", nil); err != nil {
			t.Errorf("%s has no attribute: %v", f, err)
		}
	}
}
