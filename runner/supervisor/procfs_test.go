package supervisor

import (
	"path"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	for name, want := range map[string][2]string{
		"/proc": {"", ""}, "/proc/self": {"self", ""}, "/proc/thread-self/stat": {"self", "stat"}, "/proc/12/fd/3": {"12", "fd/3"},
		"/dev/fd": {"self", "fd"}, "/dev/fd/63": {"self", "fd/63"}, "/dev/stderr": {"self", "fd/2"}, "/proc/meminfo": {"", "meminfo"},
		"/sys/devices/system/cpu/online": {"", "/sys/devices/system/cpu/online"},
	} {
		if who, file, ok := split(name); !ok || who != want[0] || file != want[1] {
			t.Errorf("%s: %q, %q, %v", name, who, file, ok)
		}
	}
	for _, name := range []string{"/", "/proc2/self", "/proc/kcore", "/proc/sys/kernel/core_pattern", "/proc/-1/stat", "/dev/null", "/sys/firmware", "/proc/99999999999"} {
		if who, file, ok := split(name); ok {
			t.Errorf("%s: %q, %q", name, who, file)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("/proc/self/fd/../../1/root")
	f.Fuzz(func(t *testing.T, name string) {
		who, file, ok := split(path.Clean("/" + name))
		if !ok {
			return
		}
		for part := range strings.SplitSeq(file, "/") {
			if part == ".." || part == "." {
				t.Errorf("%q: %q, %q", name, who, file)
			}
		}
		if strings.Contains(who, "/") {
			t.Errorf("%q: %q", name, who)
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (a) b) S 1 12 12 0"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseStat(7, text)
		if err == nil && r.pid != 7 {
			t.Errorf("%q: %+v", text, r)
		}
	})
}

func TestParseStat(t *testing.T) {
	r, err := parseStat(12, []byte("12 (a) R 99 b) S 3 4 5 0 -1"))
	if err != nil || r != (relative{pid: 12, parent: 3, group: 4, state: 'S'}) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestStatusOwner(t *testing.T) {
	pid, uid, err := statusOwner("Name:\tx\nTgid:\t5\nPid:\t6\nUid:\t33\t0\t0\t0\n")
	if err != nil || pid != 5 || uid != 33 {
		t.Error(pid, uid, err)
	}
	if _, _, err := statusOwner("Name:\tx\nUid:\t\n"); err == nil {
		t.Error("no error")
	}
}
