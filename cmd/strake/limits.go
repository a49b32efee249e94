package main

import (
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

// decide turns them into values.
func (f *limitFlags) decide(opt *builder.SandboxOptions) (err error) {
	for _, u := range f.ulimits {
		limit, err := parseUlimit(u)
		if err != nil {
			return err
		}
		opt.Ulimits = append(opt.Ulimits, limit)
	}
	if opt.ShmSize, err = parseSize("shm-size", f.shmSize); err != nil {
		return err
	}
	l := runner.Limits{CPUShares: f.cpuShares, CPUPeriod: f.cpuPeriod, CPUQuota: f.cpuQuota, CPUSet: f.cpuSet, CPUSetMems: f.memSet, CgroupParent: f.parent}
	if l.CPUQuota == -1 {
		l.CPUQuota = 0 // no limit is none to be set
	}
	for name, n := range map[string]int64{"cpu-shares": l.CPUShares, "cpu-period": l.CPUPeriod, "cpu-quota": l.CPUQuota} {
		if n < 0 {
			return usagef("invalid --%s %d: it is a positive number", name, n)
		}
	}
	if err := f.decideCounts(&l); err != nil {
		return err
	}
	if l.Memory, err = parseSize("memory", f.memory); err != nil {
		return err
	}
	if l.Memory != 0 && l.Memory < minMemory {
		return usagef("invalid --memory %q: it is at least 6m", f.memory)
	}
	if f.memorySwap == "-1" {
		l.MemorySwap = -1
	} else if l.MemorySwap, err = parseSize("memory-swap", f.memorySwap); err != nil {
		return err
	}
	if l.MemorySwap != 0 && l.Memory == 0 {
		return usagef("--memory-swap needs --memory")
	}
	if l.MemorySwap > 0 && l.MemorySwap < l.Memory {
		return usagef("--memory-swap is memory and swap together: it cannot be less than --memory")
	}
	opt.Limits = l
	return nil
}

// minMemory is what docker wants at least: no process starts with less.
const minMemory = 6 << 20

// The least that the kernel grants is 1 ms of CPU time in each period of 100 ms; the most is beyond any machine.
const (
	minCPUs = 0.01
	maxCPUs = 1 << 16
)

// decideCounts decides --cpus and --pids-limit.
func (f *limitFlags) decideCounts(l *runner.Limits) error {
	if f.cpus != 0 && !(f.cpus >= minCPUs && f.cpus <= maxCPUs) { // so that NaN is refused
		return usagef("invalid --cpus %v: it is a number of CPUs, at least %v", f.cpus, minCPUs)
	}
	if f.cpus != 0 && (l.CPUQuota != 0 || f.cpuPeriod != 0) {
		return usagef("--cpus excludes --cpu-quota and --cpu-period: it is the first divided by the second")
	}
	if f.pids < -1 {
		return usagef("invalid --pids-limit %d: it is a positive number, or -1 for no limit", f.pids)
	}
	l.CPUs, l.Pids = f.cpus, max(f.pids, 0) // no limit is none to be set
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
	if u.Soft, err = strconv.ParseInt(soft, 10, 64); err != nil || u.Soft < -1 {
		return fail()
	}
	if u.Hard, err = strconv.ParseInt(hard, 10, 64); err != nil || u.Hard < -1 {
		return fail()
	}
	if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
		return u, usagef("invalid --ulimit %q: the soft limit is above the hard one", value)
	}
	return u, nil
}
