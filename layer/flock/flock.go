// Package flock takes locks of flock(2), by which the processes that share a store keep out of each other's way.
//
// A lock belongs to an open file. Closing the file gives the lock up, and so does the death of the process, however it dies: no lock
// is ever left behind. Two open files have two locks, also in one process.
package flock

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Mode says who else may have the lock of a file meanwhile.
type Mode int

const (
	// Shared lets others have it too that take it Shared.
	Shared Mode = unix.LOCK_SH
	// Alone lets nobody.
	Alone Mode = unix.LOCK_EX
)

// ErrHeld says that somebody else has a lock.
var ErrHeld = errors.New("somebody else has the lock")

// Take waits for the lock of f, and nothing can end that: it is for locks that are held for moments.
func Take(f *os.File, m Mode) error { return flock(f, int(m)) }

// Release gives up the lock of a file that stays open.
func Release(f *os.File) error { return flock(f, unix.LOCK_UN) }

// Try takes the lock of f if it is free, and returns ErrHeld if it is not.
func Try(f *os.File, m Mode) error {
	err := flock(f, int(m)|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrHeld
	}
	return err
}

// How long Wait pauses before it asks again: at first, and at most.
const (
	firstPause = time.Millisecond
	maxPause   = 50 * time.Millisecond
)

// Wait waits for the lock of f until ctx ends, and then returns its cause. It asks again and again: who sleeps in flock(2) cannot
// be woken for a single one of the reasons that a context ends for.
func Wait(ctx context.Context, f *os.File, m Mode) error {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		if err := Try(f, m); !errors.Is(err, ErrHeld) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// Open opens a file like os.OpenFile, with mode 0600 if that makes it, and waits for its lock until ctx ends, like Wait. Who has the
// lock of a file may remove it: then Open goes on with the file that has the name now, and fails if there is none and flag does not
// make one.
func Open(ctx context.Context, name string, flag int, m Mode) (*os.File, error) {
	for {
		f, named, err := open(name, flag, func(f *os.File) error { return Wait(ctx, f, m) })
		if named || err != nil {
			return f, err
		}
	}
}

// TryOpen opens a file like Open and takes its lock if it is free. It returns ErrHeld if it is not, and an error that is fs.ErrNotExist
// if the name does not, or not any more, lead to the file whose lock it got.
func TryOpen(name string, flag int, m Mode) (*os.File, error) {
	f, named, err := open(name, flag, func(f *os.File) error { return Try(f, m) })
	if !named && err == nil {
		err = &fs.PathError{Op: "lock", Path: name, Err: fs.ErrNotExist}
	}
	return f, err
}

// open opens a file and has take take its lock. Without an error, f is nil if named is false: somebody removed the file before that.
func open(name string, flag int, take func(*os.File) error) (f *os.File, named bool, err error) {
	f, err = os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, false, err
	}
	if err = take(f); err == nil && Named(f) {
		return f, true, nil
	}
	_ = f.Close()
	return nil, false, err
}

// Named says whether an open file is still what its name leads to. Somebody may have removed or replaced it before its lock was got.
func Named(f *os.File) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(f.Name())
	return err == nil && os.SameFile(mine, now)
}

// flock calls flock(2), again after a signal.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
