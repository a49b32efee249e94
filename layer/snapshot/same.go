package snapshot

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// compareBuffer is how much of two files is compared at once, in bytes.
const compareBuffer = 128 << 10

// redundant says whether the entry name of d is what the layers below show under that name already, so that the layer says nothing by
// it: overlayfs copies up what was touched, and what is written again as it was. As in BuildKit, the times of directories do not count, for they change with what
// is made and removed in them. Unlike there, contents and all attributes do.
func (p *pruner) redundant(d *upperDir, name string) (bool, error) {
	if d.hides {
		return false, nil
	}
	below, err := p.below(d)
	if err != nil || len(below) == 0 {
		return false, err
	}
	lower, old, err := p.topmost(below, name)
	if err != nil || lower == nil || layer.IsWhiteout(&old) {
		return false, err
	}
	st, err := d.stat.StatEntry(name)
	if err != nil || st.Mode != old.Mode || st.Uid != old.Uid || st.Gid != old.Gid || st.Rdev != old.Rdev {
		return false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && (st.Nlink > 1 || st.Size != old.Size || st.Mtim != old.Mtim) {
		return false, nil // the other names of a file are to stay names of the same one
	}
	if same, err := p.sameAttributes(d.file, lower, name); err != nil || !same {
		return false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return p.sameContent(d.file, lower, name)
	case unix.S_IFLNK:
		a, err := rootfs.ReadlinkEntry(d.file, name)
		if err != nil {
			return false, err
		}
		b, err := rootfs.ReadlinkEntry(lower, name)
		return a == b, err
	}
	return true, nil
}

// topmost is the first of merged directories that has name, nil if none has.
func (p *pruner) topmost(merged []*os.File, name string) (*os.File, unix.Stat_t, error) {
	for _, l := range merged {
		st, err := p.owners.StatEntry(l, name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return l, st, err
		}
	}
	return nil, unix.Stat_t{}, nil
}

// sameAttributes compares the extended attributes of two entries of a name, but for those that overlayfs and the host set.
func (p *pruner) sameAttributes(a, b *os.File, name string) (bool, error) {
	first, err := p.attributesOf(a, name)
	if err != nil {
		return false, err
	}
	second, err := p.attributesOf(b, name)
	if err != nil || !slices.Equal(first, second) {
		return false, err
	}
	for _, attr := range first {
		v, err := p.owners.GetXattr(a, name, attr)
		if err != nil {
			return false, err
		}
		w, err := p.owners.GetXattr(b, name, attr)
		if err != nil || !bytes.Equal(v, w) {
			return false, err
		}
	}
	return true, nil
}

func (p *pruner) attributesOf(dir *os.File, name string) ([]string, error) {
	names, err := p.owners.ListXattr(dir, name)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(attr string) bool {
		return strings.HasPrefix(attr, "trusted.overlay.") || strings.HasPrefix(attr, "user.overlay.") || attr == "security.selinux"
	})
	slices.Sort(names)
	return names, nil
}

// sameContent compares two files of the same size.
func (p *pruner) sameContent(a, b *os.File, name string) (bool, error) {
	first, err := rootfs.OpenEntry(a, name, os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer first.Close() // only read
	second, err := rootfs.OpenEntry(b, name, os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer second.Close() // only read
	if p.buffer == nil {
		p.buffer = make([]byte, 2*compareBuffer)
	}
	x, y := p.buffer[:compareBuffer], p.buffer[compareBuffer:]
	for {
		select {
		case <-p.done:
			return false, errCanceled
		default:
		}
		n, err := io.ReadFull(first, x)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return false, err
		}
		m, serr := io.ReadFull(second, y)
		if serr != nil && !errors.Is(serr, io.EOF) && !errors.Is(serr, io.ErrUnexpectedEOF) {
			return false, serr
		}
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if err != nil {
			return true, nil // the end of both
		}
	}
}
