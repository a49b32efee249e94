package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

const (
	// maxMessage bounds a message, in bytes. OpenSSH's agent takes no longer ones.
	maxMessage = 256 << 10
	// maxConnections is how many connections of a step are served at once; further ones wait.
	maxConnections = 32
)

// The messages of the agent protocol that a step may send (draft-ietf-sshm-ssh-agent, section 6.1), and the answer
// to all others.
const (
	requestIdentities = 11
	signRequest       = 13
	extension         = 27
	failure           = 5
)

// server serves one socket.
type server struct {
	listener *net.UnixListener
	dial     func(context.Context) (net.Conn, error)
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	slots    chan struct{}
}

// newServer serves l until stop is called or ctx ends.
func newServer(ctx context.Context, l *net.UnixListener, dial func(context.Context) (net.Conn, error)) *server {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{listener: l, dial: dial, cancel: cancel, slots: make(chan struct{}, maxConnections)}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	s.wg.Go(func() { s.accept(ctx) })
	return s
}

// stop ends the server with all connections.
func (s *server) stop() {
	s.cancel()
	_ = s.listener.Close()
	s.wg.Wait()
}

func (s *server) accept(ctx context.Context) {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		c, err := s.listener.Accept()
		if err != nil {
			return // it was closed
		}
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			_ = s.serve(ctx, c) // the client sees that its connection ends
		})
	}
}

// serve connects one client to an agent connection of its own: agents remember things by connection (session-bind).
func (s *server) serve(ctx context.Context, client net.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	defer client.Close()
	agent, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer agent.Close()
	stopAgent := context.AfterFunc(ctx, func() { _ = agent.Close() })
	defer stopAgent()
	return forward(client, agent)
}

// forward passes messages to the agent and its answers back, one after the other, until a side ends. What could change the
// agent (adding and removing keys, locking) is answered with a failure, and so is what no agent knows.
func forward(client, agent io.ReadWriter) error {
	var buf []byte
	for {
		var err error
		if buf, err = receive(client, buf); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("reading from the step: %w", err)
		}
		switch buf[4] {
		case requestIdentities, signRequest, extension:
			if _, err := agent.Write(buf); err != nil {
				return fmt.Errorf("writing to the ssh agent: %w", err)
			}
			if buf, err = receive(agent, buf); err != nil {
				return fmt.Errorf("reading from the ssh agent: %w", err)
			}
		default:
			buf = append(buf[:0], 0, 0, 0, 1, failure)
		}
		if _, err := client.Write(buf); err != nil {
			return fmt.Errorf("writing to the step: %w", err)
		}
	}
}

// receive reads a message with its length in front (section 3), into buf if it fits. The memory grows with what really
// comes, not with what a length promises.
func receive(r io.Reader, buf []byte) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return buf, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n < 1 || n > maxMessage {
		return buf, fmt.Errorf("a message of %d bytes", n)
	}
	buf = append(buf[:0], head[:]...)
	const step = 4 << 10
	for len(buf) < 4+n {
		at := len(buf)
		buf = append(buf, make([]byte, min(step, 4+n-at))...)
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return buf, err
		}
	}
	return buf, nil
}
