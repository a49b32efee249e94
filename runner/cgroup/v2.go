package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The groups of version 2 that strake makes beside those of boxes.
const (
	// ownParent is the group below the root in which root makes boxes.
	ownParent = "strake"
	// ownLeaf is where strake moves itself in a group that was delegated to it: a group with processes cannot have limited children.
	ownLeaf = "strake-self"
)

// home is a group in which a box's may be made.
type home struct {
	dir    string
	vacate bool // strake's own processes must leave it first
}

// homes are the groups to be tried, in that order.
func (h *hierarchies) homes(parent string) []home {
	if parent != "" {
		return []home{{filepath.Join(h.v2.mount, filepath.Join("/", parent)), false}}
	}
	own := h.v2.own
	var all []home
	if filepath.Base(own) == ownLeaf {
		own = filepath.Dir(own)
		all = append(all, home{own, false})
	}
	all = append(all, home{filepath.Join(h.v2.mount, ownParent), false})
	if own != h.v2.mount {
		all = append(all, home{filepath.Dir(own), false})
	}
	return append(all, home{own, true})
}

// makeV2 makes the group in the first home that can have the settings.
func (g *Group) makeV2(h *hierarchies, l Limits, name string, note func(string) error) error {
	if h.v2.mount == "" {
		return errors.New("no control groups are mounted at /sys/fs/cgroup")
	}
	var last error
	for _, at := range h.homes(l.CgroupParent) {
		if last = g.makeIn(h.v2.mount, at, name, l.v2(), note); last == nil {
			return nil
		}
		g.Remove()
	}
	return last
}

func (g *Group) makeIn(mount string, at home, name string, settings []setting, note func(string) error) error {
	var want []string
	for _, s := range settings {
		if !slices.Contains(want, s.controller) {
			want = append(want, s.controller)
		}
	}
	dir := filepath.Join(at.dir, name)
	if err := g.mkdir(mount, dir, note, nil); err != nil {
		return err
	}
	g.dirs = []string{dir}
	if at.vacate && len(want) > 0 {
		if err := vacate(at.dir); err != nil {
			return err
		}
	}
	have, err := handDown(mount, dir, want)
	if err != nil {
		return err
	}
	for _, w := range want {
		if !slices.Contains(have, w) {
			data, _ := os.ReadFile(filepath.Join(at.dir, "cgroup.controllers")) // without it the error is good enough
			return &controllerError{w, at.dir, strings.TrimSpace(string(data))}
		}
	}
	if slices.Contains(have, "memory") {
		g.memory = filepath.Join(dir, "memory.events")
	}
	for _, s := range settings {
		if err := apply(dir, s.controller, []setting{s}); err != nil {
			return err
		}
	}
	return nil
}

// handDown has every group above dir hand the controllers down, and returns those that dir has then.
func handDown(mount, dir string, want []string) ([]string, error) {
	rel, err := filepath.Rel(mount, filepath.Dir(dir))
	if err != nil {
		return nil, fmt.Errorf("finding the control groups above %s: %w", dir, err)
	}
	at := mount
	for _, c := range append([]string{"."}, strings.Split(rel, "/")...) {
		at = filepath.Join(at, c)
		for _, w := range want {
			// What is there already, or cannot be had, shows in the end.
			_ = write(filepath.Join(at, "cgroup.subtree_control"), "+"+w)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("reading the controllers of a control group: %w", err)
	}
	return strings.Fields(string(data)), nil
}

// controllerError is that a limit cannot be set since its controller does not reach the group.
type controllerError struct {
	controller, dir, have string
}

func (e *controllerError) Error() string {
	return fmt.Sprintf("the %s controller does not reach the control group %s (its controllers: %s): for a user's groups, have systemd delegate it "+
		"(systemctl edit user@.service, [Service] Delegate=cpu cpuset io memory pids); in a container, run it with --privileged",
		e.controller, e.dir, cmp.Or(e.have, "none"))
}

// vacate moves strake's own processes out of the group dir, into a leaf of it. Others than this process, those that it came from and those
// that it started it does not touch.
func vacate(dir string) error {
	leaf := filepath.Join(dir, ownLeaf)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // as those of the kernel are
		return fmt.Errorf("making a control group: %w", err)
	}
	for range 10 { // processes are started meanwhile
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("reading the processes of a control group: %w", err)
		}
		pids := strings.Fields(string(data))
		if len(pids) == 0 {
			return nil
		}
		for _, p := range pids {
			pid, err := strconv.Atoi(p)
			if err != nil || !related(pid) {
				_ = os.Remove(leaf)
				return fmt.Errorf("the control group %s has other processes than strake's (%s): run strake in one of its own (systemd-run --user --scope -p Delegate=yes strake …)", dir, p)
			}
			if err := write(filepath.Join(leaf, "cgroup.procs"), p); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("moving strake to a control group of its own: %w", err)
			}
		}
	}
	return fmt.Errorf("the control group %s does not get empty", dir)
}

// related says whether pid is this process, one that it came from or one that it started, or has ended.
func related(pid int) bool {
	own := os.Getpid()
	return pid > 0 && (comesFrom(own, pid) || comesFrom(pid, own))
}

// comesFrom says whether pid is ancestor or one that it started.
func comesFrom(pid, ancestor int) bool {
	for pid > 0 {
		if pid == ancestor {
			return true
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return errors.Is(err, fs.ErrNotExist)
		}
		// PID (NAME) STATE PPID …, and a name may have parentheses itself.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 2 {
			return false
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			return false
		}
	}
	return false
}
