// Package supervisor answers system calls of a step in the kernel's place, in the init of its box: those that the step's filter reports
// (seccomp notifications).
//
// A Supervisor reads the calls, finds their handlers and sends the answers; what it does is the sum of its duties, one for each RuleSet: devices
// in a user namespace (nodes), files and processes of many users where there is a single id (Ownership), other processes where there is no pid namespace
// (relatives, with Family), /proc under chroot (procfs), and the host's name (names). The rules that ask for a call are beside what serves it.
package supervisor

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/seccomp"
)

// Supervisor answers the calls of a step that its filter reports.
type Supervisor struct {
	listener int
	proc     int // a /proc that shows the step's processes by the pids that the init sees
	sizes    [3]uint16
	handlers map[uint32]map[int32]served // by audit number of the ABI, and number of the call
	duties   []duty

	threads sync.WaitGroup // that serve

	mu    sync.RWMutex // held for reading while a call is served
	ended bool
}

// threads is how many threads serve: with more than one, a slow answer does not hold the others.
const threads = 2

// duty is something that the init does for a step by answering some of its calls. All of its functions
// may be called by several threads at once, but for prepare and end.
type duty interface {
	// calls returns the handlers by the names of the calls; a name that an ABI does not have is ignored there.
	calls() map[string]handler
	// prepare readies a thread that serves calls; it is not used for anything else.
	prepare(s *Supervisor) error
	// end is called once, when no call will be served any more.
	end() error
}

// handler answers a call with a value, or an error: errKernel leaves the call to the kernel. Any other one should
// wrap the syscall.Errno that the caller gets, which otherwise is EPERM.
type handler func(*request) (int64, error)

// served is a call that has a handler.
type served struct {
	name    string
	compat  bool // of the machine's 32-bit ABI
	handler handler
}

// then has next serve what s leaves to the kernel: two duties may serve different cases of one call.
func (s served) then(next handler) handler {
	if s.handler == nil {
		return next
	}
	return func(r *request) (int64, error) {
		val, err := s.handler(r)
		if errors.Is(err, errKernel) {
			return next(r)
		}
		return val, err
	}
}

// request is a call that waits for its answer.
type request struct {
	notification
	served
	s *Supervisor
}

// notification is struct seccomp_notif. The pid is that of the calling thread, in the namespace of the init. Arguments are those that the filter saw.
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// errKernel says that the kernel itself is to answer a call.
var errKernel = errors.New("left to the kernel")

// New makes a Supervisor of sets that serves nothing yet. It owns the descriptors listener, b.Proc and b.Tree from then on.
func New(listener int, b Box, sets []RuleSet) (*Supervisor, error) {
	duties, err := b.duties(sets)
	if err != nil {
		return nil, err
	}
	s := &Supervisor{listener: listener, proc: b.Proc, duties: duties, handlers: map[uint32]map[int32]served{}}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(&s.sizes))); e != 0 {
		return nil, fmt.Errorf("asking for the size of seccomp notifications: %w", e)
	}
	for i, a := range seccomp.Architectures() {
		table := map[int32]served{}
		for _, d := range duties {
			handlers := d.calls()
			for _, c := range a.Calls {
				if h := handlers[c.Name]; h != nil {
					table[int32(c.Number)] = served{c.Name, i > 0, table[int32(c.Number)].then(h)}
				}
			}
		}
		s.handlers[a.Audit] = table
	}
	return s, nil
}

