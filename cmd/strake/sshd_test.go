package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// sshdPath is where Debian has it, which is not in everybody's PATH.
const sshdPath = "/usr/sbin/sshd"

// sshd starts a real server for git over ssh in a folder: it makes a host key and a client's key there, and knows the latter.
// The server runs as the ordinary user, if this is root, so that it needs nothing of the machine's own.
func (u *testUser) sshd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sshd DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	name, attr := "", &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		u.once.Do(u.make)
		ts.Check(u.err)
		uid, _ := strconv.Atoi(u.uid)
		gid, _ := strconv.Atoi(u.gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		ts.Check(os.Chown(dir, uid, gid))
		name = fmt.Sprintf("strks%d", os.Getpid())
	} else {
		me, err := user.Current()
		ts.Check(err)
		name = me.Username
	}
	if _, err := os.Stat(filepath.Join(dir, "key")); errors.Is(err, os.ErrNotExist) {
		for _, key := range []string{"hostkey", "key"} {
			keygen := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", filepath.Join(dir, key))
			keygen.SysProcAttr = attr
			out, err := keygen.CombinedOutput()
			if err != nil {
				ts.Fatalf("ssh-keygen: %v\n%s", err, out)
			}
		}
	}
	port := ts.Getenv("SSHD_PORT")
	if port == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		port = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		l.Close()
	}
	config := filepath.Join(dir, "config")
	text := strings.NewReplacer("DIR", dir, "PORT", port).Replace(`ListenAddress 127.0.0.1:PORT
HostKey DIR/hostkey
AuthorizedKeysFile DIR/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*
`)
	ts.Check(os.WriteFile(config, []byte(text), 0o644))
	log, err := os.Create(filepath.Join(dir, "log"))
	ts.Check(err)
	defer log.Close()
	server := exec.Command(sshdPath, "-D", "-e", "-f", config)
	server.Stdout, server.Stderr, server.SysProcAttr = log, log, attr
	ts.Check(server.Start())
	ts.Defer(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(until) {
			out, _ := os.ReadFile(log.Name())
			ts.Fatalf("sshd does not answer: %v\n%s", err, out)
		}
	}
	ts.Setenv("SSHD_PORT", port)
	ts.Setenv("SSHD_PID", strconv.Itoa(server.Process.Pid))
	ts.Setenv("SSHD_URL", "ssh://"+name+"@127.0.0.1:"+port)
}
