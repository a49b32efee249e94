package runner

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The control group of a strake that was killed goes with the next start.
func TestGuardSwept(t *testing.T) {
	needRoot(t)
	dir := publicDir(t)
	makeRoot(t, filepath.Join(dir, "lower"))
	c := helperCommand(t, dir, "run", dir, "echo ready; exec sleep 345.67"+own())
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	find := func() (found []string) {
		prefix := fmt.Sprintf("strake-box-%d-guard-", c.Process.Pid)
		_ = filepath.WalkDir("/sys/fs/cgroup", func(name string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), prefix) {
				found = append(found, name)
			}
			return nil // groups come and go
		})
		return found
	}
	if len(find()) != 1 {
		t.Errorf("while a box runs there are the groups %v", find())
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	gone(t, "345.67")
	boxes, err := filepath.Glob(filepath.Join(dir, "box-*/run"))
	if err != nil || len(boxes) != 1 {
		t.Fatal(boxes, err)
	}
	wait(t, "the end of the group", func() bool {
		if err := Sweep(boxes[0]); err != nil {
			t.Fatal(err)
		}
		return len(find()) == 0
	})
}
