package rootfs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/strake-build/strake/layer/rootfs"
)

// TestDiskUsage compares with du.
func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int{"a": 1, "d/b": 100_000, "d/e/c": 5000, "skipped/f": 70_000} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "d/b"), filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	du := func(args ...string) int64 {
		out, err := exec.Command("du", append([]string{"-s", "--block-size=1"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for name, c := range map[string]struct {
		usage rootfs.DiskUsage
		want  int64
	}{
		"all":     {rootfs.DiskUsage{}, du(dir)},
		"skip":    {rootfs.DiskUsage{Skip: func(p string) bool { return p == filepath.Join(dir, "skipped") }}, du("--exclude=skipped", dir)},
		"private": {rootfs.DiskUsage{Private: true}, du("--exclude=b", "--exclude=again", dir)},
	} {
		got, err := c.usage.Of(dir)
		if err != nil || got != c.want {
			t.Errorf("%s: %d bytes, %v; want %d", name, got, err, c.want)
		}
	}
	var u rootfs.DiskUsage
	if n, err := u.Of(filepath.Join(dir, "missing/x")); n != 0 || err != nil {
		t.Errorf("what is not there: %d, %v", n, err)
	}
}
