package source

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// openIndex reads the index, once.
func (t *Tree) openIndex() {
	t.indexOnce.Do(func() {
		t.old = &index{}
		if t.opt.Index == "" {
			return
		}
		b, err := os.ReadFile(t.opt.Index)
		if err != nil {
			return
		}
		st, err := t.root.Lstat(".")
		if err != nil {
			return
		}
		if x, err := parseIndex(b, st.Ino); err == nil {
			t.old = x
		} else {
			t.dirty.Store(true)
		}
	})
}

// recallAll takes from the index what it knows of the entries of f and returns the rest.
//
// Preconditions: f.d.mu is held and f is loaded.
func (t *Tree) recallAll(f Folder) (unknown []*node) {
	t.openIndex()
	b := t.old.dirs[f.d.path]
	var r record
	r.name = nil
	have, stale := false, false
	next := func() {
		if b, have = r.next(b); !have {
			r.name = nil
		}
	}
	next()
	for i := range f.len() {
		n := f.node(i)
		for have && string(r.name) < n.Name {
			stale = stale || f.v == nil
			next()
		}
		found := have && string(r.name) == n.Name
		switch {
		case n.known:
		case found && r.matches(n):
			n.sum, n.attrs, n.known = r.sum, r.attrs, true
		default:
			stale = stale || found
			unknown = append(unknown, n)
		}
		if found {
			next()
		}
	}
	if stale || have && f.v == nil {
		t.dirty.Store(true)
	}
	return unknown
}

// How long before the clock's reading a file must have been at rest: file systems stamp with the
// timer's tick, 10 ms at most, and some know only whole seconds, or two (FAT).
const (
	granule       = 10 * time.Millisecond
	coarseGranule = 2 * time.Second
)

// startClock notes the time before anything is hashed: a file that is written to after it
// was hashed gets a later ctime than this.
func (t *Tree) startClock() {
	if t.opt.Index == "" {
		return
	}
	t.clockOnce.Do(func() {
		f, err := os.CreateTemp(filepath.Dir(t.opt.Index), filepath.Base(t.opt.Index)+".tmp-*")
		if err != nil {
			return
		}
		defer os.Remove(f.Name())
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return
		}
		t.clock = st.ModTime().UnixNano()
		if t.opt.Now != nil {
			t.clock = min(t.clock, t.opt.Now().UnixNano())
		}
	})
}

// settled says whether a file was at rest before the clock was read. If not, it can be written to again
// without a change of its times, so what is known of it must not be kept (git calls it racy).
func (t *Tree) settled(st *unix.Stat_t) bool {
	rest := granule
	if st.Ctim.Nsec == 0 {
		rest = coarseGranule
	}
	limit := time.Unix(0, t.clock).Add(-rest)
	return time.Unix(st.Mtim.Unix()).Before(limit) && time.Unix(st.Ctim.Unix()).Before(limit)
}

// saveIndex writes the index if it changed. What this tree did not look at stays as it was.
func (t *Tree) saveIndex() error {
	if t.opt.Index == "" || !t.dirty.Load() {
		return nil
	}
	t.openIndex()
	st, err := t.root.Lstat(".")
	if err != nil {
		return err
	}
	w := indexWriter{b: append([]byte(nil), indexMagic...)}
	w.b = binary.LittleEndian.AppendUint64(w.b, st.Ino)
	w.b = binary.LittleEndian.AppendUint32(w.b, 0)
	t.saveSeen(&w, t.top)
	for _, name := range slices.Sorted(maps.Keys(t.old.dirs)) {
		if t.unseen(name) {
			w.start(name)
			records := t.old.dirs[name]
			var r record
			for rest, ok := r.next(records); ok; rest, ok = r.next(rest) {
				w.n++
			}
			w.b = append(w.b, records...)
			w.end()
		}
	}
	if err := replaceFile(t.opt.Index, w.finish()); err != nil {
		return fmt.Errorf("writing the stat index: %w", err)
	}
	return nil
}

// saveSeen writes the records of those folders that were listed.
func (t *Tree) saveSeen(w *indexWriter, d *dir) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.listed {
		return
	}
	w.start(d.path)
	var r record
	rest, have := r.next(t.old.dirs[d.path])
	for i := range d.nodes {
		n := &d.nodes[i]
		for have && string(r.name) < n.Name {
			rest, have = r.next(rest)
		}
		switch {
		case n.known && !n.racy:
			w.add(n.record())
		case !n.known && have && string(r.name) == n.Name && (!n.stated || r.matches(n)):
			w.add(r)
		}
	}
	w.end()
	for i := range d.nodes {
		if sub := d.nodes[i].dir; sub != nil {
			t.saveSeen(w, sub)
		}
	}
}

// unseen says whether a folder of the old index may still exist, because nobody listed it or
// the folder where it would be.
func (t *Tree) unseen(name string) bool {
	d := t.top
	if name == "." {
		return !d.listed
	}
	for comp := range strings.SplitSeq(name, "/") {
		if !d.listed {
			return true
		}
		i, ok := d.index(comp)
		if !ok || d.nodes[i].dir == nil {
			return false
		}
		d = d.nodes[i].dir
	}
	return !d.listed
}

// indexWriter puts an index together.
type indexWriter struct {
	b     []byte
	dirs  uint32 // folders so far
	n     uint32 // records of the folder being written
	begin int    // where that folder begins
	first int    // where its records do
}

func (w *indexWriter) start(name string) {
	w.begin, w.n = len(w.b), 0
	w.b = binary.LittleEndian.AppendUint32(w.b, uint32(len(name)))
	w.b = append(w.b, make([]byte, 8)...)
	w.b = append(w.b, name...)
	w.first = len(w.b)
}

func (w *indexWriter) add(r record) {
	if len(r.name) > math.MaxUint16 {
		return // no file system has such names
	}
	w.b = r.append(w.b)
	w.n++
}

// end ends a folder; one without records is left out.
func (w *indexWriter) end() {
	if w.n == 0 {
		w.b = w.b[:w.begin]
		return
	}
	binary.LittleEndian.PutUint32(w.b[w.begin+4:], w.n)
	binary.LittleEndian.PutUint32(w.b[w.begin+8:], uint32(len(w.b)-w.first))
	w.dirs++
}

func (w *indexWriter) finish() []byte {
	binary.LittleEndian.PutUint32(w.b[len(indexMagic)+8:], w.dirs)
	sum := sha256.Sum256(w.b)
	return append(w.b, sum[:]...)
}

// replaceFile writes a file so that others see the old or the new one.
func replaceFile(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
