package sandbox

import (
	"fmt"
	"math"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// home is what an init comes back to when a box has ended, to make the next one: to start a program takes longer than to make a box.
//
// A box that is not the last one (Config.Again) has its mount, ipc, uts and network namespaces for the thread only that makes it. The process's other
// threads stay in those in which it was started, and so does that thread between boxes. All else that a box has is in descriptors, which are closed. What
// a box was told stays in the memory of the init, which no step can see: it is in another pid namespace, and cannot be traced. A box with secrets is
// the last one of its init all the same.
type home struct {
	process int // pidfd of this process: its first thread never leaves home
	root    int
	null    int
	first   uint // descriptors from here on are a box's
	left    int  // how many boxes may still come
}

// maxBoxes is how many boxes an init makes, so that what one may have left in it does not last.
const maxBoxes = 32

// newHome remembers where this process is.
// Preconditions: no box has been made.
func newHome() (*home, error) {
	// Mounts that go away outside of the box must not be held by this process; none come from here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("making mounts followers of the host's: %w", err)
	}
	time.Sleep(time.Nanosecond) // Go's runtime opens descriptors for its first timer, which must not be a box's
	h := &home{left: maxBoxes}
	var err error
	if h.process, err = unix.PidfdOpen(unix.Getpid(), 0); err != nil {
		return nil, fmt.Errorf("opening the own process: %w", err)
	}
	if h.root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("opening the own root: %w", err)
	}
	if h.null, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("opening /dev/null: %w", err)
	}
	h.first = uint(h.null) + 1
	return h, nil
}

// serve makes boxes, b first, as long as the parent wants them and they end well. It does not return before the last one has ended.
func (h *home) serve(b *box, exit func(code int)) {
	boxes := make(chan *box)
	go h.live(boxes, exit)
	for b != nil {
		boxes <- b
		fds := b.watch()
		b = newBox()
		b.home = h
		if err := b.take(fds); err != nil {
			exit(b.fail(err))
		}
	}
}

// live makes boxes with a thread of their own, which is not the first one, and ends the process with the one that is the last.
func (h *home) live(boxes <-chan *box, exit func(code int)) {
	runtime.LockOSThread() // for ever
	if unix.Gettid() == unix.Getpid() {
		go h.live(boxes, exit) // by another thread: this one is not free
		select {}
	}
	for b := range boxes {
		code := b.live()
		if !b.free {
			exit(code)
		}
	}
}

// back takes the thread home and lets go of all that the box b had: its mounts are gone then.
func (h *home) back(b *box) error {
	if h.left--; h.left <= 0 {
		return fmt.Errorf("it was box %d", maxBoxes)
	}
	if err := b.super.Wait(); err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(h.null, fd, unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("letting go of input and output: %w", err)
		}
	}
	if err := unix.CloseRange(h.first, math.MaxUint32, 0); err != nil {
		return fmt.Errorf("letting go of a box: %w", err)
	}
	spaces := unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	if b.Loopback { // in a user namespace there is no way back to the host's
		spaces |= unix.CLONE_NEWNET
	}
	if err := unix.Setns(h.process, spaces); err != nil {
		return fmt.Errorf("leaving a box: %w", err)
	}
	// Its root need not be that of the mount namespace.
	if err := unix.Fchdir(h.root); err != nil {
		return fmt.Errorf("leaving a box: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("leaving a box: %w", err)
	}
	return nil
}
