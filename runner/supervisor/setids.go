package supervisor

import (
	"encoding/binary"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxGroups is NGROUPS_MAX.
const maxGroups = 65536

// idSize is the number of bytes of an id in the call name: the oldest calls of the 32-bit ABIs have short ones.
func (r *request) idSize() int {
	if r.compat && !strings.HasSuffix(r.name, "32") && r.name != "fchownat" {
		return 2
	}
	return 4
}

// argID is argument i as an id.
func (r *request) argID(i int) uint32 {
	if r.idSize() == 4 {
		return uint32(r.args[i])
	}
	if id := uint16(r.args[i]); id != ^uint16(0) {
		return uint32(id)
	}
	return keep
}

// seen is id as the caller gets it.
func (r *request) seen(id uint32) uint32 {
	if r.idSize() == 2 && id > 0xffff {
		return 65534
	}
	return id
}

// base is the call's name as the newest ABIs have it.
func (r *request) base() string { return strings.TrimSuffix(r.name, "32") }

// idCalls are the calls that set and get ids, by their newest names.
func (o *Ownership) idCalls() map[string]handler {
	out := map[string]handler{}
	for _, name := range []string{"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid"} {
		out[name] = o.setIDs
	}
	for _, name := range []string{"getuid", "geteuid", "getgid", "getegid"} {
		out[name] = o.getID
	}
	for _, name := range []string{"getresuid", "getresgid"} {
		out[name] = o.getIDs
	}
	out["setgroups"], out["getgroups"] = o.setGroups, o.getGroups
	for name, h := range out {
		out[name+"32"] = h
	}
	return out
}

// limit serves the calls that get and set a resource limit, for the one that is not to be had: PAM, for one, gives all limits of the first process to those
// whom it lets in.
func (o *Ownership) limit(r *request) (int64, error) {
	size, old, change := 8, r.args[1], uint64(0)
	switch r.name {
	case "prlimit64":
		old, change = r.args[3], r.args[2]
	case "setrlimit":
		old, change = 0, r.args[1]
	}
	if r.compat && r.name != "prlimit64" {
		size = 4
	}
	if change != 0 {
		if err := r.load(change, make([]byte, 2*size)); err != nil {
			return 0, err
		}
	}
	if old == 0 {
		return 0, nil
	}
	all := make([]byte, 2*size)
	for i := range all {
		all[i] = 0xff // RLIM_INFINITY
	}
	return 0, r.store(old, all)
}

// setIDs serves all calls that set ids.
func (o *Ownership) setIDs(r *request) (int64, error) {
	old, err := o.processes.of(r)
	if err != nil {
		return 0, err
	}
	c, val := *old, int64(0)
	which := &c.user
	if strings.HasSuffix(r.base(), "gid") {
		which = &c.group
	}
	before := *which
	switch r.base() {
	case "setuid", "setgid":
		*which, err = which.setOne(r.argID(0), old.root())
	case "setreuid", "setregid":
		*which, err = which.setTwo(r.argID(0), r.argID(1), old.root())
	case "setresuid", "setresgid":
		*which, err = which.setThree(r.argID(0), r.argID(1), r.argID(2), old.root())
	default:
		val = int64(r.seen(before.fs))
		*which = which.setFS(r.argID(0), old.root())
	}
	if err != nil || *which == before {
		return val, err
	}
	return val, o.processes.set(r, &c)
}

// getID serves getuid(2) and its like.
func (o *Ownership) getID(r *request) (int64, error) {
	c, err := o.processes.of(r)
	if err != nil {
		return 0, err
	}
	id := c.group.effective
	switch r.base() {
	case "getuid":
		id = c.user.real
	case "geteuid":
		id = c.user.effective
	case "getgid":
		id = c.group.real
	}
	return int64(r.seen(id)), nil
}

// getIDs serves getresuid(2) and getresgid(2).
func (o *Ownership) getIDs(r *request) (int64, error) {
	c, err := o.processes.of(r)
	if err != nil {
		return 0, err
	}
	i := c.user
	if r.base() == "getresgid" {
		i = c.group
	}
	return 0, r.store32(r.idSize(), r.args[:3], []uint32{r.seen(i.real), r.seen(i.effective), r.seen(i.saved)})
}

func (o *Ownership) setGroups(r *request) (int64, error) {
	old, err := o.processes.of(r)
	if err != nil {
		return 0, err
	}
	if !old.root() {
		return 0, unix.EPERM
	}
	n := uint32(r.args[0])
	if n > maxGroups {
		return 0, unix.EINVAL
	}
	c := *old
	if c.groups, err = r.words(r.args[1], int(n), r.idSize()); err != nil {
		return 0, err
	}
	slices.Sort(c.groups) // as the kernel keeps them
	return 0, o.processes.set(r, &c)
}

func (o *Ownership) getGroups(r *request) (int64, error) {
	c, err := o.processes.of(r)
	if err != nil {
		return 0, err
	}
	size := int(int32(r.args[0]))
	switch {
	case size < 0 || size > 0 && size < len(c.groups):
		return 0, unix.EINVAL
	case size == 0:
		return int64(len(c.groups)), nil
	}
	var buf []byte
	for _, g := range c.groups {
		if r.idSize() == 2 {
			buf = binary.NativeEndian.AppendUint16(buf, uint16(r.seen(g)))
		} else {
			buf = binary.NativeEndian.AppendUint32(buf, g)
		}
	}
	if len(buf) > 0 {
		if err := r.store(r.args[1], buf); err != nil {
			return 0, err
		}
	}
	return int64(len(c.groups)), nil
}
