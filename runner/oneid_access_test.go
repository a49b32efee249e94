package runner

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// accessTree makes files of root and of others in /c, for accesses.
const accessTree = `cd /c; umask 022
mkdir open closed closed/in sticky theirs group mine moved; ln -s ../closed/in open/into; ln -s /c/closed open/abs; ln -s ../secret open/link; ln -s ../closed/f open/far
for f in secret public shared grouped closed/f closed/in/f sticky/root sticky/app theirs/f theirs/run open/victim mine/f mine/secret mine/shut old new; do echo text >$f; done
printf '#!/bin/sh\necho ran\n' >program; cp program private; cp program closed/program
chmod 600 secret mine/secret; chmod 666 shared; chown 0:1000 grouped; chmod 640 grouped; chmod 711 theirs; chmod 700 closed; chmod 1777 sticky
chown 1000:1000 mine mine/f mine/shut sticky/app; chmod 000 mine/shut; chmod 755 program; chmod 744 private; chown 0:1000 group; chmod 770 group; chown 2000 old; chmod 666 new
mkdir mine/dir sticky/dir; chmod 777 moved; mkdir moved/root moved/app; chown 1000 moved/app; mkfifo pipe; chmod 600 pipe; mkfifo mypipe; chown 1000 mypipe; chmod 777 .`

// accesses are what a user tries; each is a line of a shell in /c.
var accesses = []string{
	"cat secret", "cat public", "cat grouped", "echo x >>grouped", "echo x >shared", "echo x >>public", "cat mine/secret", "cat mine/shut", "echo x >mine/f",
	"cat <pipe", "dd if=mypipe iflag=nonblock of=/dev/null", "cat open/link", "cat open/into/f", "cat open/abs/in/f", "cat closed/f", "cat closed/none", "cat theirs/f", "cat none",
	"ls theirs", "ls closed", "ls open", "ls mine", "ls -ld closed/f", "stat -c %u:%a closed/in", "readlink open/link", "test -e open/far", "stat -L -c %u open/far", "stat -c %a open/far", "ls -L open", "readlink closed/in/x",
	"test -r secret", "test -w public", "test -w shared", "test -x program", "test -x private", "test -r closed/f", "test -e closed/f", "test -e theirs/f", "test -w theirs", "test -w mine",
	"./program", "./private", "closed/program", "sh private", "cd closed", "cd theirs", "cd mine", "cd public",
	"rm -f open/victim", "rm -f mine/f", "rm -f mine/secret", "rm -f sticky/root", "rm -f sticky/app", "rm -f closed/f", "rm -f theirs/none", "rmdir sticky/dir", "rmdir mine/dir", "rmdir closed/in", "rmdir none",
	"mv sticky/root mine/stolen", "mv public mine/public", "mv mine/shut group/shut", "mv group/shut open/shut", "mv group/shut sticky/shut", "mv moved/root mine/root", "mv moved/app mine/app", "mv theirs/run mine/run",
	"mv mine/app closed/app", "mv -T new old", "ln grouped mine/hard", "ln mine/run mine/hard", "ln shared theirs/hard",
	"chmod 777 shared", "chmod 600 mine/public", "chmod 640 mine/shut", "chmod 755 closed/in", "chmod 700 mine", "chmod 700 .",
	"touch public", "touch shared", "touch -d @5 shared", "touch -d @5 mine", "touch -h -d @5 open/link", "truncate -s 1 shared", "truncate -s 1 secret", "truncate -s 1 mine/stolen",
	"touch group/made", "touch theirs/made", "touch closed/in/made", "mkdir closed/made", "ln -s x closed/made", "mkfifo open/made", "chown 1000 secret", "chown 1000 closed/f", "chgrp 1000 mine",
	"cat /proc/self/environ >/dev/null", "echo x >/dev/stdout", "cat </dev/null", "cat /dev/stdin </c/old", "cat /etc/passwd >/dev/null", "chroot /c /program",
	"cp private mine/copy", "cp secret mine/copy2", "cp -r closed mine/closed", "find closed theirs open group -type f",
}

// A step of another user than root is told the same with one id as on rung root, in boxes of all kinds, and leaves the same.
func TestOneIDAccess(t *testing.T) {
	run := asUser(t, false)
	rootData := publicDir(t)
	makeRoot(t, filepath.Join(rootData, "lower"))
	for _, err := range []error{
		os.MkdirAll(filepath.Join(rootData, "lower/etc"), 0o755),
		os.WriteFile(filepath.Join(rootData, "lower/etc/passwd"), []byte("app:x:1000:1000::/home/app:/bin/sh\n"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := tryAccesses(t, func(args ...string) *exec.Cmd {
		return helperCommand(t, rootData, "run", append([]string{rootData}, args...)...)
	})
	boxes := pidNamespaces()
	boxes["insecure"] = []string{"insecure"}
	for name, more := range boxes {
		for i, got := range tryAccesses(t, func(args ...string) *exec.Cmd { return run(args[0], append(args[1:], more...)...) }) {
			if got != want[i] {
				t.Errorf("%s: with one id: %sas root: %s", name, got, want[i])
			}
		}
	}
}

// tryAccesses tries all accesses in boxes that share a directory, and returns what came of each, and of their files. The function returns a command
// that runs a script, its first argument, in a box.
func tryAccesses(t *testing.T, box func(args ...string) *exec.Cmd) []string {
	t.Helper()
	shared := publicDir(t)
	if cred := box("").SysProcAttr; cred != nil {
		if err := os.Chown(shared, int(cred.Credential.Uid), int(cred.Credential.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	var script strings.Builder
	for _, a := range accesses {
		script.WriteString("echo '## " + a + "'; (cd /c; " + a + ") 2>&1; echo \"exit code $?\"\n")
	}
	var all string
	for _, args := range [][]string{
		{accessTree},
		{script.String(), "user=app"},
		{"echo '## what is left'; cd /c; find . | sort | while read f; do stat -c '%n %u:%g %a %h' $f; done"},
	} {
		out, err := box(append(args, "cache="+shared)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		all += string(out)
	}
	results := strings.Split(all, "## ")
	if len(results) != len(accesses)+2 {
		t.Fatalf("%d accesses gave %d results:\n%s", len(accesses), len(results), all)
	}
	return results
}
