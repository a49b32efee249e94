package copier

import (
	"context"
	"fmt"
	"os"
	"path"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// File is a single file on the host, such as one that was downloaded.
type File struct {
	Path    string // where it is; a link is followed
	Name    string // what it is called in a destination that is a directory, without a slash
	Mode    uint32 // its permission bits, whatever it has on the host
	ModTime time.Time
}

// CopyFile copies f into dst, without extended attributes, owned by opt.Owner or 0:0. If opt.Extract says so and it is an archive, it is
// unpacked instead, and then Mode and ModTime are those of the members.
func CopyFile(ctx context.Context, dst *rootfs.Root, f File, opt Options) error {
	if err := newCopier(dst, nil, opt).copyFile(ctx, f); err != nil {
		return fmt.Errorf("copying %s: %w", f.Name, err)
	}
	return nil
}

func (c *copier) copyFile(ctx context.Context, f File) error {
	src, err := os.Open(f.Path)
	if err != nil {
		return err
	}
	defer src.Close()
	if c.opt.Extract {
		if done, err := c.unpack(ctx, src); done || err != nil {
			return err
		}
	}
	j := &job{copier: c}
	return c.newFile(f.Name, f.Mode, func(dst *os.File) error {
		var st unix.Stat_t
		if err := unix.Fstat(int(src.Fd()), &st); err != nil {
			return err
		}
		err := j.content(ctx, int(dst.Fd()), int(src.Fd()), &st)
		runtime.KeepAlive(src)
		if err != nil {
			return err
		}
		return futimes(int(dst.Fd()), unix.NsecToTimespec(f.ModTime.UnixNano()))
	})
}

// inline writes one file of a heredoc.
func (c *copier) inline(f Inline) error {
	return c.newFile(f.Name, 0o644, func(dst *os.File) error {
		_, err := dst.Write(f.Data)
		return err
	})
}

// newFile makes a file that has no source in a tree. write fills it, and sets its time last.
func (c *copier) newFile(name string, perm uint32, write func(*os.File) error) error {
	target, err := c.target(path.Base(name), false)
	if err != nil {
		return err
	}
	dir, base, err := c.dst.Parent(target)
	if err != nil {
		return err
	}
	defer dir.Close()
	var file *os.File
	err = place(dir, base, target, func() (err error) {
		file, err = rootfs.CreateEntry(dir, base, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	o := c.newOwner()
	err = c.owners.SetFile(int(file.Fd()), o.UID, o.GID, -1)
	if err == nil {
		err = write(file)
	}
	if err == nil { // after writing, which clears the set-id bits
		err = c.owners.SetFile(int(file.Fd()), -1, -1, int(c.perm(perm, false)))
	}
	if err2 := file.Close(); err == nil {
		err = err2
	}
	return err
}
