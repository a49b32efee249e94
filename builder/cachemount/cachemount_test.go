package cachemount_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/dockerfile"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSharing(t *testing.T) {
	c := &cachemount.Store{Dir: t.TempDir()}
	open := func(ctx context.Context, s dockerfile.Sharing) (string, func(), error) {
		return c.Open(ctx, cachemount.Mount{ID: "x", Sharing: s, Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()})
	}
	one, release1, err := open(t.Context(), dockerfile.SharingShared)
	must(t, err)
	two, release2, err := open(t.Context(), dockerfile.SharingShared)
	must(t, err)
	if one != two {
		t.Error("sharers have two directories")
	}
	private, release3, err := open(t.Context(), dockerfile.SharingPrivate)
	must(t, err)
	if private == one {
		t.Error("a private user has the sharers' directory")
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := open(short, dockerfile.SharingLocked); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked beside sharers: %v", err)
	}
	ended, end := context.WithCancelCause(t.Context())
	end(fs.ErrNotExist) // which is no sign that the directory was removed
	if _, _, err := open(ended, dockerfile.SharingLocked); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a wait that ended since something else was missing: %v", err)
	}
	release1()
	release2()
	locked, release4, err := open(t.Context(), dockerfile.SharingLocked)
	must(t, err)
	if locked != one {
		t.Error("the lock is on another directory")
	}
	release4()
	release3()
	again, release5, err := open(t.Context(), dockerfile.SharingPrivate)
	must(t, err)
	defer release5()
	if again != one {
		t.Error("a free directory was not used again")
	}
}

// Whoever comes first fills the cache, once, and a failure leaves nothing half full.
func TestSeed(t *testing.T) {
	c := &cachemount.Store{Dir: t.TempDir()}
	broken := errors.New("broken")
	m := cachemount.Mount{ID: "x", Sharing: dockerfile.SharingShared, Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()}
	m.Seed = func(dir string) error {
		_ = os.WriteFile(filepath.Join(dir, "half"), nil, 0o600)
		return broken
	}
	if _, _, err := c.Open(t.Context(), m); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	var seeded atomic.Int32
	m.Seed = func(dir string) error {
		seeded.Add(1)
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left of the failure: %v", left)
		}
		time.Sleep(10 * time.Millisecond)
		return os.WriteFile(filepath.Join(dir, "seed"), nil, 0o600)
	}
	done := make(chan error)
	for range 4 {
		go func() {
			dir, release, err := c.Open(t.Context(), m)
			if err == nil {
				_, err = os.Stat(filepath.Join(dir, "seed"))
				release()
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := seeded.Load(); n != 1 {
		t.Errorf("seeded %d times", n)
	}
}
