// Package cgroup limits what a box may use, and which devices it may open, with control groups of version 1 or 2.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits are what a box may use. Zero values are no limit.
type Limits struct {
	Memory int64 // bytes
	// MemorySwap is memory and swap together, in bytes; -1 is no limit. It needs Memory. 0 is twice Memory, as with Docker.
	MemorySwap int64
	CPUs       float64 // number of CPUs; the same as CPUQuota of CPUPeriod, and not to be given with them
	CPUQuota   int64   // microseconds of CPU time in each period
	CPUPeriod  int64   // microseconds; 0 is 100,000
	CPUShares  int64   // relative weight, 2 to 262144; the default of the kernel is 1024
	CPUSet     string  // CPUs, as in "0-2,7"
	CPUSetMems string  // memory nodes, the same
	Pids       int64   // number of processes and threads; -1 is no limit
	// CgroupParent is the group, from the root of the hierarchies, in which the box's is made. If it is empty, that is strake's own
	// (version 1); or /strake, the one above strake's own, or strake's own, which then must have no processes but strake's (version 2).
	CgroupParent string
}

// Any says whether anything is asked for.
func (l Limits) Any() bool { return l != Limits{} }

const defaultPeriod = 100_000 // of the CPU, in microseconds

// check refuses what makes no sense, and resolves CPUs and MemorySwap.
func (l Limits) check() (Limits, error) {
	switch {
	case l.Memory < 0 || l.MemorySwap < -1 || l.CPUs < 0 || math.IsNaN(l.CPUs) || l.CPUQuota < 0 || l.CPUPeriod < 0 || l.CPUShares < 0 || l.Pids < -1:
		return l, errors.New("a limit is negative")
	case l.MemorySwap != 0 && l.Memory == 0:
		return l, errors.New("a limit of swap needs a limit of memory")
	case l.MemorySwap > 0 && l.MemorySwap < l.Memory:
		return l, errors.New("the limit of memory and swap is below that of memory")
	case l.CPUs != 0 && (l.CPUQuota != 0 || l.CPUPeriod != 0):
		return l, errors.New("a number of CPUs cannot be given with a CPU quota or period")
	}
	if l.CPUs != 0 {
		l.CPUPeriod, l.CPUQuota = defaultPeriod, int64(math.Round(l.CPUs*defaultPeriod))
	}
	return l, nil
}

// setting is a line to be written to a file of a group.
type setting struct {
	controller, file, value string
	optional                bool // the kernel may have no such file
}

