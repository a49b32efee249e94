package source

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// Walk calls f for item.Path and, if it is a directory, for everything below it that is taken, parents
// first, sorted by name. rel is relative to item.Path, "." for itself. Nothing is stat'ed, and no link is followed.
// An error of f ends the walk and is returned; fs.SkipDir skips what is below a directory.
func (t *Tree) Walk(ctx context.Context, item Item, f func(rel string, e rootfs.Entry) error) error {
	d, n, err := t.find(item.Path)
	if err != nil {
		return &fs.PathError{Op: "walk", Path: item.Path, Err: err}
	}
	e := rootfs.Entry{Name: ".", Type: unix.DT_DIR}
	if n != nil {
		e, d = n.Entry, n.dir
	}
	err = f(".", e)
	if err == nil && d != nil {
		err = t.walk(ctx, Folder{d, item.view}, ".", f)
	}
	if errors.Is(err, fs.SkipDir) {
		return nil
	}
	return err
}

func (t *Tree) walk(ctx context.Context, dir Folder, rel string, f func(rel string, e rootfs.Entry) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.list(dir.d); err != nil {
		return err
	}
	for i := range dir.len() {
		n := dir.node(i)
		name := join(rel, n.Name)
		err := f(name, n.Entry)
		sub, isDir := dir.sub(i)
		if err == nil && isDir {
			err = t.walk(ctx, sub, name, f)
		}
		if err != nil && (!errors.Is(err, fs.SkipDir) || !isDir) {
			return err
		}
	}
	return nil
}
