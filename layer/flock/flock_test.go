package flock_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/strake-build/strake/layer/flock"
)

// open opens the file name, which it may make.
func open(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestModes has two files hold, and ask for, the same lock.
func TestModes(t *testing.T) {
	for _, c := range []struct {
		held, asked flock.Mode
		want        error
	}{
		{flock.Shared, flock.Shared, nil},
		{flock.Shared, flock.Alone, flock.ErrHeld},
		{flock.Alone, flock.Shared, flock.ErrHeld},
		{flock.Alone, flock.Alone, flock.ErrHeld},
	} {
		name := filepath.Join(t.TempDir(), "lock")
		first, second := open(t, name), open(t, name)
		if err := flock.Take(first, c.held); err != nil {
			t.Fatal(err)
		}
		if err := flock.Try(second, c.asked); !errors.Is(err, c.want) {
			t.Errorf("%v where another has %v: %v", c.asked, c.held, err)
		}
		if err := flock.Release(first); err != nil {
			t.Fatal(err)
		}
		if err := flock.Try(second, c.asked); err != nil {
			t.Errorf("%v of a lock that was released: %v", c.asked, err)
		}
	}
}

// TestWait waits for a lock in vain, and until its holder closes the file.
func TestWait(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	first, second := open(t, name), open(t, name)
	if err := flock.Take(first, flock.Alone); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if err := flock.Wait(ctx, second, flock.Alone); !errors.Is(err, enough) {
		t.Errorf("a wait that was ended: %v", err)
	}
	got := make(chan error, 1)
	go func() { got <- flock.Wait(t.Context(), second, flock.Alone) }()
	first.Close()
	if err := <-got; err != nil {
		t.Errorf("the lock of a closed file: %v", err)
	}
}

// TestOpen waits for the lock of a file that its holder removes, and gets that of a new one.
func TestOpen(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	first, err := flock.Open(t.Context(), name, os.O_CREATE|os.O_RDWR, flock.Alone)
	if err != nil {
		t.Fatal(err)
	}
	type opened struct {
		f   *os.File
		err error
	}
	got := make(chan opened, 1)
	go func() {
		f, err := flock.Open(t.Context(), name, os.O_CREATE|os.O_RDWR, flock.Alone)
		got <- opened{f, err}
	}()
	if err := errors.Join(os.Remove(name), first.Close()); err != nil {
		t.Fatal(err)
	}
	second := <-got
	if second.err != nil {
		t.Fatal(second.err)
	}
	defer second.f.Close()
	if !flock.Named(second.f) {
		t.Error("the lock of a file that was removed")
	}
	if _, err := flock.Open(t.Context(), name+"-none", os.O_RDWR, flock.Alone); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there and not to be made: %v", err)
	}
}

// TestTryOpen asks for the lock of a file that is held, free and missing.
func TestTryOpen(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	if _, err := flock.TryOpen(name, os.O_RDONLY, flock.Alone); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	f, err := flock.TryOpen(name, os.O_CREATE|os.O_RDWR, flock.Alone)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := flock.TryOpen(name, os.O_RDONLY, flock.Shared); !errors.Is(err, flock.ErrHeld) {
		t.Errorf("a lock that is held: %v", err)
	}
	f.Close()
	if f, err = flock.TryOpen(name, os.O_RDONLY, flock.Shared); err != nil {
		t.Fatalf("a lock that is free: %v", err)
	}
	f.Close()
}

// TestNamed looks at files whose name leads to nothing or to another file.
func TestNamed(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	f := open(t, name)
	if !flock.Named(f) {
		t.Error("a file under its name")
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if flock.Named(f) {
		t.Error("a file without a name")
	}
	open(t, name)
	if flock.Named(f) {
		t.Error("another file under the name")
	}
}