func number(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// v1 returns the settings of version 1.
func (l Limits) v1() (s []setting) {
	add := func(ok bool, controller, file, value string) {
		if ok {
			s = append(s, setting{controller: controller, file: controller + "." + file, value: value})
		}
	}
	add(l.Memory != 0, "memory", "limit_in_bytes", strconv.FormatInt(l.Memory, 10))
	add(l.MemorySwap != 0, "memory", "memsw.limit_in_bytes", strconv.FormatInt(l.MemorySwap, 10))
	if l.Memory != 0 && l.MemorySwap == 0 && l.Memory < math.MaxInt64/2 {
		s = append(s, setting{"memory", "memory.memsw.limit_in_bytes", strconv.FormatInt(2*l.Memory, 10), true})
	}
	add(l.CPUPeriod != 0, "cpu", "cfs_period_us", strconv.FormatInt(l.CPUPeriod, 10))
	add(l.CPUQuota != 0, "cpu", "cfs_quota_us", strconv.FormatInt(l.CPUQuota, 10))
	add(l.CPUShares != 0, "cpu", "shares", strconv.FormatInt(l.CPUShares, 10))
	add(l.CPUSet != "", "cpuset", "cpus", l.CPUSet)
	add(l.CPUSetMems != "", "cpuset", "mems", l.CPUSetMems)
	add(l.Pids != 0, "pids", "max", number(l.Pids))
	return s
}

// v2 returns the settings of version 2.
func (l Limits) v2() (s []setting) {
	add := func(ok bool, controller, file, value string) {
		if ok {
			s = append(s, setting{controller: controller, file: controller + "." + file, value: value})
		}
	}
	add(l.Memory != 0, "memory", "max", number(l.Memory))
	switch {
	case l.MemorySwap > 0:
		add(true, "memory", "swap.max", number(l.MemorySwap-l.Memory))
	case l.MemorySwap < 0:
		add(true, "memory", "swap.max", "max")
	case l.Memory != 0:
		s = append(s, setting{"memory", "memory.swap.max", number(l.Memory), true})
	}
	if l.CPUQuota != 0 || l.CPUPeriod != 0 {
		quota, period := "max", l.CPUPeriod
		if l.CPUQuota != 0 {
			quota = number(l.CPUQuota)
		}
		if period == 0 {
			period = defaultPeriod
		}
		add(true, "cpu", "max", fmt.Sprintf("%s %d", quota, period))
	}
	if l.CPUShares != 0 { // 2–262144 become 1–10000, as in runc
		shares := min(max(l.CPUShares, 2), 262144)
		add(true, "cpu", "weight", strconv.FormatInt(1+(shares-2)*9999/262142, 10))
	}
	add(l.CPUSet != "", "cpuset", "cpus", l.CPUSet)
	add(l.CPUSetMems != "", "cpuset", "mems", l.CPUSetMems)
	add(l.Pids != 0, "pids", "max", number(l.Pids))
	return s
}

// Group is a control group of a box: a directory in one hierarchy, or in several of version 1.
type Group struct {
	dirs   []string // of the group itself
	above  []string // directories that were made for it, deepest last
	memory string   // the file that counts kills for want of memory, or empty
}

// Kills is how many processes were killed in the group, and in groups that these made below it, because its memory ran out.
func (g *Group) Kills() uint64 {
	if filepath.Base(g.memory) != v1Events {
		return Kills(g.memory) // counts what is below as well
	}
	var sum uint64
	_ = filepath.WalkDir(filepath.Dir(g.memory), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Base(path) == v1Events {
			sum += Kills(path)
		}
		return nil // a group that is gone has nothing to say
	})
	return sum
}

// v1Events is the file that counts kills on version 1.
const v1Events = "memory.oom_control"

// Kills reads the number of kills from a file as Memory returns it; 0 if it cannot be read.
func Kills(file string) uint64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// New makes a group with limits. Its directories are called name. Before one is made, note is called with its path, so that Sweep can remove it
// when this process cannot. The error says what is missing if limits cannot be set here.
func New(limits Limits, name string, note func(dir string) error) (*Group, error) {
	l, err := limits.check()
	if err != nil {
		return nil, err
	}
	h, err := findHierarchies()
	if err != nil {
		return nil, err
	}
	g := &Group{}
	if len(h.v1) > 0 {
		err = g.makeV1(h, l, name, note)
	} else {
		err = g.makeV2(h, l, name, note)
	}
	if err != nil {
		g.Remove()
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
			if len(h.v1) > 0 { // which is never delegated
				return nil, fmt.Errorf("%w: limits need the right to make control groups: be root, or boot with systemd.unified_cgroup_hierarchy=1", err)
			}
			return nil, fmt.Errorf("%w: limits need the right to make control groups: be root, or have systemd delegate them (systemd-run --user --scope -p Delegate=yes strake …)", err)
		}
		return nil, err
	}
	return g, nil
}

// makeV1 makes the group in each hierarchy that has a controller with a setting; with a parent group, in all that can be limited.
func (g *Group) makeV1(h *hierarchies, l Limits, name string, note func(string) error) error {
	settings := l.v1()
	var done []string
	for _, c := range []string{"memory", "cpu", "cpuset", "pids"} {
		need := slices.ContainsFunc(settings, func(s setting) bool { return s.controller == c })
		at, ok := h.v1[c]
		if !ok && need {
			return fmt.Errorf("this kernel has no %s control groups", c)
		}
		if !ok || !need && l.CgroupParent == "" {
			continue
		}
		parent := at.own
		if l.CgroupParent != "" {
			parent = filepath.Join(at.mount, filepath.Join("/", l.CgroupParent))
		}
		dir := filepath.Join(parent, name)
		if !slices.Contains(done, dir) { // controllers may share a hierarchy
			if err := g.mkdir(at.mount, dir, note, inheritCPUSet); err != nil {
				return err
			}
			done = append(done, dir)
			g.dirs = append(g.dirs, dir)
		}
		if c == "memory" {
			g.memory = filepath.Join(dir, v1Events)
		}
		if err := apply(dir, c, settings); err != nil {
			return err
		}
	}
	return nil
}

