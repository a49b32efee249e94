// Package network makes private networks for boxes: a network namespace with an
// address, a way out and a resolver.
//
// As root it is a port of the bridge strake0, whose packets the kernel
// masquerades (Bridge). In a user namespace, which cannot change the host's
// network, pasta or slirp4netns carry the packets (User). Both are IPv4; IPv6 is
// link-local only.
package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inside is the interface of a box.
const inside = "eth0"

// Network is the network of one box. Close it when the box has ended.
type Network struct {
	// NS is the network namespace, for setns(2).
	NS *os.File
	// Address is the box's own.
	Address netip.Addr
	// Resolver is the resolv.conf of the box.
	Resolver []byte

	closers []io.Closer // in the order in which they were made
}

// Close removes the network. Nothing may be running in it.
func (n *Network) Close() error {
	var errs []error
	for i := len(n.closers) - 1; i >= 0; i-- {
		errs = append(errs, n.closers[i].Close())
	}
	n.closers = nil
	return errors.Join(errs...)
}

// closer is a function that closes.
type closer func() error

func (c closer) Close() error { return c() }

// namespace is a new network namespace.
type namespace struct {
	file *os.File
	// routes speaks with it from outside.
	routes *socket
	dns    *listeners // nil if none were asked for
}

// newNamespace makes a network namespace whose loopback is up. With listen it also has sockets in it for a forwarder.
func newNamespace(ctx context.Context, listen bool) (*namespace, error) {
	type result struct {
		n   *namespace
		err error
	}
	done := make(chan result)
	var try func()
	try = func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end, and would keep the namespace. While it is held here, another one is taken.
			next := make(chan struct{})
			go func() { try(); close(next) }()
			<-next
			runtime.UnlockOSThread()
			return
		}
		n, err := namespaceOfThread(ctx, listen)
		done <- result{n, err}
	}
	go try()
	r := <-done
	return r.n, r.err
}

// namespaceOfThread moves the calling thread to a new network namespace.
func namespaceOfThread(ctx context.Context, listen bool) (*namespace, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	n := &namespace{file: file}
	if n.routes, err = openSocket(unix.NETLINK_ROUTE); err != nil {
		file.Close()
		return nil, err
	}
	const loopback = 1
	if err = n.routes.up(loopback); err == nil && listen {
		n.dns, err = listenDNS(ctx)
	}
	if err != nil {
		n.close()
		return nil, err
	}
	// As Docker has it: a port below 1024 is nothing special in a network of one's own, and everybody may ping. Where /proc/sys cannot be
	// written these stay as they are.
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	if os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0) != nil {
		_ = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0) // in a user namespace that has fewer
	}
	return n, nil
}

func (n *namespace) close() {
	n.routes.close()
	n.file.Close()
	if n.dns != nil {
		n.dns.Close()
	}
}
