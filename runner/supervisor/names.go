package supervisor

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// nameRules ask for the host's name.
const nameRules = `{"syscalls": [{"names": ["uname"], "action": "SCMP_ACT_NOTIFY"}]}`

// names tells the box's host name, where the init may not give it to the kernel: Podman's profile forbids sethostname(2) also in a namespace of one's own.
type names struct{ host string }

func (n *names) calls() map[string]handler { return map[string]handler{"uname": n.uname} }

func (n *names) prepare(*Supervisor) error { return nil }

func (n *names) end() error { return nil }

func (n *names) uname(r *request) (int64, error) {
	if r.compat || n.host == "" {
		return 0, errKernel
	}
	name, err := utsname(n.host)
	if err != nil {
		return 0, err
	}
	return 0, r.store(r.args[0], name)
}

// utsname is what uname(2) tells a step on host.
func utsname(host string) ([]byte, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, err
	}
	clear(name.Nodename[:])
	copy(name.Nodename[:len(name.Nodename)-1], host)
	return unsafe.Slice((*byte)(unsafe.Pointer(&name)), unsafe.Sizeof(name)), nil
}
