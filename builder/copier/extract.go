package copier

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/compress"
)

// extract unpacks a source that is an archive into the destination, which is a folder whether it ends in a slash or
// not. done is false for a source that is none.
func (c *copier) extract(ctx context.Context, item source.Item, info *source.Info) (done bool, err error) {
	f, err := c.tree.Root().OpenFile(item.Path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return false, changed(item.Path, err)
	}
	defer f.Close()
	if err := c.unchangedFile(f, item, info); err != nil {
		return false, err
	}
	if done, err := c.unpack(ctx, f); err != nil || !done {
		return done, err
	}
	return true, c.unchangedFile(f, item, info)
}

// unpack unpacks an open file into the destination if it is an archive.
func (c *copier) unpack(ctx context.Context, f *os.File) (done bool, err error) {
	ok, err := isArchive(f)
	if err != nil || !ok {
		return false, err
	}
	dest := path.Clean("/" + c.opt.Dest)
	if err := c.makeDirPerm(dest, parentPerm); err != nil {
		return true, err
	}
	target, err := c.dst.Resolve(dest)
	if err != nil {
		return true, err
	}
	if target == "." {
		target = ""
	}
	plain, _, err := compress.NewReader(f)
	if err != nil {
		return true, err
	}
	defer plain.Close()
	err = layer.Apply(ctx, c.dst, plain, layer.Options{
		Form: layer.Plain, UserXattr: c.opt.UserXattr, Dir: target, Owner: c.opt.Owner,
	})
	if err != nil {
		return true, fmt.Errorf("unpacking: %w", err)
	}
	return true, nil
}

func (c *copier) unchangedFile(f *os.File, item source.Item, info *source.Info) error {
	var st unix.Stat_t
	if err := c.from.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if !source.Same(&info.Stat, &st) {
		return &source.ChangedError{Path: item.Path}
	}
	return nil
}

// isArchive says whether a file begins like a tar archive with at least one member, plain or compressed in a
// known format; its name says nothing. The file is left at its beginning.
func isArchive(f *os.File) (bool, error) {
	head := make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	var r io.Reader = f
	if compress.Detect(head[:n]) != compress.None {
		plain, _, err := compress.NewReader(f)
		if err != nil {
			_, err = f.Seek(0, io.SeekStart)
			return false, err
		}
		defer plain.Close()
		r = plain
	}
	_, tarErr := tar.NewReader(r).Next()
	_, err = f.Seek(0, io.SeekStart)
	return tarErr == nil, err
}
