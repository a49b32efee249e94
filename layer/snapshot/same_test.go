package snapshot_test

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/snapshot"
)

// TestRedundant does to a file system what changes nothing, or nearly so: the layer holds what differs from the layers below.
func TestRedundant(t *testing.T) {
	s, _ := newStore(t)
	touch := func(p string, sec int64) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: sec, Nsec: 5}}, unix.AT_SYMLINK_NOFOLLOW)
	}
	fill := func(r string) error {
		return errors.Join(os.MkdirAll(r+"/d/e", 0o755), os.WriteFile(r+"/f", []byte("1"), 0o644), os.WriteFile(r+"/d/g", []byte("22"), 0o644), os.Symlink("f", r+"/l"),
			unix.Mkfifo(r+"/p", 0o600), touch(r+"/f", 7), touch(r+"/d/g", 7), touch(r+"/l", 7), touch(r+"/p", 7))
	}
	one := write(t, s, nil, fill)
	two := write(t, s, []snapshot.ID{one}, func(r string) error { return os.WriteFile(r+"/d/h", []byte("3"), 0o644) })
	layers := []snapshot.ID{one, two}
	for name, c := range map[string]struct {
		do  func(r string) error
		tar []string
	}{
		"written again as it was": {do: func(r string) error {
			return errors.Join(os.Remove(r+"/f"), os.WriteFile(r+"/f", []byte("1"), 0o644), touch(r+"/f", 7),
				os.Remove(r+"/l"), os.Symlink("f", r+"/l"), touch(r+"/l", 7), os.Remove(r+"/p"), unix.Mkfifo(r+"/p", 0o600), touch(r+"/p", 7))
		}},
		"mode there and back": {do: func(r string) error {
			return errors.Join(os.Chmod(r+"/d/g", 0o600), os.Chmod(r+"/d/g", 0o644), os.Chmod(r+"/d", 0o700), os.Chmod(r+"/d", 0o755))
		}},
		"time of a directory":   {do: func(r string) error { return touch(r+"/d/e", 99) }},
		"mode of a directory":   {func(r string) error { return os.Chmod(r+"/d/e", 0o700) }, []string{"d/", "d/e/"}},
		"owner":                 {func(r string) error { return os.Lchown(r+"/l", 3, 4) }, []string{"l"}},
		"time":                  {func(r string) error { return touch(r+"/f", 8) }, []string{"f"}},
		"content of that time":  {func(r string) error { return errors.Join(os.WriteFile(r+"/f", []byte("2"), 0o644), touch(r+"/f", 7)) }, []string{"f"}},
		"target of that length": {func(r string) error { return errors.Join(os.Remove(r+"/l"), os.Symlink("g", r+"/l"), touch(r+"/l", 7)) }, []string{"l"}},
		"attribute":             {func(r string) error { return unix.Setxattr(r+"/f", "user.a", []byte("b"), 0) }, []string{"f"}},
		"another name":          {func(r string) error { return os.Link(r+"/f", r+"/f2") }, []string{"f", "f2"}},
		"removed and made again": {
			func(r string) error { return errors.Join(removeTree(r+"/d"), os.MkdirAll(r+"/d/e", 0o755)) },
			[]string{"d/", "d/.wh..wh..opq", "d/e/"},
		},
		"beside a change": {func(r string) error {
			return errors.Join(os.Chmod(r+"/d/g", 0o644), os.WriteFile(r+"/d/h", []byte("4"), 0o644))
		}, []string{"d/", "d/h"}},
	} {
		t.Run(name, func(t *testing.T) {
			id := write(t, s, layers, c.do)
			if c.tar == nil {
				c.tar = []string{}
			}
			equal(t, "tar", tarNames(t, s, id), c.tar...)
		})
	}
}
