package source

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// walk calls f for an item and, if it is a directory, for everything below it that is taken, as a copy reads it: parents first, sorted by name.
// rel is relative to the item, "." for itself.
func walk(ctx context.Context, tr *Tree, item Item, f func(rel string, e rootfs.Entry)) error {
	info, err := tr.Lstat(item.Path)
	if err != nil {
		return err
	}
	f(".", info.Entry)
	if info.Type != unix.DT_DIR {
		return nil
	}
	top, err := tr.Folder(item)
	if err != nil {
		return err
	}
	return walkBelow(ctx, tr, top, ".", f)
}

func walkBelow(ctx context.Context, tr *Tree, dir Folder, rel string, f func(rel string, e rootfs.Entry)) error {
	infos, err := tr.Read(ctx, dir)
	if err != nil {
		return err
	}
	for _, i := range infos {
		name := join(rel, i.Name)
		f(name, i.Entry)
		if i.Type != unix.DT_DIR {
			continue
		}
		if err := walkBelow(ctx, tr, i.Folder, name, f); err != nil {
			return err
		}
	}
	return nil
}
