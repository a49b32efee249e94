package main

import (
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/runner"
)

// limitFlags are the flags about how much a step may use, as they were typed.
type limitFlags struct {
	ulimits                        []string
	shmSize, memory, memorySwap    string
	cpuShares, cpuPeriod, cpuQuota int64
	cpus                           float64
	pids                           int64
	cpuSet, memSet, parent         string
}

// add declares them; who is limited, in words.
func (f *limitFlags) add(set *pflag.FlagSet, who string) {
	set.StringArrayVar(&f.ulimits, "ulimit", nil, "resource limit of each process, as `TYPE=SOFT[:HARD]` (repeatable)")
	set.StringVar(&f.shmSize, "shm-size", "", "`size` of /dev/shm (default 64m)")
	set.StringVarP(&f.memory, "memory", "m", "", "memory that "+who+" may use, such as `512m`")
	set.StringVar(&f.memorySwap, "memory-swap", "", "memory and swap together, such as `1g`; -1 is no limit (default twice --memory)")
	set.Int64VarP(&f.cpuShares, "cpu-shares", "c", 0, "relative `weight` of CPU time (default 1024)")
	set.Int64Var(&f.cpuPeriod, "cpu-period", 0, "period of --cpu-quota in `microseconds` (default 100000)")
	set.Int64Var(&f.cpuQuota, "cpu-quota", 0, "CPU time in each period in `microseconds`; -1 is no limit")
	set.Float64Var(&f.cpus, "cpus", 0, "`number` of CPUs that "+who+" may use, such as 1.5")
	set.Int64Var(&f.pids, "pids-limit", 0, "`number` of processes and threads that "+who+" may have; -1 is no limit (default no limit)")
	set.StringVar(&f.cpuSet, "cpuset-cpus", "", "`CPUs` that "+who+" may use, such as 0-2,7")
	set.StringVar(&f.memSet, "cpuset-mems", "", "memory `nodes` that "+who+" may use, such as 0,1")
	set.StringVar(&f.parent, "cgroup-parent", "", "parent `cgroup` of "+who)
}

// decide turns the flags into values of opt.
func (f *limitFlags) decide(opt *builder.SandboxOptions) (err error) {
	for _, u := range f.ulimits {
		limit, err := parseUlimit(u)
		if err != nil {
			return err
		}
		same := func(l runner.Ulimit) bool { return l.Name == limit.Name }
		opt.Ulimits = append(slices.DeleteFunc(opt.Ulimits, same), limit) // the last one counts
	}
	if opt.ShmSize, err = parseSize("--shm-size", f.shmSize); err != nil {
		return err
	}
	l := runner.Limits{CPUShares: f.cpuShares, CPUPeriod: f.cpuPeriod, CPUQuota: f.cpuQuota, CPUSet: f.cpuSet, CPUSetMems: f.memSet, CgroupParent: f.parent}
	if l.CPUQuota == -1 {
		l.CPUQuota = 0 // no limit is none to be set
	}
	if err := f.decideCPUs(&l); err != nil {
		return err
	}
	if err := f.decideMemory(&l); err != nil {
		return err
	}
	if f.pids < -1 {
		return usagef("invalid --pids-limit %d: it is a positive number, or -1 for no limit", f.pids)
	}
	l.Pids = max(f.pids, 0) // no limit is none to be set
	opt.Limits = l
	return nil
}

// minMemory is what docker wants at least: no process starts with less.
const minMemory = 6 << 20

// decideMemory decides --memory and --memory-swap. 0 is as good as nothing, as with docker.
func (f *limitFlags) decideMemory(l *runner.Limits) (err error) {
	if f.memory != "0" {
		if l.Memory, err = parseSize("--memory", f.memory); err != nil {
			return err
		}
	}
	if l.Memory != 0 && l.Memory < minMemory {
		return usagef("invalid --memory %q: it is at least 6m", f.memory)
	}
	switch f.memorySwap {
	case "0":
	case "-1":
		if l.Memory != 0 {
			l.MemorySwap = -1
		}
	default:
		if l.MemorySwap, err = parseSize("--memory-swap", f.memorySwap); err != nil {
			return err
		}
	}
	if l.MemorySwap != 0 && l.Memory == 0 {
		return usagef("--memory-swap needs --memory")
	}
	if l.MemorySwap > 0 && l.MemorySwap < l.Memory {
		return usagef("--memory-swap is memory and swap together: it cannot be less than --memory")
	}
	return nil
}

// The least that the kernel grants is 1 ms of CPU time in each period of 100 ms; the most is beyond any machine.
const (
	minCPUs = 0.01
	maxCPUs = 1 << 16
)

// What the kernel takes as a period, and the least that it takes as a quota, in microseconds.
const (
	minPeriod = 1000
	maxPeriod = 1_000_000
)

// decideCPUs decides what is said of CPUs.
func (f *limitFlags) decideCPUs(l *runner.Limits) error {
	if f.cpus != 0 && !(f.cpus >= minCPUs && f.cpus <= maxCPUs) { // so that NaN is refused
		return usagef("invalid --cpus %v: it is a number of CPUs, at least %v", f.cpus, minCPUs)
	}
	if f.cpus != 0 && (l.CPUQuota != 0 || l.CPUPeriod != 0) {
		return usagef("--cpus excludes --cpu-quota and --cpu-period: it is the first divided by the second")
	}
	l.CPUs = f.cpus
	if l.CPUShares < 0 {
		return usagef("invalid --cpu-shares %d: it is a positive number", l.CPUShares)
	}
	if l.CPUPeriod != 0 && (l.CPUPeriod < minPeriod || l.CPUPeriod > maxPeriod) {
		return usagef("invalid --cpu-period %d: it is from %d to %d microseconds", l.CPUPeriod, minPeriod, maxPeriod)
	}
	if l.CPUQuota != 0 && l.CPUQuota < minPeriod {
		return usagef("invalid --cpu-quota %d: it is at least %d microseconds, or -1 for no limit", l.CPUQuota, minPeriod)
	}
	if err := checkSet("cpuset-cpus", l.CPUSet); err != nil {
		return err
	}
	return checkSet("cpuset-mems", l.CPUSetMems)
}

// checkSet checks the form of a list of numbers and ranges of them.
func checkSet(flag, value string) error {
	if value == "" {
		return nil
	}
	for part := range strings.SplitSeq(value, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || from > to {
			return usagef("invalid --%s %q: it is a list of numbers and ranges, such as 0-2,7", flag, value)
		}
	}
	return nil
}

// parseUlimit parses TYPE=SOFT[:HARD]; without a hard limit it is the same.
func parseUlimit(value string) (runner.Ulimit, error) {
	fail := func() (runner.Ulimit, error) {
		return runner.Ulimit{}, usagef("invalid --ulimit %q: it is TYPE=SOFT[:HARD], such as nofile=1024:2048", value)
	}
	name, numbers, ok := strings.Cut(value, "=")
	if !ok || name == "" {
		return fail()
	}
	soft, hard, ok := strings.Cut(numbers, ":")
	if !ok {
		hard = soft
	}
	u := runner.Ulimit{Name: strings.ToLower(strings.TrimSpace(name))}
	var err error
	if u.Soft, err = strconv.ParseInt(soft, 10, 64); err != nil {
		return fail()
	}
	if u.Hard, err = strconv.ParseInt(hard, 10, 64); err != nil {
		return fail()
	}
	if err := u.Check(); err != nil {
		return u, usagef("invalid --ulimit %q: %v", value, err)
	}
	return u, nil
}
