package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// forwarder is where a box finds the forwarder: on its own loopback, which nobody else can reach.
func forwarder() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

const (
	dnsPort     = 53
	dnsTimeout  = 5 * time.Second
	maxQueries  = 256      // at once; more are dropped, and asked again by the client
	maxDatagram = 64 << 10 // of UDP
)

// listeners are the sockets of a forwarder, in the namespace of a box.
type listeners struct {
	udp net.PacketConn
	tcp net.Listener

	upstreams []netip.Addr
	cancel    context.CancelFunc
	slots     chan struct{}
	running   sync.WaitGroup
}

// listenDNS opens them in the network namespace of the calling thread.
func listenDNS(ctx context.Context) (*listeners, error) {
	var lc net.ListenConfig
	at := netip.AddrPortFrom(forwarder(), dnsPort).String()
	udp, err := lc.ListenPacket(ctx, "udp4", at)
	if err != nil {
		return nil, fmt.Errorf("listening for DNS in the box: %w", err)
	}
	tcp, err := lc.Listen(ctx, "tcp4", at)
	if err != nil {
		udp.Close()
		return nil, fmt.Errorf("listening for DNS in the box: %w", err)
	}
	return &listeners{udp: udp, tcp: tcp}, nil
}

// serve starts to ask upstreams, from the network namespace of this process, whatever the box asks.
func (l *listeners) serve(ctx context.Context, upstreams []netip.Addr) {
	l.upstreams, l.slots = upstreams, make(chan struct{}, maxQueries)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it ends with Close
	l.cancel = cancel
	l.running.Add(2)
	go l.serveUDP(ctx)
	go l.serveTCP(ctx)
}

// Close ends the forwarder and what it is in the middle of.
func (l *listeners) Close() error {
	err := errors.Join(l.udp.Close(), l.tcp.Close())
	if l.cancel != nil {
		l.cancel()
		l.running.Wait()
	}
	return err
}

// inSlot runs f beside others, or not at all if there are too many.
func (l *listeners) inSlot(f func()) bool {
	select {
	case l.slots <- struct{}{}:
	default:
		return false
	}
	l.running.Add(1)
	go func() {
		defer l.running.Done()
		defer func() { <-l.slots }()
		f()
	}()
	return true
}

func (l *listeners) serveUDP(ctx context.Context) {
	defer l.running.Done()
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := l.udp.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		query := append([]byte(nil), buf[:n]...)
		l.inSlot(func() {
			if answer := l.ask(ctx, query); answer != nil {
				_, _ = l.udp.WriteTo(answer, from)
			}
		})
	}
}

// ask asks the upstreams in turn, and returns nil if none answers.
func (l *listeners) ask(ctx context.Context, query []byte) []byte {
	for _, u := range l.upstreams {
		conn, err := dial(ctx, "udp", u)
		if err != nil {
			continue
		}
		answer := make([]byte, maxDatagram)
		n := 0
		if _, err = conn.Write(query); err == nil {
			n, err = conn.Read(answer)
		}
		conn.Close()
		if err == nil {
			return answer[:n]
		}
	}
	return nil
}

// dial connects to an upstream for at most dnsTimeout; the connection ends with the forwarder.
func dial(ctx context.Context, network string, to netip.Addr) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	conn, err := (&net.Dialer{}).DialContext(ctx, network, netip.AddrPortFrom(to, dnsPort).String())
	if err != nil {
		cancel()
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	return &timedConn{conn, cancel}, nil
}

// timedConn is a connection with a deadline of its own: closing it stops the timer.
type timedConn struct {
	net.Conn
	cancel context.CancelFunc
}

func (c *timedConn) Close() error {
	c.cancel()
	return c.Conn.Close()
}

func (l *listeners) serveTCP(ctx context.Context) {
	defer l.running.Done()
	for {
		conn, err := l.tcp.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		if !l.inSlot(func() { l.relay(ctx, conn) }) {
			conn.Close()
		}
	}
}

// relay joins a connection of the box to the first upstream that takes it.
func (l *listeners) relay(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	for _, u := range l.upstreams {
		up, err := dial(ctx, "tcp", u)
		if err != nil {
			continue
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(up, conn)
			up.Close()
		}()
		_, _ = io.Copy(conn, up)
		conn.Close()
		up.Close()
		<-done
		return
	}
}
