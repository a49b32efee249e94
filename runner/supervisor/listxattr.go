package supervisor

import (
	"strings"

	"golang.org/x/sys/unix"
)

// listRules are the calls by which programs find the attributes that they copy: a record is none of the step's, and a copy of a file may have another owner.
const listRules = `{"syscalls": [{"action": "SCMP_ACT_NOTIFY", "names": ["listxattr", "llistxattr", "flistxattr"]}]}`

// list leaves the records out of the names of a file's attributes.
func (o *Ownership) list(r *request) (int64, error) {
	t := target{dir: unix.AT_FDCWD, follow: r.name != "llistxattr"}
	var err error
	if r.name == "flistxattr" {
		t.dir, t.empty = int(int32(r.args[0])), true
	} else if t.path, err = r.text(r.args[0]); err != nil {
		return 0, errKernel
	}
	leave, err := o.enter(r)
	if err != nil {
		return 0, errKernel
	}
	defer leave()
	name := t.name(r)
	if name == "" {
		return 0, errKernel
	}
	if o.shared {
		fd, err := o.open(r, t)
		if err != nil {
			return 0, errKernel
		}
		defer unix.Close(fd)
		name, t.follow = fdPath(fd), true
	}
	call := unix.Llistxattr
	if t.follow || t.path == "" {
		call = unix.Listxattr
	}
	buf := make([]byte, 1<<16) // XATTR_LIST_MAX
	n, err := call(name, buf)
	if err != nil {
		return 0, errKernel
	}
	shown, hidden := withoutRecords(string(buf[:n]))
	if !hidden {
		return 0, errKernel
	}
	switch size := r.args[2]; {
	case size == 0 || shown == "":
	case size < uint64(len(shown)):
		return 0, unix.ERANGE
	default:
		if err := r.store(r.args[1], []byte(shown)); err != nil {
			return 0, err
		}
	}
	return int64(len(shown)), nil
}

// withoutRecords removes the names of records from a list of names that each end in a zero byte.
func withoutRecords(names string) (shown string, hidden bool) {
	var b strings.Builder
	for name := range strings.SplitAfterSeq(names, "\x00") {
		if name == overrideStat+"\x00" || name == ownersAttr+"\x00" {
			hidden = true
			continue
		}
		b.WriteString(name)
	}
	return b.String(), hidden
}
