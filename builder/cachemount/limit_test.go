package cachemount_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/dockerfile"
)

// TestLimit fills caches and empties those that are too large.
func TestLimit(t *testing.T) {
	folder := t.TempDir()
	c := &cachemount.Store{Dir: folder}
	open := func(c *cachemount.Store, id string) (string, func()) {
		t.Helper()
		dir, release, err := c.Open(t.Context(), cachemount.Mount{ID: id, Sharing: dockerfile.SharingShared, Mode: 0o711, UID: os.Getuid(), GID: os.Getgid()})
		must(t, err)
		return dir, release
	}
	fill := func(dir string, size int) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "d", "f"), bytes.Repeat([]byte{1}, size), 0o600))
	}
	dirs := map[string]string{}
	for _, id := range []string{"big", "free", "small", "busy"} {
		dir, release := open(c, id)
		fill(dir, map[bool]int{true: 10, false: 1 << 20}[id == "small"])
		dirs[id] = dir
		if id == "busy" {
			defer release()
		} else {
			release()
		}
	}
	other, release := open(&cachemount.Store{Dir: folder}, "of another build")
	fill(other, 1<<20)
	release()
	asked := map[string]int{}
	limit := func(id string) int64 {
		asked[id]++
		if id == "free" {
			return 0
		}
		return 100_000
	}
	list, err := c.Limit(t.Context(), limit)
	must(t, err)
	if len(list) != 2 || list[0].ID != "big" || !list[0].Emptied || list[0].Limit != 100_000 || list[0].Disk < 1<<20 || list[0].Disk > 2<<20 ||
		list[1].ID != "busy" || list[1].Emptied {
		t.Errorf("too large: %+v", list)
	}
	if len(asked) != 4 || asked["of another build"] != 0 {
		t.Errorf("asked about %v", asked)
	}
	if left, err := filepath.Glob(dirs["big"] + "*"); err != nil || len(left) != 0 {
		t.Errorf("left of the large one: %v, %v", left, err)
	}
	for _, dir := range []string{dirs["free"], dirs["small"], dirs["busy"], other} {
		if _, err := os.Stat(filepath.Join(dir, "d", "f")); err != nil {
			t.Error(err)
		}
	}
	// It is not measured as it was, and can be used again.
	infos, err := c.List()
	must(t, err)
	for _, i := range infos {
		if i.ID == "big" && i.Disk > 100_000 {
			t.Errorf("the emptied one is said to have %d bytes", i.Disk)
		}
	}
	dir, release := open(c, "big")
	defer release()
	if st, err := os.Stat(dir); err != nil || dir != dirs["big"] || st.Mode().Perm() != 0o711 {
		t.Errorf("made again: %v, %v", st, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "d")); err == nil {
		t.Error("it is not empty")
	}
}

// Steps of other builds open a cache while it is emptied again and again: what they were given stays theirs.
func TestLimitBesideOthers(t *testing.T) {
	c := &cachemount.Store{Dir: t.TempDir()}
	var emptied atomic.Int32
	done := make(chan error, 2)
	for range 2 {
		go func() {
			done <- func() error {
				for i := 0; i < 100 || i < 10_000 && emptied.Load() == 0; i++ {
					dir, release, err := c.Open(t.Context(), cachemount.Mount{ID: "x", Sharing: dockerfile.SharingLocked, Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()})
					if err != nil {
						return err
					}
					name := filepath.Join(dir, "f")
					err = os.WriteFile(name, make([]byte, 1<<16), 0o600)
					time.Sleep(100 * time.Microsecond)
					_, serr := os.Stat(name)
					release()
					if err = errors.Join(err, serr); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for running := 2; running > 0; {
		select {
		case err := <-done:
			must(t, err)
			running--
		default:
		}
		list, err := c.Limit(t.Context(), func(string) int64 { return 1 })
		must(t, err)
		for _, e := range list {
			if e.Emptied {
				emptied.Add(1)
			}
		}
	}
	if emptied.Load() == 0 {
		t.Error("it was never emptied")
	}
}

// A crash amidst leaves a directory in the making, which counts no more for those who come.
func TestLimitAfterCrash(t *testing.T) {
	c := &cachemount.Store{Dir: t.TempDir()}
	m := cachemount.Mount{ID: "x", Sharing: dockerfile.SharingShared, Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()}
	dir, release, err := c.Open(t.Context(), m)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<16), 0o600))
	release()
	must(t, os.Rename(dir, dir+".new"))
	dir, release, err = c.Open(t.Context(), m)
	must(t, err)
	release()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	if _, err := os.Stat(dir + ".new"); err == nil {
		t.Error("what was being removed is still there")
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Limit(canceled, func(string) int64 { return 1 }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}
