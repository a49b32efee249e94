// Package rungs builds on every rung of the isolation ladder, on the real thing: as root and as users of this machine, and
// in containers of Docker, Podman and runc with their own profiles. The images have to be the same.
//
// "make rungs" runs it, as root, with what "make deps" installs. The packages that TestInstall installs are from Debian's mirror.
package rungs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lab is what all places share: the program, folders, a Docker of our own, users.
type lab struct {
	strake string // readable by everybody
	debian string // the folder with rootfs.tar and certs of testdata/examples/bases/debian
	work   string // everything else, removed at the end
	image  string // the Debian of the containers, unpacked
	docker func() (host string, err error)
	podman func() error
	state  string // of Podman and runc, in a short path
	users  func() error
}

// Users that the tests make: with subordinate ids, and without.
const (
	userMany = "strake-rungs-many"
	userOne  = "strake-rungs-one"
)

func newLab(t *testing.T) *lab {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	if os.Getuid() != 0 {
		lack(t, "needs root, to make users and containers")
	}
	bin, err := filepath.Abs("../../bin")
	must(t, err)
	program, debian := os.Getenv("STRAKE"), os.Getenv("STRAKE_EXAMPLES")
	if program == "" {
		program = filepath.Join(bin, "strake")
	}
	if debian == "" {
		debian = filepath.Join(bin, "examples")
	}
	need(t, "debootstrap", "useradd", "setpriv")
	l := &lab{debian: filepath.Join(debian, "debian")}
	if l.work, err = os.MkdirTemp(openFolder(bin), "rungs."); err != nil { //nolint:usetesting // on the disk of the stores, where users can get to
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, os.RemoveAll(l.work)) })
	must(t, os.Chmod(l.work, 0o755))
	run(t, "../examples/bases/debian/rootfs.sh", l.debian)
	l.strake = filepath.Join(l.dir(t, "bin"), "strake")
	run(t, "install", "-m", "755", program, l.strake)
	l.image = l.dir(t, "image")
	if l.state, err = os.MkdirTemp("", "strake-rungs."); err != nil { //nolint:usetesting // Podman allows no more than 50 bytes
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, os.RemoveAll(l.state)) })
	run(t, "tar", "-xf", filepath.Join(l.debian, "rootfs.tar"), "-C", l.image)
	l.docker = sync.OnceValues(func() (host string, err error) {
		for range 3 { // it ends where it thinks that its containerd takes too long
			if host, err = l.startDocker(t); err == nil {
				break
			}
		}
		return host, err
	})
	l.podman = sync.OnceValue(func() error {
		out, err := exec.Command("podman", append(l.podmanFlags(), "import", "-q", filepath.Join(l.debian, "rootfs.tar"), "debian")...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("podman import: %w: %s", err, out)
		}
		return nil
	})
	l.users = sync.OnceValue(func() error { return makeUsers(t) })
	return l
}

// openFolder returns dir if everybody can reach it, else a folder that is for such things.
func openFolder(dir string) string {
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if fi, err := os.Stat(d); err != nil || fi.Mode()&1 == 0 {
			return "/var/tmp"
		}
	}
	return dir
}

// makeUsers makes the users, and takes them away at the end. What killed tests have left of them goes first.
func makeUsers(t *testing.T) error {
	for _, u := range []string{userMany, userOne} {
		_ = exec.Command("userdel", u).Run()
		args := []string{"--no-create-home", "--home-dir", "/nonexistent", u}
		if u == userOne {
			args = append([]string{"--system"}, args...) // has no subordinate ids
		}
		if out, err := exec.Command("useradd", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("useradd %s: %w: %s", u, err, out)
		}
		t.Cleanup(func() { _ = exec.Command("userdel", u).Run() })
	}
	return nil
}

// dir makes a folder in the work folder.
func (l *lab) dir(t *testing.T, elem ...string) string {
	t.Helper()
	dir := filepath.Join(append([]string{l.work}, elem...)...)
	must(t, os.MkdirAll(dir, 0o755))
	return dir
}

// startDocker starts a dockerd that shares nothing with one that may be running, with the image "debian" in it.
func (l *lab) startDocker(t *testing.T) (string, error) {
	sock, err := os.MkdirTemp("", "strake-rungs.") //nolint:usetesting // a socket's path may have 108 bytes only
	if err != nil {
		return "", err
	}
	host := "unix://" + filepath.Join(sock, "s")
	var log bytes.Buffer
	cmd := exec.Command("dockerd", "--host", host, "--pidfile", filepath.Join(sock, "pid"),
		"--data-root", filepath.Join(l.work, "docker"), "--exec-root", filepath.Join(sock, "exec"),
		"--iptables=false", "--ip6tables=false", "--bridge=none")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		_ = syscall.Unmount(filepath.Join(sock, "exec/netns/default"), syscall.MNT_DETACH) // dockerd leaves it mounted
		_ = os.RemoveAll(sock)
	})
	for deadline := time.Now().Add(2 * time.Minute); exec.Command("docker", "-H", host, "version").Run() != nil; time.Sleep(100 * time.Millisecond) {
		select {
		case <-ended:
			return "", fmt.Errorf("dockerd ended:\n%s", log.String())
		default:
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("dockerd does not start:\n%s", log.String())
		}
	}
	out, err := exec.Command("docker", "-H", host, "import", filepath.Join(l.debian, "rootfs.tar"), "debian").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker import: %w: %s", err, out)
	}
	return host, nil
}

// podmanFlags keep what Podman stores apart from what this machine's stores.
func (l *lab) podmanFlags() []string {
	return []string{
		"--root", filepath.Join(l.work, "podman"), "--runroot", filepath.Join(l.state, "podman"), "--storage-driver", "overlay",
		"--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "runc",
	}
}

// lack skips the test, or fails it where everything has to be there.
func lack(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// need skips the test if a program is not installed, or fails it where everything has to be there.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			lack(t, fmt.Sprintf("%v: \"make deps\" installs it", err))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a program that has to succeed and returns its standard output and error together.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, code := status(t.Context(), t, exec.Command(name, args...))
	if code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s", name, strings.Join(args, " "), code, out)
	}
	return out
}

// status runs cmd, to ctx's end at most, and returns its output and exit code.
func status(ctx context.Context, t *testing.T, cmd *exec.Cmd) (string, int) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Minute
	must(t, cmd.Start())
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	_ = cmd.Wait()
	return out.String(), cmd.ProcessState.ExitCode()
}