// inheritCPUSet gives a new group of version 1 its parent's CPUs and memory nodes: it has none, and could have no process.
func inheritCPUSet(dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(dir), f))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another controller
		}
		if err != nil {
			return err
		}
		if err := write(filepath.Join(dir, f), strings.TrimSpace(string(data))); err != nil {
			return err
		}
	}
	return nil
}

// mkdir makes dir and what is missing above it, below mount.
func (g *Group) mkdir(mount, dir string, note func(string) error, made func(string) error) error {
	if err := note(dir); err != nil {
		return err
	}
	rel, err := filepath.Rel(mount, dir)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		at := mount
		err = nil
		for c := range strings.SplitSeq(rel, "/") {
			at = filepath.Join(at, c)
			if err = os.Mkdir(at, 0o755); errors.Is(err, fs.ErrExist) { //nolint:gosec // as those of the kernel are
				err = nil
				continue
			}
			if err != nil {
				break
			}
			if at != dir {
				g.above = append(g.above, at)
			}
			if made != nil {
				if err = made(at); err != nil {
					return fmt.Errorf("making a control group: %w", err)
				}
			}
		}
		// Another process may have removed a parent that was empty for a moment.
		if !errors.Is(err, fs.ErrNotExist) || try == 10 {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("making a control group: %w", err)
	}
	return nil
}

func apply(dir, controller string, settings []setting) error {
	for _, s := range settings {
		if s.controller != controller {
			continue
		}
		err := write(filepath.Join(dir, s.file), s.value)
		switch {
		case err == nil, s.optional && errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("limiting a box: this kernel has no %s", s.file)
		default:
			return fmt.Errorf("limiting a box: setting %s to %s: %w", s.file, s.value, err)
		}
	}
	return nil
}

// write writes to a file of a group, which is never made.
func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Add moves the process pid, with all its threads, into the group.
func (g *Group) Add(pid int) error {
	for _, d := range g.dirs {
		if err := write(filepath.Join(d, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			if errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("entering a control group: %w: it must be below one that is yours, and strake as well (systemd-run --user --scope -p Delegate=yes strake …)", err)
			}
			return fmt.Errorf("entering a control group: %w", err)
		}
	}
	return nil
}

// Memory is the file of the group that counts kills for want of memory; empty if memory is not counted.
func (g *Group) Memory() string { return g.memory }

// patience is how long Remove waits for processes that the kernel is still burying.
const patience = 10 * time.Second

// Remove removes the group, and those that were made below it. Its processes must be dead.
func (g *Group) Remove() {
	for _, d := range g.dirs {
		_ = removeTree(d, patience) // what is busy still is swept later
	}
	for _, d := range slices.Backward(g.above) {
		_ = os.Remove(d) // not if another box is in it
	}
	g.dirs, g.above = nil, nil
}

// removeTree removes the group dir and all below it, and waits at most wait for each that still has processes.
func removeTree(dir string, wait time.Duration) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			_ = removeTree(filepath.Join(dir, e.Name()), wait) // what stays keeps dir
		}
	}
	// Files of a group need not be removed, and other directories' cannot be: rmdir removes nothing else.
	for waited := time.Duration(0); ; waited += time.Millisecond {
		err = unix.Rmdir(dir)
		if !errors.Is(err, unix.EBUSY) || waited >= wait {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Sweep removes the directory dir of a group whose process is dead, and what is below, if it is one and has no processes any more.
func Sweep(dir string) error {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil && st.Type != unix.CGROUP_SUPER_MAGIC && st.Type != unix.CGROUP2_SUPER_MAGIC {
		err = errors.New("it is none")
	}
	if err == nil {
		err = removeTree(dir, 0)
	}
	if err != nil {
		return fmt.Errorf("removing the control group %s: %w", dir, err)
	}
	return nil
}
