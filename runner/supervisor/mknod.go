package supervisor

import (
	"fmt"
	"strconv"
	"sync"

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
	owners *Ownership // if the namespace has one id; else nil

	mu   sync.Mutex
	made []madeDevice
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
	owner *owner // as recorded first, if the file's real one does not count
}

// deviceRules are for mknod and mknodat of block devices and of character devices, but for
// 0:0, which the kernel lets everybody make (overlayfs's whiteout). A masked comparison has the mask first; 61440 is S_IFMT.
const deviceRules = `{"syscalls": [
	{"names": ["mknod"], "action": "SCMP_ACT_NOTIFY", "args": [
		{"index": 1, "value": 61440, "valueTwo": 8192, "op": "SCMP_CMP_MASKED_EQ"}, {"index": 2, "value": 0, "op": "SCMP_CMP_NE"}]},
	{"names": ["mknod"], "action": "SCMP_ACT_NOTIFY", "args": [{"index": 1, "value": 61440, "valueTwo": 24576, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"names": ["mknodat"], "action": "SCMP_ACT_NOTIFY", "args": [
		{"index": 2, "value": 61440, "valueTwo": 8192, "op": "SCMP_CMP_MASKED_EQ"}, {"index": 3, "value": 0, "op": "SCMP_CMP_NE"}]},
	{"names": ["mknodat"], "action": "SCMP_ACT_NOTIFY", "args": [{"index": 2, "value": 61440, "valueTwo": 24576, "op": "SCMP_CMP_MASKED_EQ"}]}
]}`

// whiteoutRules are for the rest of the character devices.
const whiteoutRules = `{"syscalls": [
	{"names": ["mknod"], "action": "SCMP_ACT_ERRNO", "args": [
		{"index": 1, "value": 61440, "valueTwo": 8192, "op": "SCMP_CMP_MASKED_EQ"}, {"index": 2, "value": 0, "op": "SCMP_CMP_EQ"}]},
	{"names": ["mknodat"], "action": "SCMP_ACT_ERRNO", "args": [
		{"index": 2, "value": 61440, "valueTwo": 8192, "op": "SCMP_CMP_MASKED_EQ"}, {"index": 3, "value": 0, "op": "SCMP_CMP_EQ"}]}
]}`

// nodeArgs are the arguments of mknod and mknodat.
type nodeArgs struct {
	dir   int // AT_FDCWD for mknod
	path  uint64
	mode  uint32
	major uint32
	minor uint32
}

// nodeCall reads the arguments of r.
func nodeCall(r *request) (nodeArgs, bool) {
	a := nodeArgs{dir: unix.AT_FDCWD}
	args := r.args[:]
	switch r.name {
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

func (d *nodes) calls() map[string]handler {
	return map[string]handler{"mknod": d.mknod, "mknodat": d.mknod}
}

func (d *nodes) prepare(*Supervisor) error { return nil }

// mknod serves mknod(2) and mknodat(2).
func (d *nodes) mknod(r *request) (int64, error) {
	a, ok := nodeCall(r)
	if !ok {
		return 0, errKernel
	}
	c, err := newCaller(r, a)
	if err != nil {
		return 0, err
	}
	defer c.close()
	// The path and all of c are the caller's if it still waits now.
	if err := r.valid(); err != nil {
		return 0, err
	}
	var who *credentials
	if d.owners != nil {
		c.sameGroups = true
		if who, err = d.owners.processes.of(r); err != nil {
			return 0, err
		}
	}
	if !c.mayMake() || who != nil && !who.root() {
		return 0, errKernel // it knows best how to refuse
	}
	node, err := c.create(a.mode & 0o7777)
	if err != nil {
		return 0, err
	}
	defer unix.Close(node.dir)
	m := madeDevice{fd: node.fd, kind: a.kind()}
	if who != nil {
		m.owner = &owner{who.user.fs, who.group.fs}
	}
	if err := m.mark(); err != nil {
		// Nobody but the caller's fellows can have put another file there, which they may remove themselves.
		_ = unix.Unlinkat(node.dir, node.name, 0)
		unix.Close(m.fd)
		return 0, unix.EPERM
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.made) < maxDevices {
		d.made = append(d.made, m)
	} else {
		unix.Close(m.fd)
	}
	return 0, nil
}

// mark writes the attribute as the file is now.
func (m *madeDevice) mark() error {
	var st unix.Stat_t
	if err := unix.Fstat(m.fd, &st); err != nil {
		return err
	}
	o := override{owner: owner{st.Uid, st.Gid}, mode: st.Mode & 0o7777, kind: m.kind}
	if m.owner != nil {
		o.owner = *m.owner
		buf := make([]byte, 256)
		if n, err := unix.Fgetxattr(m.fd, overrideStat, buf); err == nil {
			if now, ok := parseOverride(string(buf[:n])); ok { // chown has been here
				o.owner = now.owner
			}
		}
	}
	value := o.String()
	if st.Nlink == 0 || value == m.value {
		return nil
	}
	m.value = value
	return unix.Fsetxattr(m.fd, overrideStat, []byte(value), 0)
}

// end brings the attributes of the devices up to date.
func (d *nodes) end() error {
	d.mu.Lock()
	defer d.mu.Unlock()
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
