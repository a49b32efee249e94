package source

import (
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// inode is a file, whatever it is called.
type inode struct{ dev, ino uint64 }

// links tells which files of a folder are names of one. What is copied of a folder keeps that.
type links struct {
	first map[inode]string // the first names that were seen
	pairs [][2]string      // further names, and the first ones
}

// see takes a name of a stat'ed node, and returns the name that the file has already, if it has one.
func (l *links) see(name string, n *node) (first string, linked bool) {
	if n.st.Mode&unix.S_IFMT != unix.S_IFREG || n.st.Nlink < 2 {
		return "", false
	}
	file := inode{n.st.Dev, n.st.Ino}
	if first, linked = l.first[file]; linked {
		return first, true
	}
	if l.first == nil {
		l.first = map[inode]string{}
	}
	l.first[file] = name
	return "", false
}

// folder sees all that is taken of a folder whose digest is known.
func (l *links) folder(f Folder, name string) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	for i := range f.len() {
		n := f.node(i)
		path := join(name, n.Name)
		if sub, ok := f.sub(i); ok {
			l.folder(sub, path)
		} else if first, linked := l.see(path, n); linked {
			l.pairs = append(l.pairs, [2]string{path, first})
		}
	}
}

// withLinks adds to the digest of a folder which files in it are names of one, if there are any.
func (t *Tree) withLinks(sum Digest, f Folder) Digest {
	if !t.linked.Load() {
		return sum
	}
	var l links
	l.folder(f, ".")
	if len(l.pairs) == 0 {
		return sum
	}
	buf := append([]byte(format+"links\x00"), sum[:]...)
	for _, pair := range l.pairs {
		for _, name := range pair {
			buf = binary.LittleEndian.AppendUint32(buf, uint32(len(name)))
			buf = append(buf, name...)
		}
	}
	return sha256.Sum256(buf)
}
