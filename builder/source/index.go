package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// The stat index is one file:
//
//	magic, inode of the context's root (8 bytes), number of folders (4)
//	per folder, in the order of a walk: length of its path (4), number of records (4), length of the records (4), path, records
//	sha256 of all of it
//
// and a record, sorted by name in its folder:
//
//	length of name (2), flags (1), size (8), mtime (8+4), ctime (8+4), inode (8), mode (4), sum (32), attrs (32, if flagHasAttrs), name
//
// Numbers are little-endian. The records of a folder are read when the folder is.
const (
	indexMagic   = "strake stat index 1\n"
	recordFixed  = 2 + 1 + 8 + 12 + 12 + 8 + 4 + 32
	flagHasAttrs = 1
)

// index is an index as it was read.
type index struct {
	dirs map[string][]byte // the records of a folder, by path
}

// record is one file's.
type record struct {
	size, mtime, ctime int64
	mtimeNs, ctimeNs   uint32
	ino                uint64
	mode               uint32
	sum, attrs         Digest
	name               []byte
}

// parseIndex reads an index for the context whose root has the inode ino.
func parseIndex(b []byte, ino uint64) (*index, error) {
	if len(b) < len(indexMagic)+12+sha256.Size || string(b[:len(indexMagic)]) != indexMagic {
		return nil, errors.New("not an index of this version")
	}
	end := len(b) - sha256.Size
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return nil, errors.New("the index is damaged")
	}
	b = b[len(indexMagic):end]
	le := binary.LittleEndian
	if le.Uint64(b) != ino {
		return nil, errors.New("the index is another folder's")
	}
	count := int(le.Uint32(b[8:]))
	b = b[12:]
	x := &index{dirs: make(map[string][]byte, min(count, len(b)/12))}
	for range count {
		if len(b) < 12 {
			return nil, errors.New("the index ends early")
		}
		pathLen, size := uint64(le.Uint32(b)), uint64(le.Uint32(b[8:]))
		b = b[12:]
		if pathLen+size > uint64(len(b)) {
			return nil, errors.New("the index ends early")
		}
		x.dirs[string(b[:pathLen])] = b[pathLen : pathLen+size]
		b = b[pathLen+size:]
	}
	return x, nil
}

// next takes the first record off b. A malformed one ends the list.
func (r *record) next(b []byte) (rest []byte, ok bool) {
	if len(b) < recordFixed {
		return nil, false
	}
	le := binary.LittleEndian
	nameLen, flags := int(le.Uint16(b)), b[2]
	r.size = int64(le.Uint64(b[3:]))
	r.mtime, r.mtimeNs = int64(le.Uint64(b[11:])), le.Uint32(b[19:])
	r.ctime, r.ctimeNs = int64(le.Uint64(b[23:])), le.Uint32(b[31:])
	r.ino, r.mode = le.Uint64(b[35:]), le.Uint32(b[43:])
	copy(r.sum[:], b[47:])
	b = b[recordFixed:]
	r.attrs = Digest{}
	if flags&flagHasAttrs != 0 {
		if len(b) < sha256.Size {
			return nil, false
		}
		copy(r.attrs[:], b)
		b = b[sha256.Size:]
	}
	if len(b) < nameLen {
		return nil, false
	}
	r.name = b[:nameLen]
	return b[nameLen:], true
}

// append appends the record to an index.
func (r *record) append(b []byte) []byte {
	le := binary.LittleEndian
	flags := byte(0)
	if r.attrs != (Digest{}) {
		flags = flagHasAttrs
	}
	b = le.AppendUint16(b, uint16(len(r.name)))
	b = append(b, flags)
	b = le.AppendUint64(b, uint64(r.size))
	b = le.AppendUint32(le.AppendUint64(b, uint64(r.mtime)), r.mtimeNs)
	b = le.AppendUint32(le.AppendUint64(b, uint64(r.ctime)), r.ctimeNs)
	b = le.AppendUint64(b, r.ino)
	b = le.AppendUint32(b, r.mode)
	b = append(b, r.sum[:]...)
	if flags != 0 {
		b = append(b, r.attrs[:]...)
	}
	return append(b, r.name...)
}

// record makes the record of a known node.
func (n *node) record() record {
	st := &n.st
	return record{
		size:  st.Size,
		mtime: st.Mtim.Sec, mtimeNs: uint32(st.Mtim.Nsec),
		ctime: st.Ctim.Sec, ctimeNs: uint32(st.Ctim.Nsec),
		ino: st.Ino, mode: st.Mode,
		sum: n.sum, attrs: n.attrs,
		name: []byte(n.Name),
	}
}

// matches says whether the record is of the file in the state that n was seen in.
func (r *record) matches(n *node) bool {
	st := &n.st
	return r.size == st.Size && r.ino == st.Ino && r.mode == st.Mode &&
		r.mtime == st.Mtim.Sec && int64(r.mtimeNs) == st.Mtim.Nsec &&
		r.ctime == st.Ctim.Sec && int64(r.ctimeNs) == st.Ctim.Nsec
}

// CheckIndex says whether the content of an Options.Index is whole.
func CheckIndex(b []byte) error {
	end := len(b) - sha256.Size
	if end < len(indexMagic) || string(b[:len(indexMagic)]) != indexMagic {
		return errors.New("not an index of this version")
	}
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return errors.New("the index is damaged")
	}
	return nil
}
