package lease

import (
	"errors"
	"fmt"
	"os"

	"github.com/strake-build/strake/layer/flock"
)

// Collection is the right to remove what nobody uses. One process at a time has it, and loses it when it dies.
type Collection struct {
	lease *Lease
	lock  *os.File
	files map[string]*os.File // the leases that were seen, by their paths, each read up to where it ended
	names map[string]bool     // that are in them
}

// Collect begins a collection, before a look at who needs what. It returns ErrBusy while somebody collects. Close must follow.
func (l *Lease) Collect() (*Collection, error) {
	c := &Collection{lease: l, files: make(map[string]*os.File), names: make(map[string]bool)}
	if l == nil {
		return c, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.pass(flock.Alone, func() (err error) {
		if c.lock, err = l.lockCollector(flock.Alone); err != nil {
			return err
		}
		return l.sweep()
	})
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("beginning to collect: %w", err)
	}
	return c, nil
}

// Close ends the collection.
func (c *Collection) Close() {
	for _, f := range c.files {
		_ = f.Close()
	}
	if c.lock != nil {
		_ = c.lock.Close()
	}
}

// Take calls take, which takes something away from where it is found, and must be quick; but not, and it returns false, if one of
// the names that stand for the thing is in use, or was since the collection began.
func (c *Collection) Take(take func() error, names ...string) (bool, error) {
	l := c.lease
	if l == nil {
		err := take()
		return err == nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := false
	err := l.pass(flock.Alone, func() error {
		if err := c.read(); err != nil {
			return fmt.Errorf("reading what is in use: %w", err)
		}
		for _, n := range names {
			if c.names[n] {
				return nil
			}
		}
		taken = true
		return take()
	})
	return taken && err == nil, err
}

// read reads what was added to the leases.
//
// Preconditions: the gate is held alone. So nobody writes, and nobody removes a lease before the collection ends.
func (c *Collection) read() error {
	paths, err := c.lease.paths()
	if err != nil {
		return err
	}
	for _, p := range paths {
		f := c.files[p]
		if f == nil {
			if f, err = os.Open(p); err != nil {
				return err
			}
			c.files[p] = f
		}
		err = errors.Join(err, readNames(f, c.names))
	}
	return err
}
