package main

import (
	"math"
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
	cpus, mems, parent             string
}

func (f *limitFlags) add(set *pflag.FlagSet) {
	set.StringArrayVar(&f.ulimits, "ulimit", nil, "resource limit of each process, as `TYPE=SOFT[:HARD]` (repeatable)")
	set.StringVar(&f.shmSize, "shm-size", "", "`size` of /dev/shm (default 64m)")
	set.StringVarP(&f.memory, "memory", "m", "", "memory that a step may use, such as `512m`")
	set.StringVar(&f.memorySwap, "memory-swap", "", "memory and swap together, such as `1g`; -1 is no limit")
	set.Int64VarP(&f.cpuShares, "cpu-shares", "c", 0, "relative `weight` of CPU time (default 1024)")
	set.Int64Var(&f.cpuPeriod, "cpu-period", 0, "period of --cpu-quota in `microseconds` (default 100000)")
	set.Int64Var(&f.cpuQuota, "cpu-quota", 0, "CPU time in each period in `microseconds`")
	set.StringVar(&f.cpus, "cpuset-cpus", "", "`CPUs` that a step may use, such as 0-2,7")
	set.StringVar(&f.mems, "cpuset-mems", "", "memory `nodes` that a step may use, such as 0,1")
	set.StringVar(&f.parent, "cgroup-parent", "", "parent `cgroup` of steps")
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
	l := runner.Limits{CPUShares: f.cpuShares, CPUPeriod: f.cpuPeriod, CPUQuota: f.cpuQuota, CPUSet: f.cpus, CPUSetMems: f.mems, CgroupParent: f.parent}
	for name, n := range map[string]int64{"cpu-shares": l.CPUShares, "cpu-period": l.CPUPeriod, "cpu-quota": l.CPUQuota} {
		if n < 0 {
			return usagef("invalid --%s %d: it is a positive number", name, n)
		}
	}
	if l.Memory, err = parseSize("memory", f.memory); err != nil {
		return err
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

// parseSize parses a size as docker does: a number with the unit b, k, m, g, t or p, binary, also as "kb" or "KiB"; "" is 0.
func parseSize(flag, value string) (int64, error) {
	if value == "" {
		return 0, nil
	}
	number := strings.TrimRight(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit := strings.ToLower(value[len(number):])
	unit = strings.TrimSuffix(strings.TrimSuffix(unit, "b"), "i")
	power := strings.Index("kmgtp", unit) // -1 + 1 is no unit
	if unit == "" {
		power = -1
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || len(unit) > 1 || unit != "" && power < 0 || n <= 0 || math.IsInf(n, 0) || math.IsNaN(n) {
		return 0, usagef("invalid --%s %q: it is a size, such as 512m", flag, value)
	}
	n *= math.Pow(1024, float64(power+1))
	if n < 1 || n > math.MaxInt64/2 {
		return 0, usagef("invalid --%s %q: it is out of range", flag, value)
	}
	return int64(n), nil
}
