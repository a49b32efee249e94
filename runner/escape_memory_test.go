package runner

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strake-build/strake/runner/sandbox"
)

// A step with one id cannot make the init of its box, which answers its calls, take memory without end: neither by many calls nor by what they tell.
func TestEscapeMemory(t *testing.T) {
	a := isolations()["one id"](t)
	a.program(t)
	r := a.start(t, "/bin/attack memory; sleep 0.5", nil)
	most := 0
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		found := 0
		for _, pid := range childrenOf(r.cmd.Process.Pid) {
			if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); bytes.HasPrefix(name, []byte(sandbox.Marker)) {
				found = max(found, peak(pid))
			}
		}
		if found == 0 && most > 0 {
			break
		}
		most = max(most, found)
	}
	r.report(t)
	if most == 0 || most > 100<<10 {
		t.Errorf("the init took %d MiB", most>>10)
	}
}

// childrenOf are the processes that descend from pid.
func childrenOf(pid int) (all []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, name := range lists {
		data, _ := os.ReadFile(name)
		for word := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(append(all, child), childrenOf(child)...)
			}
		}
	}
	return all
}

// peak is the most memory that a process has had, in KiB.
func peak(pid int) (kib int) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(data), "\nVmHWM:")
	_, _ = fmt.Sscan(rest, &kib)
	return kib
}

// What an image says is bounded, and what is wrong with it is told whatever its length.
func TestHostileSizes(t *testing.T) {
	for name, c := range map[string]struct {
		change func(lower string, p *Process)
		want   string
	}{
		"passwd": {func(lower string, _ *Process) {
			if err := os.Rename(filepath.Join(lower, "large"), filepath.Join(lower, "etc/passwd")); err != nil {
				t.Error(err)
			}
		}, "/etc/passwd: it is larger than 10 MiB"},
		"directory": {func(_ string, p *Process) { p.Dir = "/" + strings.Repeat("\x01/", 100000) }, "entering the working directory"},
		"program":   {func(_ string, p *Process) { p.Args = []string{"/" + strings.Repeat("\x01/", 60000)} }, "starting /"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			lower := w.box.Root.Lower[0]
			tree(t, lower, map[string]string{"etc/passwd": "", "large": ""})
			if err := os.Truncate(filepath.Join(lower, "large"), 11<<20); err != nil {
				t.Fatal(err)
			}
			_, err := w.sh("true", func(_ *Sandbox, p *Process) { c.change(lower, p) })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.200v", err)
			}
		})
	}
}
