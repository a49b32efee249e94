package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// isOpaque says whether the directory path hides what lies below it.
func isOpaque(path, xattr string) (bool, error) {
	var b [8]byte
	for {
		n, err := unix.Lgetxattr(path, xattr, b[:])
		switch err {
		case nil:
			return string(b[:n]) == "y", nil
		case unix.EINTR:
		case unix.ENODATA, unix.EOPNOTSUPP, unix.ERANGE:
			return false, nil
		default:
			return false, &fs.PathError{Op: "getxattr " + xattr, Path: path, Err: err}
		}
	}
}

// prune drops the marks of the upper directory for which the layers below have nothing: a file that was
// made and removed in one step, a directory that was new; and the files and directories that are there below already as they
// are. So the layer says what the step changed, and the same change gives the same layer. With an
// epoch (seconds since 1970) no modification time stays that is later.
func (u *upperLayer) prune(ctx context.Context, epoch *int64) error {
	f, err := os.OpenFile(u.upper(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	p := &pruner{opaque: u.s.options().OpaqueXattr(), owners: u.s.Owners(), epoch: epoch, done: ctx.Done()}
	d := &upperDir{file: f, lowerRoots: u.lower, stat: p.owners.In(f)}
	defer d.close()
	err = p.dir(d)
	if errors.Is(err, errCanceled) {
		return context.Cause(ctx)
	}
	return err
}

var errCanceled = errors.New("canceled")

type pruner struct {
	opaque string // the attribute's name
	owners *rootfs.Owners
	epoch  *int64 // nil: times stay
	done   <-chan struct{}
	lister rootfs.Lister
	buffer []byte // of sameContent; nil until it is needed
}

// upperDir is a directory of the upper, with those below that it is merged with, which are opened only when a mark asks for them.
type upperDir struct {
	file       *os.File
	stat       *rootfs.DirStat // of file
	parent     *upperDir       // nil for the root
	name       string
	hides      bool     // opaque, and there was something to hide
	lowerRoots []string // of the root
	lower      []*os.File
	known      bool         // lower is set
	kept       bool         // an entry stays
	times      *unix.Stat_t // before the first removal of an entry; nil if there was none
}

func (d *upperDir) close() {
	_ = d.file.Close()
	for _, f := range d.lower {
		_ = f.Close()
	}
}

// dir drops the marks in d and below.
func (p *pruner) dir(d *upperDir) error {
	select {
	case <-p.done:
		return errCanceled
	default:
	}
	entries, err := p.lister.ReadDir(d.file)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if p.owners.Hides(e.Name) {
			continue
		}
		drop := false
		if e.Type == unix.DT_DIR {
			drop, err = p.child(d, e.Name)
		} else {
			drop, err = p.file(d, e)
		}
		if drop && err == nil {
			err = d.drop(e.Name)
		}
		if err != nil {
			return err
		}
		d.kept = d.kept || !drop
	}
	if t := d.times; t != nil {
		// What the step did to the directory's time stays; what was dropped here never was.
		if err := rootfs.Utimes(d.file, ".", t.Atim, t.Mtim); err != nil {
			return err
		}
	}
	if p.epoch == nil {
		return nil
	}
	return p.clamp(d.file, ".")
}

// drop removes the entry name.
func (d *upperDir) drop(name string) error {
	if d.times == nil {
		st, err := rootfs.StatEntry(d.file, ".")
		if err != nil {
			return err
		}
		d.times = &st
	}
	return rootfs.RemoveAll(d.file, name)
}

// file handles the entry e of d, which is no directory, and says whether it is to go.
func (p *pruner) file(d *upperDir, e rootfs.Entry) (drop bool, err error) {
	if e.Type == unix.DT_CHR {
		if mark, drop, err := p.device(d, e.Name); mark || err != nil {
			return drop, err
		}
	}
	if drop, err := p.redundant(d, e.Name); drop || err != nil || p.epoch == nil {
		return drop, err
	}
	return false, p.clamp(d.file, e.Name)
}

// clamp sets the entry's modification time to the epoch if it is later.
func (p *pruner) clamp(dir *os.File, base string) error {
	st, err := rootfs.StatEntry(dir, base)
	if err != nil {
		return err
	}
	if st.Mtim.Sec < *p.epoch || st.Mtim.Sec == *p.epoch && st.Mtim.Nsec == 0 {
		return nil
	}
	return rootfs.Utimes(dir, base, unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Sec: *p.epoch})
}

