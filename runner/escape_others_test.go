package runner

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// A step cannot change what the kernel keeps of the processes of others: neither of strake's, nor of those around.
func TestEscapeOthersProc(t *testing.T) {
	eachIsolation(t, func(t *testing.T, a attacked) {
		names := []string{"oom_score_adj", "coredump_filter", "timerslack_ns", "clear_refs", "autogroup", "comm", "attr/exec", "sched", "mem"}
		before, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf("test -d /proc/%d || exit 0; for f in %s; do (: >>/proc/%[1]d/$f) 2>/dev/null && echo $f of another process can be opened; done; (echo 123 >/proc/%[1]d/oom_score_adj) 2>/dev/null; true",
			os.Getpid(), strings.Join(names, " "))
		a.fails(t, script)
		if after, err := os.ReadFile("/proc/self/oom_score_adj"); err != nil || string(after) != string(before) {
			_ = os.WriteFile("/proc/self/oom_score_adj", before, 0)
			t.Errorf("oom_score_adj was %s and is %s: %v", before, after, err)
		}
	})
}
