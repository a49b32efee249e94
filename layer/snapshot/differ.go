package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// Differences returns the first paths, at most limit, whose entries in the layers a and b differ: in anything that a layer's
// tar says but times. The root directory is "/". None means that the layers are the same but for times.
func (s *Store) Differences(ctx context.Context, a, b ID, limit int) ([]string, error) {
	if err := errors.Join(s.check(a), s.check(b)); err != nil {
		return nil, err
	}
	paths, err := s.differences(ctx, a, b, limit)
	if err != nil {
		return nil, fmt.Errorf("comparing layers %s and %s: %w", a, b, err)
	}
	return paths, nil
}

// Same says whether the layers a and b are the same but for times. It is quick to say no: what they have is counted before any
// content is read.
func (s *Store) Same(ctx context.Context, a, b ID) (bool, error) {
	x, xerr := s.look(a)
	y, yerr := s.look(b)
	if err := errors.Join(xerr, yerr); err != nil {
		return false, fmt.Errorf("comparing layers %s and %s: %w", a, b, err)
	}
	if x.empty && x == y {
		return s.sameRoot(a, b)
	}
	first, err := s.measure(ctx, a)
	if err == nil {
		var second measured
		if second, err = s.measure(ctx, b); err == nil && first != second {
			return false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("measuring layers %s and %s: %w", a, b, err)
	}
	paths, err := s.Differences(ctx, a, b, 1)
	return err == nil && len(paths) == 0, err
}

// measured is what is counted of a layer.
type measured struct{ entries, bytes int64 }

// measure counts the entries of a layer, and the bytes of its files.
func (s *Store) measure(ctx context.Context, id ID) (m measured, err error) {
	root, err := rootfs.Open(s.fs(id))
	if err != nil {
		return m, err
	}
	defer root.Close() // only read
	var lister rootfs.Lister
	var count func(dir *os.File) error
	count = func(dir *os.File) error {
		defer dir.Close() // only read
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		entries, err := lister.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			m.entries++
			switch e.Type {
			case unix.DT_REG:
				st, err := rootfs.StatEntry(dir, e.Name)
				if err != nil {
					return err
				}
				m.bytes += st.Size
			case unix.DT_DIR:
				sub, err := rootfs.OpenEntry(dir, e.Name, unix.O_RDONLY|unix.O_DIRECTORY)
				if err == nil {
					err = count(sub)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	}
	top, err := root.OpenFile(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return m, err
	}
	return m, count(top)
}

// timeless streams a layer's tar with one time everywhere.
func (s *Store) timeless(ctx context.Context, id ID, w io.Writer) error {
	root, err := rootfs.Open(s.fs(id))
	if err != nil {
		return err
	}
	defer root.Close() // only read
	opt, epoch := s.options(), int64(0)
	opt.Epoch, opt.Attributes = &epoch, true // of which a tar has but a part
	return layer.Write(ctx, w, root, opt)
}

func (s *Store) differences(ctx context.Context, a, b ID, limit int) ([]string, error) {
	var found []string
	same, err := s.sameRoot(a, b)
	if err != nil {
		return nil, err
	}
	if !same {
		found = append(found, "/")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	stream := func(id ID) *io.PipeReader {
		r, w := io.Pipe()
		g.Go(func() error { return w.CloseWithError(s.timeless(ctx, id, w)) })
		return r
	}
	first, second := stream(a), stream(b)
	d := differ{a: newEntries(first), b: newEntries(second), limit: limit, found: found}
	err = d.run()
	cancel()
	// Who still writes gets an error, which is of no interest any more.
	_, _ = first.CloseWithError(io.ErrClosedPipe), second.CloseWithError(io.ErrClosedPipe)
	_ = g.Wait()
	return d.found, err
}

// sameRoot compares what the tar does not say: mode and owner of the root directory, which a view shows.
func (s *Store) sameRoot(a, b ID) (bool, error) {
	var st [2]unix.Stat_t
	for i, id := range []ID{a, b} {
		if err := unix.Lstat(s.fs(id), &st[i]); err != nil {
			return false, &os.PathError{Op: "lstat", Path: s.fs(id), Err: err}
		}
	}
	return st[0].Mode == st[1].Mode && st[0].Uid == st[1].Uid && st[0].Gid == st[1].Gid, nil
}

// differ compares two tars whose entries are sorted alike.
type differ struct {
	a, b  *entries
	limit int
	found []string
	buf   [2][64 << 10]byte
}

// entries are those of a tar, one ahead.
type entries struct {
	r   *tar.Reader
	now *tar.Header // nil at the end
}

func newEntries(r io.Reader) *entries { return &entries{r: tar.NewReader(r)} }

func (e *entries) next() error {
	h, err := e.r.Next()
	if errors.Is(err, io.EOF) {
		e.now = nil
		return nil
	}
	e.now = h
	return err
}

// run goes through both trees at once, by name, until enough differences are found.
func (d *differ) run() error {
	if err := errors.Join(d.a.next(), d.b.next()); err != nil {
		return err
	}
	for (d.a.now != nil || d.b.now != nil) && len(d.found) < d.limit {
		a, b := d.a.now, d.b.now
		if a != nil && b != nil && a.Name == b.Name {
			same, err := d.same()
			if err != nil {
				return err
			}
			if !same {
				d.found = append(d.found, "/"+a.Name)
			}
			if err := errors.Join(d.a.next(), d.b.next()); err != nil {
				return err
			}
			continue
		}
		side := d.a
		if a == nil || b != nil && place(b.Name) < place(a.Name) {
			side = d.b
		}
		d.found = append(d.found, "/"+side.now.Name)
		if err := side.next(); err != nil {
			return err
		}
	}
	return nil
}

// place orders the entries of a tar as layer.Write does: parents first, names sorted byte by byte, a mark where what it hides would be.
func place(name string) string {
	dir, base := path.Split(name)
	return strings.ReplaceAll(dir+strings.TrimPrefix(strings.TrimPrefix(base, ".wh."), ".wh..opq"), "/", "\x00")
}

// same compares the entries that both are at.
func (d *differ) same() (bool, error) {
	a, b := d.a.now, d.b.now
	if a.Typeflag != b.Typeflag || a.Linkname != b.Linkname || a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid ||
		a.Size != b.Size || a.Devmajor != b.Devmajor || a.Devminor != b.Devminor || !maps.Equal(a.PAXRecords, b.PAXRecords) {
		return false, nil
	}
	for {
		n, err := io.ReadFull(d.a.r, d.buf[0][:])
		m, other := io.ReadFull(d.b.r, d.buf[1][:])
		for _, err := range []error{err, other} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if n != m || !bytes.Equal(d.buf[0][:n], d.buf[1][:m]) {
			return false, nil
		}
		if err != nil {
			return true, nil //nolint:nilerr // the end of both
		}
	}
}
