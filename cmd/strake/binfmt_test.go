package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// emulator is what runs programs for arm64, and its registration, all but the flags: how Debian's qemu-user-static does it.
const (
	emulator     = "/usr/bin/qemu-aarch64-static"
	registration = `:qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:` +
		`\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:` + emulator + `:`
)

// inNamespace prepares a command to run as root of a user namespace in which all ids are what they are outside. Such a namespace
// has a binfmt_misc of its own (since Linux 6.7): what is registered there is nobody else's business.
func inNamespace(script string, args ...string) *exec.Cmd {
	cmd := exec.Command("sh", append([]string{"-e", "-c", script, "sh"}, args...)...)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{NoSetGroups: true}, Pdeathsig: syscall.SIGKILL,
	}
	return cmd
}

const mountBinfmt = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc\n"

// whyNoBinfmt is what keeps this machine from trying emulators: it depends on the kernel, so it is not required.
var whyNoBinfmt = sync.OnceValue(func() string {
	if os.Getuid() != 0 {
		return "this needs root"
	}
	if out, err := inNamespace(mountBinfmt + "test -w /proc/sys/fs/binfmt_misc/register").CombinedOutput(); err != nil {
		return fmt.Sprintf("binfmt_misc cannot be mounted in a user namespace, which needs Linux 6.7 with CONFIG_BINFMT_MISC: %v: %s", err, out)
	}
	if _, err := os.Stat(emulator); err != nil && !required() {
		return "this needs Debian's qemu-user-static"
	}
	return ""
})

// TestBinfmt says why the script binfmt is not run, where it is not.
func TestBinfmt(t *testing.T) {
	if why := whyNoBinfmt(); why != "" {
		if required() {
			fmt.Fprintln(os.Stderr, "NOT TESTED: steps for other platforms with an emulator: "+why)
		}
		t.Skip(why)
	}
}

// cmdEmulate runs a command where the emulator is registered.
func cmdEmulate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: emulate FLAGS COMMAND...")
	}
	cmd := inNamespace(mountBinfmt+`printf %s "$1" >/proc/sys/fs/binfmt_misc/register`+"\nshift\nexec \"$@\"", append([]string{registration + args[0]}, args[1:]...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "STRAKE_ROOT=" + ts.MkAbs("emulated-store")} // root's cannot be used there
	out, err := cmd.CombinedOutput()
	ts.Check(os.WriteFile(ts.MkAbs("emulated"), out, 0o644))
	ts.Logf("[emulate]\n%s", out)
	if err != nil {
		ts.Check(os.WriteFile(ts.MkAbs("emulated"), append(out, []byte("\nended: "+err.Error()+"\n")...), 0o644))
	}
}

// cmdCompile compiles a Go program, a file without imports of others than Go's own, statically for a kind of machine.
func cmdCompile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: compile GOARCH FILE OUT")
	}
	goTool := filepath.Join(os.Getenv("GOROOT"), "bin", "go")
	if _, err := os.Stat(goTool); err != nil {
		goTool, err = exec.LookPath("go")
		ts.Check(err)
	}
	cmd := exec.Command(goTool, "build", "-trimpath", "-ldflags=-s -w", "-o", ts.MkAbs(args[2]), ts.MkAbs(args[1]))
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "GO111MODULE=off", "GOFLAGS=", "CGO_ENABLED=0", "GOARCH="+args[0])
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("go build: %v\n%s", err, out)
	}
}
