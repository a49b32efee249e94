package runner

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/cgroup"
	"github.com/strake-build/strake/runner/sandbox"
)

// Limits are what a box may use of memory, CPU and processes; see package cgroup.
type Limits = cgroup.Limits

// Ulimit is a resource limit of each process (setrlimit), by the name that Docker's users know it by: nofile, nproc, core ….
// -1 is no limit.
type Ulimit struct {
	Name       string
	Soft, Hard int64
}

// groupsFile is the file, in a box's directory below Linux.Dir, that lists its control groups.
const groupsFile = "cgroups"

// limit makes the box's control group.
func (b *box) limit(l Limits) error {
	if b.linux.Dir == "" {
		return errors.New("limiting a box: there is no directory to remember its control group in")
	}
	if err := Sweep(b.linux.Dir); err != nil {
		return err
	}
	var err error
	var note func(string) error
	if b.record, note, err = b.linux.record(""); err != nil {
		return fmt.Errorf("limiting a box: %w", err)
	}
	b.group, err = cgroup.New(l, "strake-"+filepath.Base(b.record.path), note)
	return err
}

// Sweep removes what boxes of dead processes have left in dir (Linux.Dir), and their control groups, and brings caches back that lie in a
// tree. It must come before the trees are removed.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the directory for boxes: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), boxPrefix) {
			continue
		}
		if err := sweepBox(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// sweepBox removes name and what it remembers, unless its process lives.
func sweepBox(name string) error {
	own, err := lockOwn(name)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for what a dead process has left: %w", err)
	}
	defer own.release()
	if err := bringBack(name); err != nil {
		return err
	}
	groups, err := os.ReadFile(filepath.Join(name, groupsFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing what a dead process has left: %w", err)
	}
	for g := range strings.SplitSeq(string(groups), "\x00") {
		if filepath.Base(g) == "strake-"+filepath.Base(name) && cgroup.Sweep(g) != nil {
			return nil // the kernel has not buried all of its processes yet: the next start will
		}
	}
	if err := os.RemoveAll(name); err != nil {
		return fmt.Errorf("removing what a dead process has left: %w", err)
	}
	return nil
}

// resources are the names of limits, and the kernel's numbers.
func resources() map[string]int {
	return map[string]int{
		"core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS,
		"memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
		"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME,
		"sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
	}
}

// Check refuses a limit that there is not, and one that makes no sense.
func (u Ulimit) Check() error {
	all := resources()
	_, ok := all[u.Name]
	switch {
	case !ok:
		return fmt.Errorf("unknown resource limit %q: it is one of %s", u.Name, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	case u.Soft < -1 || u.Hard < -1:
		return fmt.Errorf("the resource limit %s is negative", u.Name)
	case u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard):
		return fmt.Errorf("the soft limit of %s is above the hard one", u.Name)
	}
	return nil
}

// rlimits turns limits into the kernel's form.
func rlimits(limits []Ulimit) ([]sandbox.Limit, error) {
	var all []sandbox.Limit
	for _, l := range limits {
		if err := l.Check(); err != nil {
			return nil, err
		}
		all = append(all, sandbox.Limit{Resource: resources()[l.Name], Soft: uint64(l.Soft), Hard: uint64(l.Hard)})
	}
	return all, nil
}
