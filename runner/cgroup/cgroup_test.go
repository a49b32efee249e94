package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		limits Limits
		v1, v2 string
	}{
		{Limits{Memory: 64 << 20}, "memory.limit_in_bytes=67108864 memory.memsw.limit_in_bytes=134217728?", "memory.max=67108864 memory.swap.max=67108864?"},
		{Limits{Memory: 1000, MemorySwap: 3000}, "memory.limit_in_bytes=1000 memory.memsw.limit_in_bytes=3000", "memory.max=1000 memory.swap.max=2000"},
		{Limits{Memory: 1000, MemorySwap: -1}, "memory.limit_in_bytes=1000 memory.memsw.limit_in_bytes=-1", "memory.max=1000 memory.swap.max=max"},
		{Limits{CPUs: 1.5}, "cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000", "cpu.max=150000 100000"},
		{Limits{CPUQuota: 5000}, "cpu.cfs_quota_us=5000", "cpu.max=5000 100000"},
		{Limits{CPUPeriod: 5000}, "cpu.cfs_period_us=5000", "cpu.max=max 5000"},
		{Limits{CPUShares: 1024}, "cpu.shares=1024", "cpu.weight=39"},
		{Limits{CPUShares: 2}, "cpu.shares=2", "cpu.weight=1"},
		{Limits{CPUSet: "0-1", CPUSetMems: "0"}, "cpuset.cpus=0-1 cpuset.mems=0", "cpuset.cpus=0-1 cpuset.mems=0"},
		{Limits{Pids: 10}, "pids.max=10", "pids.max=10"},
		{Limits{Pids: -1}, "pids.max=max", "pids.max=max"},
		{Limits{CgroupParent: "x"}, "", ""},
	} {
		l, err := c.limits.check()
		if err != nil {
			t.Errorf("%+v: %v", c.limits, err)
		}
		text := func(settings []setting) string {
			var all []string
			for _, s := range settings {
				all = append(all, s.file+"="+s.value+map[bool]string{true: "?"}[s.optional])
			}
			return strings.Join(all, " ")
		}
		if v1, v2 := text(l.v1()), text(l.v2()); v1 != c.v1 || v2 != c.v2 {
			t.Errorf("%+v: %s, %s", c.limits, v1, v2)
		}
		if !c.limits.Any() {
			t.Errorf("%+v is nothing", c.limits)
		}
	}
	for _, l := range []Limits{{Memory: -1}, {MemorySwap: 5}, {Memory: 5, MemorySwap: 4}, {CPUs: 1, CPUQuota: 1}, {CPUs: -1}, {Pids: -2}} {
		if _, err := l.check(); err == nil {
			t.Errorf("%+v is no error", l)
		}
	}
}

func TestParseHierarchies(t *testing.T) {
	v1 := "30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"31 29 0:27 /docker/x /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n" +
		"32 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	got := parseHierarchies(v1, "4:memory:/docker/x/y\n3:cpu,cpuacct:/a\n1:name=systemd:/\n0::/u\n")
	want := &hierarchies{
		v1: map[string]place{
			"cpu":     {"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/a"},
			"cpuacct": {"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/a"},
			"memory":  {"/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/y"},
		},
		v2: place{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/u"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	got = parseHierarchies("25 20 0:22 /../.. /sys/fs/cgroup ro - cgroup2 none rw\n", "0::/user.slice\n")
	if len(got.v1) != 0 || got.v2.mount != "/sys/fs/cgroup" {
		t.Errorf("got %+v", got)
	}
}

func TestGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal("this test needs root")
		}
		t.Skip("this test needs root")
	}
	name := fmt.Sprintf("strake-test-%d", os.Getpid())
	for _, l := range []Limits{{Pids: 100}, {Pids: 100, CgroupParent: name + "/a/b"}} {
		var noted []string
		g, err := New(l, "box", func(dir string) error { noted = append(noted, dir); return nil })
		if err != nil {
			t.Skipf("no limits can be set on this machine: %v", err)
		}
		for _, d := range g.dirs {
			if _, err := os.Stat(d); err != nil || !strings.HasSuffix(d, filepath.Join("/", l.CgroupParent, "box")) {
				t.Errorf("%s: %v", d, err)
			}
		}
		if !reflect.DeepEqual(noted, g.dirs) {
			t.Errorf("noted %v, made %v", noted, g.dirs)
		}
		c := exec.Command("sleep", "1000")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if err := g.Add(c.Process.Pid); err != nil {
			t.Error(err)
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Process.Pid))
		if err != nil || !strings.Contains(string(data), filepath.Join("/", l.CgroupParent, "box")+"\n") {
			t.Errorf("%s, %v", data, err)
		}
		if err := Sweep(noted[0]); err == nil {
			t.Error("a group with a process was removed")
		}
		_ = c.Process.Kill()
		_ = c.Wait()
		above := g.above
		g.Remove()
		for _, d := range append(noted, above...) {
			if _, err := os.Stat(d); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", d, err)
			}
			if err := Sweep(d); err != nil {
				t.Error(err)
			}
		}
	}
}
