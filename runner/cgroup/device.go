package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// charDevice is a character device; minor -1 is all of the major number.
type charDevice struct{ major, minor int32 }

// allowedDevices are those that a Docker container may open: null, zero, full, random, urandom, tty, ptmx and its pseudo terminals. Nodes
// of all others can be made, but not opened.
func allowedDevices() []charDevice {
	return []charDevice{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, -1}}
}

// NewDevices makes a group, in strake's own, whose processes can open no devices but those that a Docker container may. Its directory is
// called name; note is as for New.
func NewDevices(name string, note func(dir string) error) (*Group, error) {
	h, err := findHierarchies()
	if err != nil {
		return nil, err
	}
	var last error
	for _, kind := range []struct {
		at       place
		restrict func(dir string) error
	}{{h.v2, attachDevices}, {h.v1["devices"], listDevices}} {
		if kind.at.mount == "" {
			continue
		}
		g := &Group{}
		dir := filepath.Join(kind.at.own, name)
		if last = g.mkdir(kind.at.mount, dir, note, nil); last == nil {
			g.dirs = []string{dir}
			if last = kind.restrict(dir); last == nil {
				return g, nil
			}
		}
		g.Remove()
	}
	if last == nil {
		last = errors.New("no control groups are mounted at /sys/fs/cgroup")
	}
	return nil, fmt.Errorf("restricting devices: %w", last)
}

// Open opens the group's directory for processes to be started in it (clone3(2) with CLONE_INTO_CGROUP, which is quick; Add waits for all of the
// machine's processors). It returns nil for a group of version 1.
func (g *Group) Open() *os.File {
	var st unix.Statfs_t
	if len(g.dirs) != 1 || unix.Statfs(g.dirs[0], &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	f, err := os.Open(g.dirs[0])
	if err != nil {
		return nil
	}
	return f
}

// Leave moves the process pid out of a group that NewDevices has made, to where strake is.
func (g *Group) Leave(pid int) error {
	for _, d := range g.dirs {
		if err := write(filepath.Join(filepath.Dir(d), "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("leaving a control group: %w", err)
		}
	}
	return nil
}

// RestrictDevices does for a group of version 2 what NewDevices does for the one that it makes. It returns false for one of
// version 1, where devices are a matter of another group.
func (g *Group) RestrictDevices() (bool, error) {
	for _, d := range g.dirs {
		var st unix.Statfs_t
		if err := unix.Statfs(d, &st); err != nil {
			return false, fmt.Errorf("restricting devices: %w", err)
		}
		if st.Type != unix.CGROUP2_SUPER_MAGIC {
			return false, nil
		}
		if err := attachDevices(d); err != nil {
			return false, fmt.Errorf("restricting devices: %w", err)
		}
	}
	return len(g.dirs) > 0, nil
}

// listDevices writes the lists of the devices controller of version 1.
func listDevices(dir string) error {
	if err := write(filepath.Join(dir, "devices.deny"), "a"); err != nil {
		return err
	}
	allow := []string{"c *:* m", "b *:* m"}
	for _, d := range allowedDevices() {
		minor := "*"
		if d.minor >= 0 {
			minor = fmt.Sprint(d.minor)
		}
		allow = append(allow, fmt.Sprintf("c %d:%s rwm", d.major, minor))
	}
	for _, a := range allow {
		if err := write(filepath.Join(dir, "devices.allow"), a); err != nil {
			return err
		}
	}
	return nil
}

// insn is struct bpf_insn.
type insn struct {
	code, regs uint8 // regs: the source's number in the upper half, the destination's in the lower one
	off        int16
	imm        int32
}

// deviceProgram is a program of type cgroup_device (struct bpf_cgroup_dev_ctx): 1 allows, 0 refuses.
func deviceProgram() []insn {
	const (
		load  = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
		move  = 0xb7 // 64 bits, of a constant
		copyR = 0xbf // of a register
		and   = 0x57
		shift = 0x77
		same  = 0x15
		other = 0x55
		exit  = 0x95

		mknod, char = 1, 2
	)
	verdict := func(v int32) []insn { return []insn{{move, 0, 0, v}, {exit, 0, 0, 0}} }
	prog := []insn{
		{load, 0x12, 0, 0},  // r2: access in the upper half, type in the lower one
		{load, 0x14, 4, 0},  // r4: major
		{load, 0x15, 8, 0},  // r5: minor
		{copyR, 0x23, 0, 0}, // r3: access
		{shift, 3, 0, 16},
		{and, 2, 0, 0xffff},
	}
	prog = append(prog, insn{other, 3, 2, mknod})
	prog = append(prog, verdict(1)...)
	prog = append(prog, insn{same, 2, 2, char})
	prog = append(prog, verdict(0)...)
	for _, d := range allowedDevices() {
		if d.minor < 0 {
			prog = append(prog, insn{other, 4, 2, d.major})
		} else {
			prog = append(prog, insn{other, 4, 3, d.major}, insn{other, 5, 2, d.minor})
		}
		prog = append(prog, verdict(1)...)
	}
	return slices.Concat(prog, verdict(0))
}

// The numbers of bpf(2).
const (
	bpfLoad, bpfAttach                  = 5, 8
	bpfTypeDevice, bpfAttachDevice      = 15, 6
	bpfAllowMulti                       = 2
	loadAttrSize, attachAttrSize   uint = 48, 16
)

// attachDevices attaches the program to the group dir of version 2. It is gone with the group.
func attachDevices(dir string) error {
	group, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer group.Close()
	prog, license := deviceProgram(), new(byte)
	var pins runtime.Pinner // the kernel is given addresses as numbers
	defer pins.Unpin()
	pins.Pin(&prog[0])
	pins.Pin(license)
	load := struct {
		kind, count    uint32
		insns, license uint64
		_              [loadAttrSize - 24]byte
	}{kind: bpfTypeDevice, count: uint32(len(prog)), insns: uint64(uintptr(unsafe.Pointer(&prog[0]))), license: uint64(uintptr(unsafe.Pointer(license)))}
	fd, err := bpf(bpfLoad, unsafe.Pointer(&load), loadAttrSize)
	if err != nil {
		return fmt.Errorf("loading the program: %w", err)
	}
	defer unix.Close(fd)
	attach := struct{ target, prog, kind, flags uint32 }{uint32(group.Fd()), uint32(fd), bpfAttachDevice, bpfAllowMulti}
	if _, err := bpf(bpfAttach, unsafe.Pointer(&attach), attachAttrSize); err != nil {
		return fmt.Errorf("attaching the program to %s: %w", dir, err)
	}
	return nil
}

func bpf(cmd uintptr, attr unsafe.Pointer, size uint) (int, error) {
	fd, _, e := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), uintptr(size))
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}
