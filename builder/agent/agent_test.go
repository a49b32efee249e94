package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"
)

// keyFile writes a private key.
func keyFile(t *testing.T, passphrase string) (path string, public ssh.PublicKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "test")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if public, err = ssh.NewPublicKey(pub); err != nil {
		t.Fatal(err)
	}
	return path, public
}

func open(t *testing.T, paths ...string) *Source {
	t.Helper()
	s, err := Open(paths...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// listen lends src and returns the socket.
func listen(t *testing.T, src *Source, mode uint32, uid, gid int) (path string, closeSocket func()) {
	t.Helper()
	// Longer than the address of a socket.
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path, closeSocket, ok, err := New(dir, map[string]*Source{"default": src}).Listen(t.Context(), "default", mode, uid, gid)
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	t.Cleanup(closeSocket)
	return path, closeSocket
}

func connect(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := dialUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// use lists the only key, signs with it, and tries to change the agent.
func use(t *testing.T, socket string, want ssh.PublicKey) {
	t.Helper()
	c := sshagent.NewClient(connect(t, socket))
	keys, err := c.List()
	if err != nil || len(keys) != 1 || !bytes.Equal(keys[0].Marshal(), want.Marshal()) {
		t.Fatalf("listed %v, %v", keys, err)
	}
	data := []byte("to be signed")
	sig, err := c.Sign(want, data)
	if err != nil {
		t.Fatal(err)
	}
	if err := want.Verify(data, sig); err != nil {
		t.Error(err)
	}
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"add": c.Add(sshagent.AddedKey{PrivateKey: other}), "remove": c.Remove(want), "remove all": c.RemoveAll(), "lock": c.Lock([]byte("x")),
	} {
		if err == nil {
			t.Errorf("%s was allowed", what)
		}
	}
	if keys, err := c.List(); err != nil || len(keys) != 1 {
		t.Errorf("afterwards %v, %v", keys, err)
	}
}

func TestKeys(t *testing.T) {
	path, public := keyFile(t, "")
	socket, closeSocket := listen(t, open(t, path), 0o640, os.Getuid(), os.Getgid())
	use(t, socket, public)
	st, err := os.Stat(socket)
	if err != nil || st.Mode() != os.ModeSocket|0o640 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Dir(socket)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	waiting := connect(t, socket)
	closeSocket()
	if n, err := waiting.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a connection outlives its step: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(socket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestOwner(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	path, _ := keyFile(t, "")
	socket, _ := listen(t, open(t, path), 0o600, 1000, 50)
	st, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if s := st.Sys().(*syscall.Stat_t); s.Uid != 1000 || s.Gid != 50 {
		t.Errorf("%d:%d", s.Uid, s.Gid)
	}
}

// runningAgent starts OpenSSH's agent with a key.
func runningAgent(t *testing.T) (socket string, public ssh.PublicKey) {
	t.Helper()
	for _, program := range []string{"ssh-agent", "ssh-add"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	socket = filepath.Join(t.TempDir(), "s")
	agent := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- agent.Wait() }()
	t.Cleanup(func() { _ = agent.Process.Kill(); <-ended })
	for {
		c, err := dialUnix(t.Context(), socket)
		if err == nil {
			c.Close()
			break
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("ssh-agent ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	key, public := keyFile(t, "")
	add := exec.CommandContext(t.Context(), "ssh-add", key)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return socket, public
}

func TestRunningAgent(t *testing.T) {
	running, public := runningAgent(t)
	socket, _ := listen(t, open(t, running), 0o600, os.Getuid(), os.Getgid())
	use(t, socket, public)

	// OpenSSH's own client, which also binds its session.
	list := exec.CommandContext(t.Context(), "ssh-add", "-L")
	address, closeAddress, err := Address(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAddress()
	list.Env = append(os.Environ(), "SSH_AUTH_SOCK="+address)
	if out, err := list.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "ssh-ed25519 ") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestAgentGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	src := open(t, path)
	l.Close()
	dir := t.TempDir()
	_, _, _, err = New(dir, map[string]*Source{"a": src}).Listen(t.Context(), "a", 0o600, 0, 0)
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, _, ok, err := New(dir, nil).Listen(t.Context(), "b", 0o600, 0, 0); ok || err != nil {
		t.Errorf("an agent that does not exist: %v, %v", ok, err)
	}
}

func TestOpen(t *testing.T) {
	key, _ := keyFile(t, "")
	other, _ := keyFile(t, "")
	locked, _ := keyFile(t, "hush")
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, maxKey+1), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Open(locked); !errors.Is(err, ErrPassphrase) {
		t.Errorf("%v", err)
	}
	for _, c := range []struct {
		paths []string
		want  string // of the error; empty for none
	}{
		{[]string{key, other}, ""},
		{[]string{socket}, ""},
		{nil, "no agent"},
		{[]string{key, socket}, "together with others"},
		{[]string{socket, socket}, "together with others"},
		{[]string{text}, "neither the socket"},
		{[]string{filepath.Dir(text)}, "neither the socket"},
		{[]string{large}, "too large"},
		{[]string{filepath.Join(t.TempDir(), "missing")}, "no such file"},
	} {
		_, err := Open(c.paths...)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.paths, err, c.want)
		}
	}
}

func TestHostileStep(t *testing.T) {
	path, public := keyFile(t, "")
	socket, _ := listen(t, open(t, path), 0o600, os.Getuid(), os.Getgid())
	for name, message := range map[string][]byte{
		"huge":  {0xff, 0xff, 0xff, 0xff, signRequest},
		"empty": {0, 0, 0, 0},
	} {
		c := connect(t, socket)
		if _, err := c.Write(message); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: the connection goes on: %v", name, err)
		}
	}
	// More connections than are served at once wait for their turn.
	var many []net.Conn
	for range maxConnections + 10 {
		many = append(many, connect(t, socket))
	}
	for _, c := range many {
		c.Close()
	}
	use(t, socket, public)
}

func TestCancel(t *testing.T) {
	path, _ := keyFile(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	socket, closeSocket, _, err := New(t.TempDir(), map[string]*Source{"a": open(t, path)}).Listen(ctx, "a", 0o600, os.Getuid(), os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	defer closeSocket()
	c := connect(t, socket)
	cancel()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives its build")
	}
}

// FuzzForward sends anything to the agent that strake serves itself.
func FuzzForward(f *testing.F) {
	frame := func(b ...byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	f.Add(frame(requestIdentities))
	f.Add(frame(signRequest, 0, 0, 0, 1, 'x'))
	f.Add(append(frame(17), frame(extension, 0, 0, 0, 5, 'q', 'u', 'e', 'r', 'y')...))
	f.Add([]byte{0, 4, 0, 1, 13})
	f.Fuzz(func(t *testing.T, sent []byte) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys := sshagent.NewKeyring()
		if err := keys.Add(sshagent.AddedKey{PrivateKey: key}); err != nil {
			t.Fatal(err)
		}
		c, err := (&Source{keys: keys}).dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = forward(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(sent), io.Discard}, c)
		if list, err := keys.List(); err != nil || len(list) != 1 {
			t.Errorf("the agent was changed: %v, %v", list, err)
		}
	})
}
