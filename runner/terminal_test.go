package runner

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty opens a pseudo terminal for a test.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal("no pseudo terminals:", err)
		}
		t.Skip("no pseudo terminals:", err)
	}
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	s, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		t.Fatal(e)
	}
	master, slave = os.NewFile(uintptr(m), "master"), os.NewFile(s, "slave")
	t.Cleanup(func() { master.Close(); slave.Close() })
	return master, slave
}

// expect reads from f until text comes and returns all that was read.
func expect(t *testing.T, f *os.File, text string) string {
	t.Helper()
	if err := f.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(got.String(), text) {
		n, err := f.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("waiting for %q: %v, got %q", text, err, got.String())
		}
	}
	return got.String()
}

func TestTerminal(t *testing.T) {
	w := newWorld(t)
	master, slave := pty(t)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	w.fresh()
	done := make(chan error, 1)
	go func() {
		p := Process{
			Args: []string{"/bin/sh", "-c", "tty; stty size; ls -l /dev/console; echo name?; read x; echo hi $x; trap 'echo int; exit 9' INT; echo wait; while :; do sleep 0.05; done"},
			Env:  []string{testPath}, Terminal: slave, User: "7:8",
		}
		done <- w.linux.Run(context.Background(), w.box, p)
	}()
	got := expect(t, master, "name?")
	for _, want := range []string{"/dev/pts/0", "33 77", "/dev/console", "7 "} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	during, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil || during.Lflag&unix.ICANON != 0 {
		t.Errorf("the terminal is not raw: %v", err)
	}
	if _, err := master.WriteString("bob\r"); err != nil {
		t.Fatal(err)
	}
	if got := expect(t, master, "wait"); !strings.Contains(got, "hi bob") {
		t.Errorf("got %q", got)
	}
	if _, err := master.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	expect(t, master, "int")
	if err := <-done; err == nil || err.Error() != "exit code: 9" {
		t.Errorf("Run gave %v", err)
	}
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal was not put back: %v", err)
	}
}

// Who reads a terminal whose other end is gone ends.
func TestTerminalHungUp(t *testing.T) {
	w := newWorld(t)
	master, slave := pty(t)
	w.fresh()
	done := make(chan error, 1)
	go func() {
		p := Process{Args: []string{"/bin/sh", "-c", "echo ready; read x; exit 7"}, Env: []string{testPath}, Terminal: slave}
		done <- w.linux.Run(t.Context(), w.box, p)
	}()
	expect(t, master, "ready\r\n") // no more is written: that would be an error then
	master.Close()
	if err := <-done; err == nil || err.Error() != "exit code: 7" {
		t.Errorf("Run gave %v", err)
	}
}

func TestTerminalForOutputOnly(t *testing.T) {
	w := newWorld(t)
	master, slave := pty(t)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	w.fresh()
	signals := make(chan os.Signal, 1)
	done := make(chan error, 1)
	go func() {
		p := Process{
			Args: []string{"/bin/sh", "-c", "trap 'echo int; exit 9' INT; tty; echo ready; while :; do sleep 0.05; done"},
			Env:  []string{testPath}, Terminal: slave, OutputOnly: true, Signals: signals,
		}
		done <- w.linux.Run(context.Background(), w.box, p)
	}()
	if got := expect(t, master, "ready"); !strings.Contains(got, "/dev/pts/0") {
		t.Errorf("got %q", got)
	}
	during, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil || *during != *before {
		t.Errorf("the mode of the terminal was changed: %v", err)
	}
	signals <- unix.SIGINT
	expect(t, master, "int")
	if err := <-done; err == nil || err.Error() != "exit code: 9" {
		t.Errorf("Run gave %v", err)
	}
	// What is typed is still there for the next program.
	if _, err := master.WriteString("next\r"); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 10)
	if n, err := slave.Read(line); err != nil || string(line[:n]) != "next\n" {
		t.Errorf("the next program reads %q, %v", line[:n], err)
	}
}
