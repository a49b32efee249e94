package tree

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// watch is told by the kernel which directories of a tree changed (inotify). The methods of a nil watch do nothing.
type watch struct {
	mu    sync.Mutex
	fd    int // -1: there were too few watches
	nodes map[int32]*node
}

// watched are the events that a change of a file makes. Reading makes none.
const watched = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_DELETE |
	unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_ONLYDIR

const (
	came = unix.IN_CREATE | unix.IN_MOVED_TO
	went = unix.IN_DELETE | unix.IN_MOVED_FROM
)

// newWatch returns nil where there is no inotify to be had.
func newWatch() *watch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	return &watch{fd: fd, nodes: map[int32]*node{}}
}

// add watches the directory n, which is open as f. If that fails, nothing is watched any more.
func (w *watch) add(n *node, f *os.File) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return
	}
	// The trailing dot: the link itself must not be meant.
	wd, err := unix.InotifyAddWatch(w.fd, "/proc/self/fd/"+strconv.Itoa(int(f.Fd()))+"/.", watched)
	runtime.KeepAlive(f)
	if err != nil {
		w.giveUp()
		return
	}
	n.wd = int32(wd)
	w.nodes[n.wd] = n
}

// remove ends the watch of n.
func (w *watch) remove(n *node) {
	if w == nil || n.wd == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.nodes[n.wd] == n {
		delete(w.nodes, n.wd)
		if w.fd >= 0 {
			_, _ = unix.InotifyRmWatch(w.fd, uint32(n.wd)) // it may be gone with its directory
		}
	}
	n.wd = 0
}

// giveUp closes the watch, for who watches most directories sees less than everything.
func (w *watch) giveUp() {
	if w.fd >= 0 {
		_ = unix.Close(w.fd)
	}
	w.fd = -1
	for _, n := range w.nodes {
		n.wd = 0
	}
	w.nodes = map[int32]*node{}
}

func (w *watch) close() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.giveUp()
}

// events are what changed: names in directories, "" for the directory itself, and what happened to them.
type events struct {
	dirs map[*node]map[string]uint32
	lost bool // there may be more
}

// drain takes all events.
func (w *watch) drain() events {
	ev := events{dirs: map[*node]map[string]uint32{}}
	if w == nil {
		ev.lost = true
		return ev
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		ev.lost = true
		return ev
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(w.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return ev
		}
		if err != nil || n <= 0 {
			w.giveUp()
			ev.lost = true
			return ev
		}
		w.parse(buf[:n], &ev)
	}
}

// parse reads a buffer of struct inotify_event: wd 4, mask 4, cookie 4, len 4, name.
func (w *watch) parse(b []byte, ev *events) {
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		end := min(unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:])), len(b))
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")
		b = b[end:]
		if mask&(unix.IN_Q_OVERFLOW|unix.IN_UNMOUNT) != 0 {
			ev.lost = true
			continue
		}
		n := w.nodes[wd]
		if n == nil {
			continue // of a directory that was dropped
		}
		if mask&(unix.IN_IGNORED|unix.IN_DELETE_SELF) != 0 {
			n.lost = true
			if mask&unix.IN_IGNORED != 0 {
				delete(w.nodes, wd)
				n.wd = 0
			}
			continue
		}
		names := ev.dirs[n]
		if names == nil {
			names = map[string]uint32{}
			ev.dirs[n] = names
		}
		names[name] |= mask
	}
}
