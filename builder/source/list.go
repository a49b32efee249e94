package source

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"path"
)

// Listed is one of the files that items select.
type Listed struct {
	Path string // relative to the tree's root
	// Sum covers what a digest of the file does but for its name, and the name that it has before this one in the item.
	Sum Digest
}

// List returns the files that items select, and the folders below an item, whose paths end in "/"; at most limit and one. It is
// cheap after Digest of the same items, which has read them.
func (t *Tree) List(ctx context.Context, items []Item, limit int) ([]Listed, error) {
	if err := t.knowFiles(ctx, items); err != nil {
		return nil, err
	}
	l := lister{tree: t, limit: limit}
	for _, item := range items {
		l.links = links{}
		d, n, err := t.find(item.Path)
		switch {
		case err != nil:
			return nil, &fs.PathError{Op: "digest", Path: item.Path, Err: err}
		case n == nil:
			err = l.folder(ctx, Folder{d, item.view}, ".")
		case n.dir != nil:
			err = l.folder(ctx, Folder{n.dir, item.view}, path.Clean(item.Path))
		default:
			d.mu.Lock()
			if !n.known {
				err = fmt.Errorf("listing %s: the item says that it is a directory", item.Path)
			} else {
				l.add(path.Clean(item.Path), n)
			}
			d.mu.Unlock()
		}
		if err != nil {
			return nil, err
		}
	}
	return l.found, nil
}

type lister struct {
	tree  *Tree
	limit int
	found []Listed
	links links // of the item
}

func (l *lister) add(name string, n *node) {
	if len(l.found) > l.limit {
		return
	}
	about := n.append(nil, "")
	if first, linked := l.links.see(name, n); linked {
		about = append(about, first...)
	}
	l.found = append(l.found, Listed{name, sha256.Sum256(about)})
}

// folder lists what is selected of a folder, after it was read and its files were hashed.
func (l *lister) folder(ctx context.Context, f Folder, name string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := l.tree.load(ctx, f, l.tree.opt.Index == ""); err != nil {
		return err
	}
	if err := l.tree.hashNodes(ctx, f); err != nil {
		return err
	}
	for i := range f.len() {
		n := f.node(i)
		if len(l.found) > l.limit {
			return nil
		}
		sub, ok := f.sub(i)
		if !ok {
			l.add(join(name, n.Name), n)
			continue
		}
		if !f.way(i) {
			l.add(join(name, n.Name)+"/", n)
		}
		if err := l.folder(ctx, sub, join(name, n.Name)); err != nil {
			return err
		}
	}
	return nil
}
