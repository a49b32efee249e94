package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// touchEvery is how exactly the last use of a record is known: a record that is used often is touched once in this time.
const touchEvery = 12 * time.Hour

func (s *Store) use(k Key, r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[k] = r.Layer
}

// Used returns the layers of the records that were found or saved through s.
func (s *Store) Used() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Compact(slices.Sorted(maps.Values(s.used)))
}

// Touch notes now as the last use of the records that were found or saved through s. The note is the modification time
// of a record's file; one of the last hours is left as it is, so that a build which finds everything writes nothing.
func (s *Store) Touch(now time.Time) {
	s.mu.Lock()
	keys := slices.Collect(maps.Keys(s.used))
	s.mu.Unlock()
	for _, k := range keys {
		path := s.path(k)
		fi, err := os.Lstat(path)
		if err != nil {
			continue
		}
		if age := now.Sub(fi.ModTime()); age > touchEvery || age < 0 {
			_ = os.Chtimes(path, time.Time{}, now) // a wrong time costs a layer at worst
		}
	}
}

// Entry is a record with what is known of its file.
type Entry struct {
	Key    Key
	Record Record
	Used   time.Time
	Disk   int64 // bytes on the disk
	Path   string
	// Err says why the record cannot be used; nil if it can.
	Err error
}

// Entries calls f for every record, also for damaged ones, and stops at f's first error. f may remove records.
func (s *Store) Entries(ctx context.Context, f func(Entry) error) error {
	top := filepath.Join(s.dir, "records")
	dirs, err := os.ReadDir(top)
	if err != nil {
		return fmt.Errorf("reading the build cache: %w", err)
	}
	for _, d := range dirs {
		names, err := os.ReadDir(filepath.Join(top, d.Name()))
		if err != nil {
			return fmt.Errorf("reading the build cache: %w", err)
		}
		for _, n := range names {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			fi, err := n.Info()
			if errors.Is(err, os.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return fmt.Errorf("reading the build cache: %w", err)
			}
			e := Entry{Path: filepath.Join(top, d.Name(), n.Name()), Used: fi.ModTime()}
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				e.Disk = st.Blocks * 512
			}
			if k, ok := ParseKey(n.Name()); ok && n.Name()[:2] == d.Name() {
				e.Key = k
				e.Record, e.Err = s.read(k)
			} else {
				e.Err = fmt.Errorf("%w: the file is no record", ErrMiss)
			}
			if err := f(e); err != nil {
				return err
			}
		}
	}
	return nil
}
