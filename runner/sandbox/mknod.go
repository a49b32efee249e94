package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nodes answers the calls of a step in a user namespace that make devices. The kernel refuses them there, so the init
// makes what package layer turns into a device when it writes the layer: an empty file with the attribute
// user.containers.override_stat. In the box it is a file, for this step and later ones.
//
// That attribute also says whose the device is and what its mode is. Changes by chmod and chown do not reach it; those that the same
// step makes are brought into it when the step ends, for the first maxDevices devices. One that a later step changes stays
// what it was.
type nodes struct {
	listener int
	proc     int // of the init's pid namespace
	req, res []byte

	mu    sync.Mutex
	ended bool
	made  []madeDevice
}

// maxDevices limits how many devices of a step are followed: each keeps a file open.
const maxDevices = 256

// overrideStat is the attribute, in the format of containers/storage, as package layer reads it.
const overrideStat = "user.containers.override_stat"

// madeDevice is a device that the step has made.
type madeDevice struct {
	fd    int
	kind  string // as the attribute has it: "char-1-3"
	value string // of the attribute
}

// notification is struct seccomp_notif.
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

// serveNodes answers what comes from listener until all processes with the filter are gone. It takes both descriptors.
func serveNodes(listener, proc int) (*nodes, error) {
	var sizes [3]uint16 // struct seccomp_notif_sizes
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(&sizes))); e != 0 {
		return nil, fmt.Errorf("asking for the size of seccomp notifications: %w", e)
	}
	d := &nodes{
		listener: listener, proc: proc,
		req: make([]byte, max(uintptr(sizes[0]), unsafe.Sizeof(notification{}))),
		res: make([]byte, max(uintptr(sizes[1]), unsafe.Sizeof(response{}))),
	}
	go d.serve()
	return d, nil
}

func (d *nodes) serve() {
	for {
		fds := []unix.PollFd{{Fd: int32(d.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		switch {
		case fds[0].Revents&unix.POLLIN != 0:
			d.next()
		case fds[0].Revents != 0:
			return // nobody is left
		}
	}
}

// next answers one notification.
func (d *nodes) next() {
	clear(d.req) // or the kernel refuses it
	if d.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&d.req[0])) != 0 {
		return // the caller has been killed
	}
	n := *(*notification)(unsafe.Pointer(&d.req[0]))
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return
	}
	clear(d.res)
	r := (*response)(unsafe.Pointer(&d.res[0]))
	r.id = n.id
	err := d.mknod(&n)
	switch {
	case errors.Is(err, errKernel):
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		if d.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(r)) != unix.EINVAL {
			return
		}
		r.flags, r.err = 0, -int32(unix.EPERM) // a kernel before 5.5
	case err != nil:
		e := errno(err)
		if e == 0 {
			e = unix.EPERM
		}
		r.err = -int32(e)
	}
	_ = d.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(r)) // ENOENT: the caller has been killed
}

func (d *nodes) ioctl(request uintptr, p unsafe.Pointer) syscall.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(d.listener), request, uintptr(p))
		if e != unix.EINTR {
			return e
		}
	}
}

// valid says whether the caller still waits for the answer to n: if so, its pid was its own until now.
func (d *nodes) valid(n *notification) error {
	id := n.id
	if e := d.ioctl(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)); e != 0 {
		return e
	}
	return nil
}

// errKernel says that the kernel itself is to answer a call.
var errKernel = errors.New("left to the kernel")

// nodeArgs are the arguments of mknod and mknodat.
type nodeArgs struct {
	dir   int // AT_FDCWD for mknod
	path  uint64
	mode  uint32
	major uint32
	minor uint32
}

// nodeCall reads the arguments of n. Registers are the caller's no more: what the filter saw is what is here.
func nodeCall(n *notification) (nodeArgs, bool) {
	all := architectures()
	i := slices.IndexFunc(all, func(a architecture) bool { return a.audit == n.arch })
	if i < 0 {
		return nodeArgs{}, false
	}
	j := slices.IndexFunc(all[i].calls, func(c call) bool { return c.number == uint32(n.nr) })
	if j < 0 {
		return nodeArgs{}, false
	}
	a := nodeArgs{dir: unix.AT_FDCWD}
	args := n.args[:]
	switch all[i].calls[j].name {
	case "mknod":
	case "mknodat":
		a.dir, args = int(int32(args[0])), args[1:]
	default:
		return nodeArgs{}, false
	}
	dev := uint64(uint32(args[2])) // as the kernel takes it
	a.path, a.mode, a.major, a.minor = args[0], uint32(args[1])&0xffff, unix.Major(dev), unix.Minor(dev)
	typ := a.mode & unix.S_IFMT
	return a, typ == unix.S_IFBLK || typ == unix.S_IFCHR && dev != 0
}

// kind is the device in the words of the attribute.
func (a nodeArgs) kind() string {
	kind := "char"
	if a.mode&unix.S_IFMT == unix.S_IFBLK {
		kind = "block"
	}
	return kind + "-" + strconv.Itoa(int(a.major)) + "-" + strconv.Itoa(int(a.minor))
}

// mknod does what n asks for.
func (d *nodes) mknod(n *notification) error {
	a, ok := nodeCall(n)
	if !ok {
		return errKernel
	}
	c, err := d.caller(n, a)
	if err != nil {
		return err
	}
	defer c.close()
	// The path and all of c are the caller's if it still waits now.
	if err := d.valid(n); err != nil {
		return err
	}
	if !c.mayMake() {
		return errKernel // it knows best how to refuse
	}
	node, err := c.create(a.mode & 0o7777)
	if err != nil {
		return err
	}
	defer unix.Close(node.dir)
	m := madeDevice{fd: node.fd, kind: a.kind()}
	if err := m.mark(); err != nil {
		// Nobody but the caller's fellows can have put another file there, which they may remove themselves.
		_ = unix.Unlinkat(node.dir, node.name, 0)
		unix.Close(m.fd)
		return unix.EPERM
	}
	if len(d.made) < maxDevices {
		d.made = append(d.made, m)
	} else {
		unix.Close(m.fd)
	}
	return nil
}

// mark writes the attribute as the file is now.
func (m *madeDevice) mark() error {
	var st unix.Stat_t
	if err := unix.Fstat(m.fd, &st); err != nil {
		return err
	}
	value := fmt.Sprintf("%d:%d:%o:%s", st.Uid, st.Gid, st.Mode&0o7777, m.kind)
	if st.Nlink == 0 || value == m.value {
		return nil
	}
	m.value = value
	return unix.Fsetxattr(m.fd, overrideStat, []byte(value), 0)
}

// end answers no more, and brings the attributes of the devices up to date. The step is dead; d may be nil.
func (d *nodes) end() error {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	var first error
	for i := range d.made {
		if err := d.made[i].mark(); err != nil && first == nil {
			first = fmt.Errorf("marking a device: %w", err)
		}
		unix.Close(d.made[i].fd)
	}
	d.made = nil
	return first
}
