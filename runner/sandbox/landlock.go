package sandbox

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rulesetAttr is struct landlock_ruleset_attr (Linux 6.12; older kernels take the beginning of it).
type rulesetAttr struct {
	fs, net, scoped uint64
}

// pathBeneath is struct landlock_path_beneath_attr, which is packed: its last bytes are not looked at.
type pathBeneath struct {
	access uint64
	parent int32
	_      int32
}

// The versions of Landlock's interface that bring something: rights that files may be moved by, and scopes.
const (
	landlockRefer = 2
	landlockScope = 6
)

// fsRights are the rights over files that version abi of Landlock knows.
func fsRights(abi int) uint64 {
	all := uint64(unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1)
	for _, r := range []struct {
		abi   int
		right uint64
	}{{landlockRefer, unix.LANDLOCK_ACCESS_FS_REFER}, {3, unix.LANDLOCK_ACCESS_FS_TRUNCATE}, {5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV}} {
		if abi >= r.abi {
			all |= r.right
		}
	}
	return all
}

// landlockABI is the version of the kernel's Landlock, 0 if there is none.
func landlockABI() int {
	version, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0
	}
	return int(version)
}

// Scoped says whether the kernel itself keeps a step without a pid namespace from signalling others (Linux 6.12).
func Scoped() bool { return landlockABI() >= landlockScope }

// Confines says whether the kernel keeps a step without a pid namespace from looking into other processes (Linux 5.19).
func Confines() bool { return landlockABI() >= landlockRefer }

// socketRules make Landlock rules that keep a step, which shares the host's network, from the host's abstract sockets: those belong
// to the network, and programs that listen on them trust everybody of their user (CVE-2020-15257). A descriptor is returned, -1 if the kernel has no such thing.
func socketRules() (int, error) {
	if !Scoped() {
		return -1, nil
	}
	return newRuleset(rulesetAttr{scoped: unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET}, unsafe.Sizeof(rulesetAttr{}))
}

func newRuleset(attr rulesetAttr, size uintptr) (int, error) {
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if e != 0 {
		return -1, fmt.Errorf("making Landlock rules: %w", e)
	}
	return int(fd), nil
}

// ruleset makes the Landlock rules that the step gets where no pid namespace keeps it from other processes: it can trace its own processes
// only, and signal and find by abstract sockets no others. A descriptor is returned, -1 if the kernel has no such thing; then the
// other measures must do.
//
// What is handled of files is allowed everywhere below the root, and nowhere else.
func (b *box) ruleset() (int, error) {
	abi := landlockABI()
	if abi < landlockRefer {
		return -1, nil
	}
	attr, size := rulesetAttr{fs: fsRights(abi)}, unsafe.Sizeof(rulesetAttr{}.fs)
	if abi >= landlockScope {
		attr.scoped, size = unix.LANDLOCK_SCOPE_SIGNAL|unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, unsafe.Sizeof(attr)
	}
	if b.Insecure { // rules over files forbid all mounts
		if attr.fs = 0; attr.scoped == 0 {
			return -1, nil
		}
	}
	fd, err := newRuleset(attr, size)
	if err != nil || attr.fs == 0 {
		return fd, err
	}
	rule := pathBeneath{access: attr.fs, parent: int32(b.root)}
	if _, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(fd), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); e != 0 {
		unix.Close(fd)
		return -1, fmt.Errorf("making Landlock rules: %w", e)
	}
	return fd, nil
}
