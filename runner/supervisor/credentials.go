package supervisor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ids are the user ids or the group ids of a process.
type ids struct {
	real, effective, saved, fs uint32
}

// keep, as an argument of a call, leaves an id as it is.
const keep = ^uint32(0)

// has says whether an ordinary process may take id, of those of i that the call looks at.
func (i ids) has(id uint32, saved bool) bool {
	return id == keep || id == i.real || id == i.effective || saved && id == i.saved
}

// setOne is setuid(2) and setgid(2).
func (i ids) setOne(id uint32, root bool) (ids, error) {
	switch {
	case id == keep:
		return i, unix.EINVAL
	case root:
		return ids{id, id, id, id}, nil
	case id == i.real || id == i.saved:
		i.effective, i.fs = id, id
		return i, nil
	}
	return i, unix.EPERM
}

// setTwo is setreuid(2) and setregid(2).
func (i ids) setTwo(real, effective uint32, root bool) (ids, error) {
	if !root && (!i.has(real, false) || !i.has(effective, true)) {
		return i, unix.EPERM
	}
	old := i.real
	if real != keep {
		i.real = real
	}
	if effective != keep {
		i.effective = effective
	}
	if real != keep || effective != keep && effective != old {
		i.saved = i.effective
	}
	i.fs = i.effective
	return i, nil
}

// setThree is setresuid(2) and setresgid(2).
func (i ids) setThree(real, effective, saved uint32, root bool) (ids, error) {
	if !root && (!i.has(real, true) || !i.has(effective, true) || !i.has(saved, true)) {
		return i, unix.EPERM
	}
	for _, f := range []struct {
		to *uint32
		id uint32
	}{{&i.real, real}, {&i.effective, effective}, {&i.saved, saved}} {
		if f.id != keep {
			*f.to = f.id
		}
	}
	i.fs = i.effective
	return i, nil
}

// setFS is setfsuid(2) and setfsgid(2), which never fail.
func (i ids) setFS(id uint32, root bool) ids {
	if id != keep && (root || i.has(id, true) || id == i.fs) {
		i.fs = id
	}
	return i
}

// credentials are whom a process takes itself for. Those that it really has are always the box's only ids.
type credentials struct {
	user, group ids
	groups      []uint32
}

// root says whether the process has the rights of root: as the kernel has it, those that change ids go with the effective user.
func (c *credentials) root() bool { return c.user.effective == 0 }

// fsRoot says whether new files are root's.
func (c *credentials) fsRoot() bool { return c.user.fs == 0 && c.group.fs == 0 }

func (c *credentials) inGroup(id uint32) bool {
	return id == c.group.fs || slices.Contains(c.groups, id)
}

// key is the same for equal credentials, and for no others.
func (c *credentials) key() string {
	var key []byte
	for _, i := range []ids{c.user, c.group} {
		for _, id := range []uint32{i.real, i.effective, i.saved, i.fs} {
			key = binary.NativeEndian.AppendUint32(key, id)
		}
	}
	for _, g := range c.groups {
		key = binary.NativeEndian.AppendUint32(key, g)
	}
	return string(key)
}

// processes knows the credentials of a step's processes. Which ones a process has, the kernel itself remembers, as a resource limit that has no other effect
// (microseconds of real-time scheduling, above 30,000 years): children inherit it at the very moment of the fork, execve keeps it, the threads of a process
// share it, and it is gone with the process. A step cannot change it (Ownership.limit).
type processes struct {
	base uint64 // the limit that stands for list[0] is base-1

	mu     sync.Mutex
	list   []*credentials
	index  map[string]int
	groups int // of all in list
}

// IDLimit is the resource (setrlimit) that stands for the credentials of a process.
const IDLimit = unix.RLIMIT_RTTIME

// maxCredentials limits how many different credentials a step has, maxKeptGroups their supplementary groups together.
const (
	maxCredentials = 1 << 12
	maxKeptGroups  = 1 << 19
)

// newProcesses begins with first, the step's own credentials, and returns the limit that the step has to start with.
func newProcesses(first *credentials) (*processes, unix.Rlimit, error) {
	var own unix.Rlimit
	if err := unix.Prlimit(0, IDLimit, nil, &own); err != nil {
		return nil, unix.Rlimit{}, fmt.Errorf("reading a resource limit: %w", err)
	}
	p := &processes{base: min(own.Max, 1<<62), index: map[string]int{}}
	if p.base < maxCredentials {
		return nil, unix.Rlimit{}, errors.New("the limit of real-time scheduling (ulimit -R) is too low for a user namespace with one id: raise it to 1 second")
	}
	n, err := p.intern(first)
	return p, unix.Rlimit{Cur: p.base - 1 - uint64(n), Max: own.Max}, err
}

// intern returns the number of c.
func (p *processes) intern(c *credentials) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := c.key()
	n, ok := p.index[key]
	if !ok {
		if n = len(p.list); n == maxCredentials || p.groups+len(c.groups) > maxKeptGroups {
			return 0, unix.EAGAIN
		}
		p.list, p.index[key] = append(p.list, c), n
		p.groups += len(c.groups)
	}
	return n, nil
}

// of returns the credentials of the caller, which must not be changed. A process with another limit is root.
func (p *processes) of(r *request) (*credentials, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.list) == 1 {
		return p.list[0], nil // nobody has become anybody else
	}
	var now unix.Rlimit
	if err := unix.Prlimit(int(r.pid), IDLimit, nil, &now); err != nil {
		return nil, err
	}
	if n := p.base - 1 - now.Cur; now.Cur < p.base && n < uint64(len(p.list)) {
		return p.list[n], nil
	}
	return &credentials{groups: []uint32{0}}, nil
}

// set gives the caller other credentials.
func (p *processes) set(r *request, c *credentials) error {
	n, err := p.intern(c)
	if err != nil {
		return err
	}
	var now unix.Rlimit
	if err := errors.Join(unix.Prlimit(int(r.pid), IDLimit, nil, &now), r.valid()); err != nil {
		return err
	}
	now.Cur = p.base - 1 - uint64(n)
	return unix.Prlimit(int(r.pid), IDLimit, &now, nil)
}

// words reads n numbers of size bytes from the caller's memory.
func (r *request) words(addr uint64, n, size int) ([]uint32, error) {
	buf := make([]byte, n*size)
	if err := r.load(addr, buf); err != nil {
		return nil, err
	}
	out := make([]uint32, n)
	for i := range out {
		if size == 2 {
			out[i] = uint32(binary.NativeEndian.Uint16(buf[2*i:]))
		} else {
			out[i] = *(*uint32)(unsafe.Pointer(&buf[4*i]))
		}
	}
	return out, nil
}
