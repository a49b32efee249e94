// Package cgroup limits what a box may use, with control groups of version 1 or 2.
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
	// (version 1), or /strake or the one beside strake's own (version 2).
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
			g.memory = filepath.Join(dir, "memory.oom_control")
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

// ownParent is the group of version 2 that boxes are made in: strake's own has processes, and so cannot have limited children.
const ownParent = "strake"

func (g *Group) makeV2(h *hierarchies, l Limits, name string, note func(string) error) error {
	if h.v2.mount == "" {
		return errors.New("no control groups are mounted at /sys/fs/cgroup")
	}
	settings := l.v2()
	var parents []string
	if l.CgroupParent != "" {
		parents = []string{filepath.Join(h.v2.mount, filepath.Join("/", l.CgroupParent))}
	} else {
		parents = []string{filepath.Join(h.v2.mount, ownParent)}
		if h.v2.own != h.v2.mount {
			parents = append(parents, filepath.Dir(h.v2.own))
		}
	}
	var first error
	for _, parent := range parents {
		err := g.makeIn(h.v2.mount, filepath.Join(parent, name), settings, note)
		if err == nil {
			return nil
		}
		g.Remove()
		if first == nil {
			first = err
		}
	}
	return first
}

func (g *Group) makeIn(mount, dir string, settings []setting, note func(string) error) error {
	var want []string
	for _, s := range settings {
		if c := "+" + s.controller; !slices.Contains(want, c) {
			want = append(want, c)
		}
	}
	if err := g.mkdir(mount, dir, note, nil); err != nil {
		return err
	}
	g.dirs = []string{dir}
	// A controller must be handed down by every group above.
	rel, err := filepath.Rel(mount, filepath.Dir(dir))
	if err != nil {
		return err
	}
	at := mount
	for _, c := range append([]string{"."}, strings.Split(rel, "/")...) {
		at = filepath.Join(at, c)
		for _, w := range want {
			// What is there already, or cannot be had, shows in the next step.
			_ = write(filepath.Join(at, "cgroup.subtree_control"), w)
		}
	}
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, w := range want {
		if !slices.Contains(strings.Fields(string(have)), w[1:]) {
			return fmt.Errorf("the %s controller is not available in the control group %s: %w", w[1:], filepath.Dir(dir), fs.ErrPermission)
		}
	}
	g.memory = filepath.Join(dir, "memory.events")
	for _, s := range settings {
		if err := apply(dir, s.controller, []setting{s}); err != nil {
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
const patience = 2 * time.Second

// Remove removes the group. Its processes must be dead.
func (g *Group) Remove() {
	for _, d := range g.dirs {
		for waited := time.Duration(0); errors.Is(os.Remove(d), unix.EBUSY) && waited < patience; waited += time.Millisecond {
			time.Sleep(time.Millisecond)
		}
	}
	for _, d := range slices.Backward(g.above) {
		_ = os.Remove(d) // not if another box is in it
	}
	g.dirs, g.above = nil, nil
}

// Sweep removes the directory dir of a group whose process is dead, if it is one and has no processes any more.
func Sweep(dir string) error {
	// Only a group is empty and has these files: rmdir removes nothing else.
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("removing the control group %s: %w", dir, err)
}
