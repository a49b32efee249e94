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

	"github.com/strake-build/strake/cache/remote/remotetest"
)

// sshdPath is where Debian has it, which is not in everybody's PATH.
const sshdPath = "/usr/sbin/sshd"

// sshServer is a script's server: the value under the key sshServer{}.
type sshServer struct {
	address string        // empty before the first start
	process *os.Process   // nil likewise
	ended   chan struct{} // closed when it has
}

// sshd starts a real server for git over ssh in a folder: it makes a host key and a client's key there, and knows the latter.
// The server runs as the ordinary user, if this is root, so that it needs nothing of the machine's own. A script's next one has the same address.
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
	s := ts.Value(sshServer{}).(*sshServer)
	if s.address == "" {
		s.address = remotetest.Address(testOf(ts))
	}
	s.start(ts, dir, attr)
	_, port, err := net.SplitHostPort(s.address)
	ts.Check(err)
	ts.Setenv("SSHD_PORT", port)
	ts.Setenv("SSHD_URL", "ssh://"+name+"@"+s.address)
}

// start ends the server that is there, starts one, and returns when it listens.
func (s *sshServer) start(ts *testscript.TestScript, dir string, attr *syscall.SysProcAttr) {
	s.stop()
	config := filepath.Join(dir, "config")
	text := strings.NewReplacer("DIR", dir, "ADDRESS", s.address).Replace(`ListenAddress ADDRESS
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
	ended := make(chan struct{})
	go func() {
		_ = server.Wait() // it is killed in the end
		close(ended)
	}()
	s.process, s.ended = server.Process, ended
	ts.Defer(s.stop)
	for {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-ended:
			out, _ := os.ReadFile(log.Name())
			ts.Fatalf("sshd ended:\n%s", out)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the server, if there is one.
func (s *sshServer) stop() {
	if s.process != nil {
		_ = s.process.Kill() // it may have ended
		<-s.ended
	}
}
