package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Both versions let all nodes be made, and only harmless ones be opened.
func TestDevices(t *testing.T) {
	needRoot(t)
	h, err := findHierarchies()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for kind, c := range map[string]struct {
		at       place
		restrict func(string) error
	}{"v2": {h.v2, attachDevices}, "v1": {h.v1["devices"], listDevices}} {
		t.Run(kind, func(t *testing.T) {
			if c.at.mount == "" {
				t.Skip("this machine has no such control groups")
			}
			group := filepath.Join(c.at.own, fmt.Sprintf("strake-test-%d", os.Getpid()))
			if err := os.Mkdir(group, 0o755); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := removeTree(group, patience); err != nil {
					t.Error(err)
				}
			}()
			if err := c.restrict(group); err != nil {
				t.Fatal(err)
			}
			script := "echo $$ > " + filepath.Join(group, "cgroup.procs") + "\ncd " + filepath.Join(dir) + "\n"
			for _, d := range []string{"c 1 3", "c 1 5", "c 1 7", "c 1 8", "c 1 9", "c 5 1", "c 1 11", "c 10 237", "c 10 229", "c 4 0", "b 7 0", "b 1 3", "c 136 4000", "c 1 4"} {
				name := kind + strings.ReplaceAll(d, " ", "-")
				script += "mknod " + name + " " + d + " || echo no " + d + "\n(: < " + name + ") 2>/dev/null && printf '%s, ' '" + d + "'\n"
			}
			out, err := exec.Command("sh", "-c", script+"true").CombinedOutput()
			if want := "c 1 3, c 1 5, c 1 7, c 1 8, c 1 9, "; string(out) != want || err != nil {
				t.Errorf("could open %s, want %s: %v", out, want, err)
			}
		})
	}
}

func TestNewDevices(t *testing.T) {
	needRoot(t)
	var noted []string
	name := fmt.Sprintf("strake-test-new-%d", os.Getpid())
	g, err := NewDevices(name, func(dir string) error { noted = append(noted, dir); return nil })
	if err != nil {
		t.Fatal(err)
	}
	dirs := g.dirs
	g.Remove()
	if len(noted) == 0 || len(dirs) != 1 || noted[len(noted)-1] != dirs[0] {
		t.Errorf("noted %v, made %v", noted, dirs)
	}
	if err := unix.Access(dirs[0], 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("%s is left: %v", dirs[0], err)
	}
}

// needRoot skips a test that needs root, but fails it where all must run.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}