// Start serves until all processes with the filter are gone.
func (s *Supervisor) Start() error {
	// Caller and supervisor take turns on one processor (6.6); where that is not known, it is only slower.
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	failed := make(chan error)
	for range threads {
		s.threads.Add(1)
		go func() {
			defer s.threads.Done()
			runtime.LockOSThread() // and never unlocked: prepare may have made it unlike the others
			for _, d := range s.duties {
				if err := d.prepare(s); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
			s.serve()
		}()
	}
	var err error
	for range threads {
		err = errors.Join(err, <-failed)
	}
	return err
}

func (s *Supervisor) serve() {
	req := make([]byte, max(uintptr(s.sizes[0]), unsafe.Sizeof(notification{})))
	res := make([]byte, max(uintptr(s.sizes[1]), unsafe.Sizeof(response{})))
	for s.next(req, res) {
	}
}

// next waits for a notification and answers it. It returns false when no more will come.
func (s *Supervisor) next(req, res []byte) bool {
	clear(req) // or the kernel refuses it
	switch e := s.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&req[0])); e {
	case 0:
	case unix.ENOENT: // the caller has been killed, or nobody is left
		return !s.over()
	default:
		return false
	}
	s.reply(req, res)
	return true
}

// over says whether no process has the filter any more.
func (s *Supervisor) over() bool {
	fds := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&unix.POLLHUP != 0
}

// reply answers a notification.
func (s *Supervisor) reply(req, res []byte) {
	r := &request{notification: *(*notification)(unsafe.Pointer(&req[0])), s: s}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.ended {
		return
	}
	val, err := r.answer()
	clear(res)
	out := (*response)(unsafe.Pointer(&res[0]))
	out.id = r.id
	switch {
	case errors.Is(err, errKernel):
		out.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		if s.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(out)) != unix.EINVAL {
			return
		}
		out.flags, out.err = 0, -int32(unix.EPERM) // a kernel before 5.5
	case err != nil:
		var e syscall.Errno
		if !errors.As(err, &e) || e == 0 {
			e = unix.EPERM
		}
		out.err = -int32(e)
	default:
		out.val = val
	}
	_ = s.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(out)) // ENOENT: the caller has been killed
}

// answer finds the handler and asks it.
func (r *request) answer() (int64, error) {
	var ok bool
	if r.served, ok = r.s.handlers[r.arch][r.nr]; !ok {
		return 0, errKernel
	}
	return r.handler(r)
}

func (s *Supervisor) ioctl(request uintptr, p unsafe.Pointer) syscall.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), request, uintptr(p))
		if e != unix.EINTR {
			return e
		}
	}
}

// valid says whether the caller still waits for the answer: if so, its pid was its own until now.
func (r *request) valid() error {
	id := r.id
	if e := r.s.ioctl(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)); e != 0 {
		return e
	}
	return nil
}

// addFD is struct seccomp_notif_addfd.
type addFD struct {
	id           uint64
	flags        uint32
	source       uint32
	number       uint32
	numberOpened uint32
}

// give gives the caller a descriptor of the file that fd is, and returns its number, which is to be the value of the call. Of flags it heeds O_CLOEXEC.
//
// The kernel could answer the call with it at once (SECCOMP_ADDFD_FLAG_SEND). But if a signal, such as Go's runtime sends, or a freezer interrupts this
// thread then, the call gives 0, which is another file, and nobody hears of it.
func (r *request) give(fd, flags int) (int64, error) {
	add := addFD{id: r.id, source: uint32(fd), numberOpened: uint32(flags & unix.O_CLOEXEC)}
	for {
		n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(r.s.listener), unix.SECCOMP_IOCTL_NOTIF_ADDFD, uintptr(unsafe.Pointer(&add)))
		switch e {
		case 0:
			return int64(n), nil
		case unix.EINTR:
		default:
			return 0, e // ENOENT: the caller is gone
		}
	}
}

// End answers no more, and lets the duties end. The step is dead; s may be nil.
func (s *Supervisor) End() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	var err error
	for _, d := range s.duties {
		err = errors.Join(err, d.end())
	}
	return err
}

// burial is how long Wait waits for threads that have nothing to serve any more.
const burial = time.Second

// Wait waits until no thread serves any more. The step is dead; s may be nil.
func (s *Supervisor) Wait() error {
	if s == nil {
		return nil
	}
	done := make(chan struct{})
	go func() {
		s.threads.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(burial):
		return errors.New("the kernel does not end the listeners of a process that has ended")
	}
}
