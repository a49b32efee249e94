package remotetest

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// An address is for the server that it was made for, also while that does not listen.
func TestAddress(t *testing.T) {
	address := Address(t)
	for range 2 {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	local, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := net.DialTCP("tcp", local, other.Addr().(*net.TCPAddr)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("somebody else got the port: %v", err)
	}
}
