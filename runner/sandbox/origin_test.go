package sandbox

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/supervisor"
)

// newChrootBox is a box that has not let go of the outside.
func newChrootBox(t *testing.T, mounts ...Mount) *box {
	t.Helper()
	family, err := supervisor.NewFamily()
	if err != nil {
		t.Fatal(err)
	}
	b := newBox()
	b.family, b.proc, b.Mounts = family, family.Proc(), mounts
	return b
}

// dirs makes directories below a new one, and returns that.
func dirs(t *testing.T, names ...string) string {
	t.Helper()
	top := t.TempDir()
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(top, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return top
}

// borrow does what a box does with the cache home: it has it in a tree, where there was point, for a moment.
func borrow(home, point string) error {
	cache, err := os.Open(home)
	if err != nil {
		return err
	}
	defer cache.Close()
	stub, err := os.Open(point)
	if err != nil {
		return err
	}
	defer stub.Close()
	if err := unix.Flock(int(cache.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if err := unix.Flock(int(stub.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, home, unix.AT_FDCWD, point, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	time.Sleep(rand.N(200 * time.Microsecond))
	return unix.Renameat2(unix.AT_FDCWD, home, unix.AT_FDCWD, point, unix.RENAME_EXCHANGE)
}

// A cache is found and locked while other boxes take it and bring it back, never what lies at its name meanwhile.
func TestCacheIsFound(t *testing.T) {
	for name, m := range map[string]Mount{"whole": {}, "part": {Inside: "/mine"}, "read only": {ReadOnly: true}, "part, read only": {Inside: "/mine", ReadOnly: true}} {
		t.Run(name, func(t *testing.T) {
			dir := dirs(t, "home/mine/mine", "tree/point")
			home := filepath.Join(dir, "home")
			m.Type, m.Source, m.Target = "bind", home, "/c"
			b := newChrootBox(t, m)
			b.Aside = filepath.Join(dir, "aside")
			done := make(chan error, 1)
			go func() {
				var err error
				for i := 0; i < 50 && err == nil; i++ {
					err = borrow(home, filepath.Join(dir, "tree/point"))
					time.Sleep(rand.N(time.Millisecond))
				}
				done <- err
			}()
			for {
				if err := checkFound(b, filepath.Join(home, m.Inside)); err != nil {
					t.Fatal(err) // the other one may wait for ever for what is locked now
				}
				select {
				case err := <-done:
					if err != nil {
						t.Error(err)
					}
					return
				default:
				}
			}
		})
	}
}

// What a box had when it was killed is brought back by the next one that wants it, however much of it that is.
func TestCacheOfKilledBox(t *testing.T) {
	for _, taken := range []string{"", "/mine"} {
		for _, m := range []Mount{{}, {Inside: "/mine"}, {ReadOnly: true}, {Inside: "/mine", ReadOnly: true}} {
			dir := dirs(t, "home/mine/mine", "tree/at/point", "run/killed", "run/own")
			home := filepath.Join(dir, "home")
			m.Type, m.Source, m.Target = "bind", home, "/c"
			killed := newChrootBox(t)
			var st unix.Stat_t
			var err error
			if killed.aside, err = unix.Open(filepath.Join(dir, "run/killed"), unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
				t.Fatal(err)
			}
			if err := unix.Stat(home+taken, &st); err != nil {
				t.Fatal(err)
			}
			if err := killed.remember(Moved{Home: home + taken, Tree: filepath.Join(dir, "tree"), At: "/at/point", Dev: st.Dev, Ino: st.Ino}); err != nil {
				t.Fatal(err)
			}
			unix.Close(killed.aside)
			if err := unix.Renameat2(unix.AT_FDCWD, home+taken, unix.AT_FDCWD, filepath.Join(dir, "tree/at/point"), unix.RENAME_EXCHANGE); err != nil {
				t.Fatal(err)
			}
			b := newChrootBox(t, m)
			b.Aside = filepath.Join(dir, "run/own")
			if err := checkFound(b, home+m.Inside); err != nil {
				t.Errorf("%q of it was taken, %+v: %v", taken, m, err)
			}
		}
	}
}

// checkFound opens the source of b's only mount, which is the directory want with the directory mine in it.
func checkFound(b *box, want string) error {
	found, err := b.openSources()
	if err != nil {
		return err
	}
	s := found.all[0]
	defer unix.Close(s.fd)
	for _, o := range found.origins {
		defer unix.Close(o.parent)
		if o.moved {
			defer unix.Close(o.fd)
		}
	}
	defer found.release()
	var st unix.Stat_t
	if err := unix.Fstatat(s.fd, "mine", &st, 0); err != nil {
		return errors.New("something else than the cache was found")
	}
	if b.Mounts[0].ReadOnly {
		return nil
	}
	defer unix.Close(s.parent)
	if s.lock >= 0 {
		defer unix.Close(s.lock)
	}
	if s.home != want || !is(s.parent, s.name, s.fd) {
		return errors.New("the cache was found at " + s.home)
	}
	return nil
}
