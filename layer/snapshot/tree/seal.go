package tree

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"maps"
	"slices"

	"github.com/strake-build/strake/layer/rootfs"
)

// ErrChanged is returned for a tree that is not any more what it was.
var ErrChanged = errors.New("the files are not those that were left")

// Reopen is New for a directory that a Tree was in, whose Seal is given. It looks at every file, and returns ErrChanged if one was
// changed since.
func Reopen(ctx context.Context, dir string, layers []string, owners *rootfs.Owners, seal string) (*Tree, error) {
	t, err := newTree(dir, layers, owners)
	if err != nil {
		return nil, err
	}
	err = t.start(ctx)
	if err == nil && t.Seal() != seal {
		err = ErrChanged
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Seal sums up what is known of all files: when the tree was made, or committed last. Whoever changes a file of the tree later changes what Reopen
// sees, for nobody can set a ctime.
func (t *Tree) Seal() string {
	h := sha256.New()
	t.top.seal(h)
	return hex.EncodeToString(h.Sum(nil))
}

// seal adds n and what is below it.
func (n *node) seal(h hash.Hash) {
	b := binary.LittleEndian
	a := &n.attrs
	var buf []byte
	for _, v := range []uint64{
		a.ino, a.rdev, a.nlink, uint64(a.size), uint64(a.ctime.Sec), uint64(a.ctime.Nsec), uint64(a.mtime.Sec), uint64(a.mtime.Nsec), uint64(a.mode), uint64(a.uid), uint64(a.gid),
		uint64(n.birth.Sec), uint64(n.birth.Nsec), uint64(len(n.kids)), uint64(len(n.name)),
	} {
		buf = b.AppendUint64(buf, v)
	}
	h.Write(append(buf, n.name...))
	for _, name := range slices.Sorted(maps.Keys(n.kids)) {
		n.kids[name].seal(h)
	}
}

// Disk is how many bytes the files of the tree take of the disk.
func (t *Tree) Disk() (size int64) {
	seen := map[uint64]bool{}
	t.top.each(func(n *node) {
		if n.nlink > 1 && !n.isDir() {
			if seen[n.ino] {
				return
			}
			seen[n.ino] = true
		}
		size += n.blocks * 512
	})
	return size
}
