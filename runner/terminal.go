package runner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// terminal joins strake's terminal to the one of a box.
type terminal struct {
	own    *os.File
	master *os.File
	saved  *unix.Termios // of own, nil if it is not a terminal

	wake    *os.File // closing it ends the input
	resized chan os.Signal
	input   chan struct{} // closed when the input has ended
	output  chan error
}

// newTerminal puts own into raw mode and starts to copy both ways; outputOnly leaves its mode and copies but one way.
func newTerminal(own *os.File, master int, outputOnly bool) *terminal {
	_ = unix.SetNonblock(master, true) // so that reading it can be given up
	t := &terminal{
		own: own, master: os.NewFile(uintptr(master), "terminal"),
		resized: make(chan os.Signal, 1), input: make(chan struct{}), output: make(chan error, 1),
	}
	t.resize()
	signal.Notify(t.resized, unix.SIGWINCH)
	go func() {
		for range t.resized {
			t.resize()
		}
	}()
	if outputOnly {
		go t.copyOut()
		close(t.input)
		return t
	}
	t.raw()
	go t.copyOut()
	wake, ours, err := os.Pipe()
	if err != nil {
		close(t.input)
		return t
	}
	t.wake = ours
	go t.copyIn(wake)
	return t
}

// control calls f with the descriptor of file, which stays as it is: Fd would make it blocking for everybody.
func control(file *os.File, f func(fd int)) {
	if c, err := file.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { f(int(fd)) })
	}
}

// terminalSize returns the size of a terminal, 0 if it has none or is nil.
func terminalSize(f *os.File) (rows, cols uint16) {
	if f == nil {
		return 0, 0
	}
	control(f, func(fd int) {
		if size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
			rows, cols = size.Row, size.Col
		}
	})
	return rows, cols
}

// resize gives the box's terminal the size of ours.
func (t *terminal) resize() {
	rows, cols := terminalSize(t.own)
	control(t.master, func(fd int) {
		_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}

// raw puts our terminal into raw mode: every key is for the box's one to interpret.
func (t *terminal) raw() {
	control(t.own, func(fd int) {
		old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return
		}
		mode := *old
		mode.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		mode.Oflag &^= unix.OPOST
		mode.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		mode.Cflag = mode.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		mode.Cc[unix.VMIN], mode.Cc[unix.VTIME] = 1, 0
		if unix.IoctlSetTermios(fd, unix.TCSETS, &mode) == nil {
			t.saved = old
		}
	})
}

// restore puts it back.
func (t *terminal) restore() {
	if t.saved != nil {
		control(t.own, func(fd int) { _ = unix.IoctlSetTermios(fd, unix.TCSETSW, t.saved) })
	}
}

// copyOut copies what the box writes to our terminal, until all its ends are closed.
func (t *terminal) copyOut() {
	c := copier{from: t.master, to: t.own}
	t.output <- c.copy()
}

// copyIn copies what is typed. It never reads more than it was told is there, so that nothing that is meant for
// the next program is lost. When our terminal is gone, as its window is closed, the box's is hung up: nobody could end a shell there.
func (t *terminal) copyIn(wake *os.File) {
	defer close(t.input)
	defer wake.Close()
	conn, err := t.own.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 4096)
	for {
		n := 0
		var rerr error
		err := conn.Control(func(fd uintptr) { n, rerr = readUnless(int(fd), int(wake.Fd()), buf) })
		if errors.Is(rerr, syscall.EINTR) || errors.Is(rerr, syscall.EAGAIN) {
			continue
		}
		if errors.Is(rerr, io.EOF) {
			return
		}
		if err != nil || rerr != nil || n == 0 {
			t.master.Close()
			return
		}
		if _, err := t.master.Write(buf[:n]); err != nil {
			return
		}
	}
}

// readUnless reads from fd as soon as there is something, unless stop is closed first: then it returns io.EOF.
func readUnless(fd, stop int, buf []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, -1); err != nil {
		return 0, err
	}
	if fds[1].Revents != 0 {
		return 0, io.EOF
	}
	return unix.Read(fd, buf)
}

// finish ends the copying and puts our terminal back; the box is dead.
func (t *terminal) finish() error {
	_ = t.master.SetReadDeadline(time.Unix(1, 0))
	err := <-t.output
	if t.wake != nil {
		t.wake.Close()
	}
	t.master.Close()
	<-t.input
	t.restore()
	signal.Stop(t.resized)
	close(t.resized)
	if err != nil {
		return fmt.Errorf("the terminal: %w", err)
	}
	return nil
}
