package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// message is a netlink message in the making: a header, what its kind begins with, attributes (netlink(7)).
type message struct {
	data  []byte
	nests []int // where the open nested attributes begin
}

// newMessage begins a message whose fixed part is body.
func newMessage(kind, flags uint16, body []byte) *message {
	m := &message{data: make([]byte, unix.SizeofNlMsghdr, 256)}
	binary.NativeEndian.PutUint16(m.data[4:], kind)
	binary.NativeEndian.PutUint16(m.data[6:], flags|unix.NLM_F_REQUEST)
	m.data = append(m.data, body...)
	return m
}

// attr adds an attribute.
func (m *message) attr(kind uint16, value []byte) *message {
	m.data = binary.NativeEndian.AppendUint16(m.data, uint16(unix.SizeofRtAttr+len(value)))
	m.data = binary.NativeEndian.AppendUint16(m.data, kind)
	m.data = append(m.data, value...)
	for len(m.data)%unix.RTA_ALIGNTO != 0 {
		m.data = append(m.data, 0)
	}
	return m
}

// text adds a string that ends with a zero byte.
func (m *message) text(kind uint16, value string) *message {
	return m.attr(kind, append([]byte(value), 0))
}

// number adds a number in the machine's byte order, as routing has it.
func (m *message) number(kind uint16, value uint32) *message {
	return m.attr(kind, binary.NativeEndian.AppendUint32(nil, value))
}

// big adds a number in the network's byte order, as nftables has it.
func (m *message) big(kind uint16, value uint32) *message {
	return m.attr(kind, binary.BigEndian.AppendUint32(nil, value))
}

// nest begins an attribute of attributes, which end ends. body is what comes before these.
func (m *message) nest(kind uint16, body ...byte) *message {
	m.nests = append(m.nests, len(m.data))
	return m.attr(kind|unix.NLA_F_NESTED, body)
}

func (m *message) end() *message {
	at := m.nests[len(m.nests)-1]
	m.nests = m.nests[:len(m.nests)-1]
	binary.NativeEndian.PutUint16(m.data[at:], uint16(len(m.data)-at))
	return m
}

// socket speaks netlink with the network namespace that it was made in.
type socket struct {
	mu  sync.Mutex
	fd  int
	seq uint32
}

// openSocket opens a socket of the calling thread's network namespace.
func openSocket(protocol int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	s := &socket{fd: fd}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		s.close()
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	// The kernel then says in words what it does not like; old ones cannot.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	return s, nil
}

func (s *socket) close() { unix.Close(s.fd) }

// do sends messages as one, waits until the kernel has done what they ask for, and hands what it answers to each, which may be nil.
// Messages without NLM_F_ACK and NLM_F_DUMP are not waited for.
func (s *socket) do(each func(kind uint16, data []byte), messages ...*message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []byte
	waiting := map[uint32]bool{}
	for _, m := range messages {
		s.seq++
		binary.NativeEndian.PutUint32(m.data, uint32(len(m.data)))
		binary.NativeEndian.PutUint32(m.data[8:], s.seq)
		if flags := binary.NativeEndian.Uint16(m.data[6:]); flags&(unix.NLM_F_ACK|unix.NLM_F_DUMP) != 0 {
			waiting[s.seq] = true
		}
		all = append(all, m.data...)
	}
	if err := unix.Sendto(s.fd, all, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("asking the kernel: %w", err)
	}
	buf := make([]byte, 64<<10)
	for len(waiting) > 0 {
		n, _, err := unix.Recvfrom(s.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("waiting for the kernel: %w", err)
		}
		if err := answers(buf[:n], waiting, each); err != nil {
			return err
		}
	}
	return nil
}

// answers takes one packet of the kernel's answers apart.
func answers(data []byte, waiting map[uint32]bool, each func(uint16, []byte)) error {
	for len(data) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(data))
		if length < unix.SizeofNlMsghdr || length > len(data) {
			return errors.New("the kernel's answer is cut off")
		}
		kind, seq, body := binary.NativeEndian.Uint16(data[4:]), binary.NativeEndian.Uint32(data[8:]), data[unix.SizeofNlMsghdr:length]
		flags := binary.NativeEndian.Uint16(data[6:])
		data = data[min(len(data), (length+3)&^3):]
		if !waiting[seq] {
			continue // of an earlier call that failed
		}
		switch kind {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			delete(waiting, seq)
			if err := answerError(body, flags); err != nil {
				return err
			}
		default:
			if each != nil {
				each(kind, body)
			}
		}
	}
	return nil
}

// answerError is what NLMSG_ERROR or NLMSG_DONE say.
func answerError(body []byte, flags uint16) error {
	if len(body) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(body))
	if code == 0 {
		return nil
	}
	err := error(unix.Errno(-code))
	if flags&unix.NLM_F_ACK_TLVS == 0 || len(body) < 4+unix.SizeofNlMsghdr {
		return err
	}
	skip := 4 + unix.SizeofNlMsghdr
	if flags&unix.NLM_F_CAPPED == 0 {
		skip = 4 + int(binary.NativeEndian.Uint32(body[4:]))
	}
	if skip > len(body) {
		return err
	}
	for kind, value := range attributes(body[skip:]) {
		if kind == unix.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w (%s)", err, cString(value))
		}
	}
	return err
}

// attributes goes through attributes.
func attributes(data []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(data) >= unix.SizeofRtAttr {
			length, kind := int(binary.NativeEndian.Uint16(data)), binary.NativeEndian.Uint16(data[2:])
			if length < unix.SizeofRtAttr || length > len(data) {
				return
			}
			if !yield(kind&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), data[unix.SizeofRtAttr:length]) {
				return
			}
			data = data[min(len(data), (length+3)&^3):]
		}
	}
}

// cString is a string up to its zero byte.
func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