// child handles the directory name of d, and says whether it is to go: it says nothing by itself and has nothing in it.
func (p *pruner) child(d *upperDir, name string) (drop bool, err error) {
	f, err := rootfs.OpenEntry(d.file, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false, err
	}
	c := &upperDir{file: f, parent: d, name: name, stat: p.owners.In(f)}
	defer c.close()
	marked, err := isOpaque(fdPath(f), p.opaque)
	if err != nil {
		return false, err
	}
	if marked {
		below, err := p.below(c)
		if err != nil {
			return false, err
		}
		if len(below) == 0 {
			if err := rootfs.RemoveXattr(f, ".", p.opaque); err != nil {
				return false, err
			}
		}
		c.hides = true // also if there was nothing: it stays so
	}
	if err := p.dir(c); err != nil || c.kept || c.hides {
		return false, err
	}
	return p.redundant(d, name)
}

// device says whether the entry name of d is a whiteout, and whether it is to go, for it hides nothing.
func (p *pruner) device(d *upperDir, name string) (mark, drop bool, err error) {
	st, err := rootfs.StatEntry(d.file, name)
	if err != nil || !layer.IsWhiteout(&st) {
		return false, false, err
	}
	if d.hides {
		return true, true, nil
	}
	below, err := p.below(d)
	if err != nil {
		return true, false, err
	}
	visible, _, err := p.lookup(below, name, false)
	return true, !visible, err
}

// below returns the lower directories that d is merged with, if it is not opaque, topmost first.
func (p *pruner) below(d *upperDir) (_ []*os.File, err error) {
	if d.known {
		return d.lower, nil
	}
	if d.parent == nil {
		for _, path := range d.lowerRoots {
			f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
			if err != nil {
				return nil, err
			}
			d.lower = append(d.lower, f)
		}
	} else if !d.parent.hides {
		above, err := p.below(d.parent)
		if err != nil {
			return nil, err
		}
		if _, d.lower, err = p.lookup(above, d.name, true); err != nil {
			return nil, err
		}
	}
	d.known = true
	return d.lower, nil
}

// lookup finds name in merged directories, topmost first, as overlayfs does: the first entry counts, a whiteout
// means that there is nothing, directories are merged down to an opaque one, a whiteout or another file.
// visible says whether there is something; with open, dirs are the directories that are merged.
func (p *pruner) lookup(merged []*os.File, name string, open bool) (visible bool, dirs []*os.File, err error) {
	for _, l := range merged {
		st, err := rootfs.StatEntry(l, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return visible || !layer.IsWhiteout(&st), dirs, nil
		}
		visible = true
		if !open {
			return true, nil, nil
		}
		var f *os.File
		if err == nil {
			f, err = rootfs.OpenEntry(l, name, unix.O_PATH|unix.O_DIRECTORY)
		}
		if err == nil {
			dirs = append(dirs, f)
			var last bool
			if last, err = isOpaque(fdPath(f), p.opaque); last {
				return true, dirs, nil
			}
		}
		if err != nil {
			for _, f := range dirs {
				_ = f.Close()
			}
			return false, nil, err
		}
	}
	return visible, dirs, nil
}

// fdPath is a path to an open file for system calls that take no descriptor of O_PATH.
func fdPath(f *os.File) string {
	// The trailing dot: the link itself must not be meant.
	return fdDir + "/" + strconv.Itoa(int(f.Fd())) + "/."
}
