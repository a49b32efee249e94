package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// pool is the file that the bridge is shared by, held open once per box. Its bytes are locks, which end with the process that has them: byte 0
// is held by who changes something, byte n by the box that has the n-th address of the subnet. What is in it is a state.
type pool struct{ file *os.File }

// state says what was changed on the host for the bridge; without a subnet, nothing is.
type state struct {
	Subnet  netip.Prefix // the bridge has its first address
	Opened  []string     // interfaces whose forwarding was turned on
	Allowed bool         // the chain FORWARD of iptables was told to let boxes through
}

// The addresses of a subnet of 24 bits that boxes get.
const (
	firstHost = 2
	lastHost  = 254
)

// openPool opens the file of this network namespace in dir. If it is missing, it is made, or nil returned.
func openPool(dir string, make bool) (*pool, error) {
	id, err := namespaceID()
	if err != nil {
		return nil, err
	}
	name := filepath.Join(dir, "network-"+id)
	flags := os.O_RDWR
	if make {
		flags |= os.O_CREATE
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("making the directory for networks: %w", err)
		}
	}
	f, err := os.OpenFile(name, flags|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrNotExist) && !make {
		return nil, nil //nolint:nilnil // there is none, and that is no error
	}
	if err != nil {
		return nil, fmt.Errorf("opening the network's locks: %w", err)
	}
	return &pool{f}, nil
}

// namespaceID tells the network namespace of this process from all others since the machine was started.
func namespaceID() (string, error) {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("identifying the network: %w", err)
	}
	defer unix.Close(s)
	if cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		return fmt.Sprintf("%x", cookie), nil
	}
	var st unix.Stat_t // before Linux 5.14; the number may come again when a namespace is gone
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil {
		return "", fmt.Errorf("identifying the network: %w", err)
	}
	return fmt.Sprintf("i%x", st.Ino), nil
}

func (p *pool) lockByte(cmd int, kind int16, n int64) error {
	return unix.FcntlFlock(p.file.Fd(), cmd, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: n, Len: 1})
}

// lock waits until nobody else changes anything.
func (p *pool) lock() error {
	for {
		err := p.lockByte(unix.F_OFD_SETLKW, unix.F_WRLCK, 0)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (p *pool) unlock() { _ = p.lockByte(unix.F_OFD_SETLK, unix.F_UNLCK, 0) }

// take takes an address.
func (p *pool) take() (byte, error) {
	for n := int64(firstHost); n <= lastHost; n++ {
		err := p.lockByte(unix.F_OFD_SETLK, unix.F_WRLCK, n)
		if err == nil {
			return byte(n), nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return 0, fmt.Errorf("taking an address: %w", err)
		}
	}
	return 0, fmt.Errorf("all %d addresses of the bridge are taken: run fewer boxes at once, or use --network host", lastHost-firstHost+1)
}

// others says whether another box has an address.
func (p *pool) others() (bool, error) {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: firstHost, Len: lastHost - firstHost + 1}
	if err := unix.FcntlFlock(p.file.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return false, fmt.Errorf("looking for other boxes: %w", err)
	}
	return l.Type != unix.F_UNLCK, nil
}

// read reads the state. A damaged one is none.
func (p *pool) read() (state, error) {
	var s state
	data, err := io.ReadAll(io.NewSectionReader(p.file, 0, 1<<16))
	if err != nil {
		return s, fmt.Errorf("reading the network's state: %w", err)
	}
	if json.Unmarshal(data, &s) == nil {
		return s, nil
	}
	return state{}, nil
}

// write writes the state; the zero one empties the file.
func (p *pool) write(s state) error {
	err := p.file.Truncate(0)
	if err == nil && s.Subnet.IsValid() {
		var data []byte
		if data, err = json.Marshal(s); err == nil {
			_, err = p.file.WriteAt(data, 0)
		}
	}
	if err != nil {
		return fmt.Errorf("writing the network's state: %w", err)
	}
	return nil
}

func (p *pool) close() error { return p.file.Close() }
