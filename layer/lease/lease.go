// Package lease says what running processes use of a store, so that others may remove the rest meanwhile.
//
//	DIR/gate        held shared by who takes something into use, alone by who removes something; for moments
//	DIR/collector   held alone by who collects
//	DIR/lease-NAME  what a process uses, a name to a line; held alone while the process lives
//
// All are locks of package flock, so that a process lets go of everything when it dies, however it dies.
//
// What is looked up and what is removed are looked up and removed at the gate, so nobody finds a thing that somebody is
// about to remove. A process may end between a collector's look at who needs what and the moment at which something is
// removed, and have given what it used to an image: so a lease counts until a collection begins after its end.
package lease

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/strake-build/strake/layer/flock"
)

// ErrBusy is returned to who wants to collect while somebody does.
var ErrBusy = errors.New("another strake command removes things from the store")

// Lease is what this process uses. It is safe for concurrent use. A nil Lease is that of who has the store alone.
type Lease struct {
	dir string

	mu       sync.Mutex // held also where the gate is: its lock belongs to the open file
	gate     *os.File
	file     *os.File        // nil before the first name, and after Release
	names    map[string]bool // that are in file
	released bool
}

// Open opens or makes the folder dir of leases. This process uses nothing yet.
func Open(dir string) (*Lease, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the leases: %w", err)
	}
	gate, err := os.OpenFile(filepath.Join(dir, "gate"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the leases: %w", err)
	}
	return &Lease{dir: dir, gate: gate, names: make(map[string]bool)}, nil
}

// Hold calls find, which looks for something or makes it, and must be quick. If it returns nil nobody removes what the names
// stand for until Release, or the death of this process. After Release it only calls find.
func (l *Lease) Hold(find func() error, names ...string) error {
	if l == nil {
		return find()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	more := l.unheld(names)
	if l.released || len(more) == 0 {
		return find()
	}
	return l.pass(flock.Shared, func() error {
		if err := find(); err != nil {
			return err
		}
		return l.note(more)
	})
}

// unheld are those of names that are not in the file.
func (l *Lease) unheld(names []string) (more []string) {
	for _, n := range names {
		if !l.names[n] {
			more = append(more, n)
		}
	}
	return more
}

// note writes names to the file.
//
// Preconditions: the gate is held.
func (l *Lease) note(names []string) (err error) {
	if l.file == nil {
		if l.file, err = l.create(); err != nil {
			return fmt.Errorf("making a lease: %w", err)
		}
	}
	if _, err := l.file.WriteString(strings.Join(names, "\n") + "\n"); err != nil {
		return fmt.Errorf("noting what is used: %w", err)
	}
	for _, n := range names {
		l.names[n] = true
	}
	return nil
}

// create makes and locks the file, after it removed those of processes that have ended.
func (l *Lease) create() (*os.File, error) {
	if err := l.sweepUnlessCollected(); err != nil {
		return nil, err
	}
	for {
		f, err := os.CreateTemp(l.dir, "lease-")
		if err != nil {
			return nil, err
		}
		if err := flock.Take(f, flock.Alone); err != nil {
			return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
		if flock.Named(f) {
			return f, nil
		}
		_ = f.Close() // a sweep came between the two calls
	}
}

// Release lets go of everything, for good.
func (l *Lease) Release() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return
	}
	l.released = true
	if l.file == nil {
		return
	}
	_ = l.file.Close()
	l.file = nil
	_ = l.pass(flock.Shared, l.sweepUnlessCollected) // a file that stays is removed by who comes next
}

// Held returns the names that living processes use.
func (l *Lease) Held() (map[string]bool, error) {
	held := make(map[string]bool)
	if l == nil {
		return held, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.pass(flock.Shared, func() error {
		return l.each(func(f *os.File) error {
			err := flock.Try(f, flock.Shared)
			if errors.Is(err, flock.ErrHeld) {
				err = readNames(f, held)
			}
			return err // those of nobody any more are not read
		})
	})
	if err != nil {
		return nil, fmt.Errorf("reading what is in use: %w", err)
	}
	return held, nil
}

// pass calls do at the gate.
//
// Preconditions: mu is held.
func (l *Lease) pass(m flock.Mode, do func() error) error {
	if err := flock.Take(l.gate, m); err != nil {
		return fmt.Errorf("locking the leases: %w", err)
	}
	err := do()
	return errors.Join(err, flock.Release(l.gate))
}

// lockCollector takes the lock of who collects, or returns ErrBusy.
func (l *Lease) lockCollector(m flock.Mode) (*os.File, error) {
	f, err := flock.TryOpen(filepath.Join(l.dir, "collector"), os.O_CREATE|os.O_RDWR, m)
	if errors.Is(err, flock.ErrHeld) {
		err = ErrBusy
	}
	return f, err
}

// sweepUnlessCollected is sweep where somebody may collect, who needs to see what was used.
//
// Preconditions: the gate is held.
func (l *Lease) sweepUnlessCollected() error {
	c, err := l.lockCollector(flock.Shared)
	if errors.Is(err, ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close() // only a lock
	return l.sweep()
}

// sweep removes the leases of processes that have ended.
//
// Preconditions: the gate is held, and nobody collects.
func (l *Lease) sweep() error {
	return l.each(func(f *os.File) error {
		err := flock.Try(f, flock.Alone)
		if errors.Is(err, flock.ErrHeld) {
			return nil // it lives
		}
		if err != nil {
			return err
		}
		return os.Remove(f.Name())
	})
}

// paths are those of all leases.
func (l *Lease) paths() (paths []string, err error) {
	entries, err := os.ReadDir(l.dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "lease-") {
			paths = append(paths, filepath.Join(l.dir, e.Name()))
		}
	}
	return paths, err
}

// each calls do for each file of a lease, which it closes after that.
func (l *Lease) each(do func(*os.File) error) error {
	paths, err := l.paths()
	if err != nil {
		return err
	}
	for _, p := range paths {
		f, err := os.Open(p)
		if errors.Is(err, os.ErrNotExist) {
			continue // swept meanwhile
		}
		if err == nil {
			err = errors.Join(do(f), f.Close())
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// readNames adds to names what is in f from where it was read before.
func readNames(f *os.File, names map[string]bool) error {
	text, err := io.ReadAll(f)
	for line := range strings.Lines(string(text)) {
		names[strings.TrimSuffix(line, "\n")] = true
	}
	return err
}
