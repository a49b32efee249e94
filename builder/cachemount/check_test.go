package cachemount_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-build/strake/builder/cachemount"
)

// TestCheck damages what cache mounts are kept in, finds it, and drops it.
func TestCheck(t *testing.T) {
	place := func(c *cachemount.Store) string {
		paths, _ := filepath.Glob(filepath.Join(c.Dir, "*", "0"))
		return paths[0]
	}
	for name, test := range map[string]struct {
		damage func(place string) error
		want   string // how the error begins; "-" for what was left
		gone   string // what is gone after that, in the folder of the cache
	}{
		"nothing":      {func(string) error { return nil }, "", "nothing"},
		"torn id":      {func(p string) error { return os.WriteFile(filepath.Join(filepath.Dir(p), "id"), []byte(`"/c`), 0o600) }, "unexpected end", "id"},
		"another's id": {func(p string) error { return os.WriteFile(filepath.Join(filepath.Dir(p), "id"), []byte(`"/d"`), 0o600) }, "it is the name of another", "id"},
		"no lock":      {func(p string) error { return os.Remove(filepath.Join(p, "lock")) }, "it has no lock", "0"},
		"a file":       {func(p string) error { return os.WriteFile(filepath.Join(filepath.Dir(p), "1"), nil, 0o600) }, "it is no directory", "1"},
		"files are none": {func(p string) error {
			return errors.Join(os.Remove(filepath.Join(p, "fs")), os.WriteFile(filepath.Join(p, "fs"), nil, 0o600))
		}, "its files are no directory", "0"},
		"half removed": {func(p string) error { return os.Rename(p, p+".removed-X") }, "-", "0.removed-X"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cachemount.Store{Dir: t.TempDir()}
			_, release, err := c.Open(t.Context(), cachemount.Mount{ID: "/c", Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()})
			if err != nil {
				t.Fatal(err)
			}
			release()
			p := place(c)
			if err := test.damage(p); err != nil {
				t.Fatal(err)
			}
			_, problems, err := c.Check()
			if err != nil || len(problems) != min(1, len(test.want)) {
				t.Fatalf("found %v, %v", problems, err)
			}
			for _, p := range problems {
				if test.want == "-" && p.Err != nil || test.want != "-" && (p.Err == nil || !strings.HasPrefix(p.Err.Error(), test.want)) {
					t.Errorf("found %v", p)
				}
				if gone, err := p.Drop(); !gone || err != nil {
					t.Errorf("dropped: %t, %v", gone, err)
				}
			}
			if _, err := os.Lstat(filepath.Join(filepath.Dir(p), test.gone)); err == nil {
				t.Errorf("%s is still there", test.gone)
			}
			if _, problems, err := c.Check(); err != nil || len(problems) > 0 {
				t.Errorf("after that: %v, %v", problems, err)
			}
		})
	}
}

// TestCheckDropsAll: the last directory of a cache takes its name with it, which was damaged too.
func TestCheckDropsAll(t *testing.T) {
	c := &cachemount.Store{Dir: t.TempDir()}
	dir, release, err := c.Open(t.Context(), cachemount.Mount{ID: "/c", Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()})
	if err != nil {
		t.Fatal(err)
	}
	release()
	place := filepath.Dir(dir)
	if err := errors.Join(os.Remove(filepath.Join(place, "lock")), os.WriteFile(filepath.Join(filepath.Dir(place), "id"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, problems, err := c.Check()
	if err != nil || len(problems) != 2 {
		t.Fatalf("found %v, %v", problems, err)
	}
	for _, p := range problems {
		if gone, err := p.Drop(); !gone || err != nil {
			t.Errorf("dropping %s: %t, %v", p.Name, gone, err)
		}
	}
}
