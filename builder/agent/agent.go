// Package agent lends ssh agents to the steps of a build (RUN --mount=type=ssh): an
// agent that runs already, by its socket, or keys from files, which strake then serves
// itself.
//
// A step gets a socket of its own, in a folder that nobody else may enter, and may
// only list keys and sign with them. Both ends are hostile: a step may send
// anything, as often as it likes, and must neither change the user's agent nor exhaust
// strake.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"
)

// maxKey bounds a key file, in bytes.
const maxKey = 100 << 10

// ErrPassphrase wraps what is said of a key file that is protected by a passphrase: nobody is there to type it.
var ErrPassphrase = errors.New("the key is protected by a passphrase")

// Source is an agent that steps may use.
type Source struct {
	socket string         // of an agent that runs
	keys   sshagent.Agent // if socket is empty
}

// Open opens what paths name: the socket of one agent, or files with private keys, which are read now. A key that
// is protected by a passphrase is an error that wraps ErrPassphrase.
func Open(paths ...string) (*Source, error) {
	if len(paths) == 0 {
		return nil, errors.New("no agent and no key is named")
	}
	keys := sshagent.NewKeyring()
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if st.Mode().Type() == os.ModeSocket {
			if len(paths) > 1 {
				return nil, fmt.Errorf("%s is the socket of an agent: it cannot be used together with others", p)
			}
			abs, err := filepath.Abs(p)
			return &Source{socket: abs}, err
		}
		key, err := readKey(p, st)
		if err != nil {
			return nil, err
		}
		if err := keys.Add(sshagent.AddedKey{PrivateKey: key}); err != nil {
			return nil, fmt.Errorf("the key %s: %w", p, err)
		}
	}
	return &Source{keys: keys}, nil
}

// readKey reads a private key in any form that ssh-keygen writes.
func readKey(path string, st os.FileInfo) (any, error) {
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is neither the socket of an ssh agent nor a file with a private key", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKey {
		return nil, fmt.Errorf("%s is too large for a private key", path)
	}
	key, err := ssh.ParseRawPrivateKey(text)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("%s: %w: add it to an agent (ssh-add) and name that instead", path, ErrPassphrase)
	}
	if err != nil {
		// The parser's words could quote the file.
		return nil, fmt.Errorf("%s is neither the socket of an ssh agent nor a file with a private key", path)
	}
	return key, nil
}

// dial connects to the agent.
func (s *Source) dial(ctx context.Context) (net.Conn, error) {
	if s.socket != "" {
		return dialUnix(ctx, s.socket)
	}
	ours, theirs := net.Pipe()
	go func() {
		_ = sshagent.ServeAgent(s.keys, theirs) // it ends when ours is closed
		_ = theirs.Close()
	}()
	return ours, nil
}

// Agents lends sources to steps, by their ids. It is safe for concurrent use.
type Agents struct {
	dir     string
	sources map[string]*Source
}

// New makes an Agents. dir is a folder for sockets, which exists; each is gone when its step ends.
func New(dir string, sources map[string]*Source) *Agents {
	return &Agents{dir: dir, sources: sources}
}

// Listen opens a socket that speaks to the agent id, owned by uid and gid (-1 is that of the process), with mode (permission bits), and returns its
// path. closeSocket ends it and every connection to it, and waits until that is done; so does the end of ctx, but for removing the socket.
// ok is false if there is no such agent.
func (a *Agents) Listen(ctx context.Context, id string, mode uint32, uid, gid int) (path string, closeSocket func(), ok bool, err error) {
	src := a.sources[id]
	if src == nil {
		return "", nil, false, nil
	}
	if src.socket != "" {
		// Before the step begins: an agent that is gone would be a riddle in the step's output.
		c, err := src.dial(ctx)
		if err != nil {
			return "", nil, false, fmt.Errorf("connecting to the ssh agent: %w", err)
		}
		_ = c.Close()
	}
	dir, err := os.MkdirTemp(a.dir, "ssh-")
	if err != nil {
		return "", nil, false, fmt.Errorf("making a socket: %w", err)
	}
	path = filepath.Join(dir, "agent")
	l, err := listenUnix(dir, "agent")
	if err == nil {
		err = errors.Join(os.Chown(path, uid, gid), os.Chmod(path, os.FileMode(mode&0o777)))
	}
	if err != nil {
		if l != nil {
			_ = l.Close()
		}
		return "", nil, false, errors.Join(fmt.Errorf("making a socket: %w", err), os.RemoveAll(dir))
	}
	s := newServer(ctx, l, src.dial)
	return path, func() {
		s.stop()
		_ = os.RemoveAll(dir)
	}, true, nil
}

// maxAddress is how long the path of a socket may be that a program connects to: sun_path of unix(7), without the byte that ends it.
const maxAddress = 107

// Address returns what a program of this machine can connect to the socket by that Listen made at path, however long that is. It holds while this
// process runs, until closeAddress is called.
func Address(path string) (address string, closeAddress func(), err error) {
	if len(path) <= maxAddress {
		return path, func() {}, nil
	}
	self, err := os.Readlink("/proc/self") // by what /proc knows this process
	if err != nil {
		return "", nil, fmt.Errorf("naming a socket: %w", err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, fmt.Errorf("naming a socket: %w", err)
	}
	address = fmt.Sprintf("/proc/%s/fd/%d/%s", self, d.Fd(), filepath.Base(path))
	return address, func() { _ = d.Close() }, nil
}

// listenUnix listens on dir/name. A socket's address must be short, and a store's path may be long: the folder is named by its descriptor.
func listenUnix(dir, name string) (*net.UnixListener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: descriptor(d) + "/" + name, Net: "unix"})
	if err == nil {
		l.SetUnlinkOnClose(false) // its name is not valid any more; the folder is removed
	}
	return l, err
}

// dialUnix connects to the socket at path, which may be longer than an address.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", descriptor(d)+"/"+filepath.Base(path))
	var op *net.OpError
	if errors.As(err, &op) {
		err = &os.PathError{Op: "connecting to", Path: path, Err: op.Err}
	}
	return c, err
}

func descriptor(d *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) }
