package layer

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	blockSize = 512
	// maxRecords is what readers take as the size of a PAX header (archive/tar and docker: 1 MiB).
	maxRecords = 1 << 20
	// Limits of the octal fields of ustar (POSIX pax, "ustar Interchange Format").
	maxOctal7  = 1<<21 - 1
	maxOctal11 = 1<<33 - 1
)

// header is an entry of a tar to be written.
type header struct {
	name, link string
	typ        byte
	mode       uint32
	uid, gid   uint32
	size       int64
	mtime      int64 // seconds
	rdev       uint64
	xattrs     []xattr // sorted by name
}

type xattr struct {
	name  string
	value []byte
}

// append writes the header to b: a PAX header where ustar does not suffice, then the ustar header.
func (h *header) append(b []byte) ([]byte, error) {
	prefix, name, fits := splitName(h.name)
	records, err := h.records(fits)
	if err != nil {
		return b, err
	}
	if len(records) > 0 {
		if len(records) > maxRecords {
			return b, errors.New("the extended attributes are too large for a layer")
		}
		pax := header{typ: 'x', mode: 0o644, size: int64(len(records))}
		b = pax.block(b, "", "PaxHeaders.0")
		b = append(b, records...)
		b = append(b, zeroes[:padding(int64(len(records)))]...)
	}
	return h.block(b, prefix, name), nil
}

// block appends the ustar header. What does not fit is 0 or cut; the PAX records say it then.
func (h *header) block(b []byte, prefix, name string) []byte {
	b = append(b, zeroes[:blockSize]...)
	f := b[len(b)-blockSize:]
	copy(f[0:100], name)
	octal(f[100:108], int64(h.mode), maxOctal7)
	octal(f[108:116], int64(h.uid), maxOctal7)
	octal(f[116:124], int64(h.gid), maxOctal7)
	octal(f[124:136], h.size, maxOctal11)
	octal(f[136:148], h.mtime, maxOctal11)
	f[156] = h.typ
	copy(f[157:257], h.link)
	copy(f[257:265], "ustar\x0000")
	octal(f[329:337], int64(unix.Major(h.rdev)), maxOctal7)
	octal(f[337:345], int64(unix.Minor(h.rdev)), maxOctal7)
	copy(f[345:500], prefix)
	sum := int64(8 * ' ') // the checksum's own field counts as spaces
	for _, c := range f {
		sum += int64(c)
	}
	octal(f[148:155], sum, maxOctal7)
	f[155] = ' '
	return b
}

// octal writes n in octal and a final 0, or zero if it does not fit.
func octal(field []byte, n, limit int64) {
	if n < 0 || n > limit {
		n = 0
	}
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = byte('0' + n&7)
		n >>= 3
	}
}

// splitName cuts a name for the fields prefix and name of ustar; false if it does not fit.
func splitName(s string) (prefix, name string, ok bool) {
	if !isASCII(s) {
		return "", cut(s), false
	}
	if len(s) <= 100 {
		return "", s, true
	}
	// The name must not be empty, so the slash at a directory's end is none to cut at.
	i := strings.LastIndexByte(s[:min(len(s)-1, 156)], '/')
	if i <= 0 || len(s)-i-1 > 100 {
		return "", cut(s), false
	}
	return s[:i], s[i+1:], true
}

// cut is what old readers see of a name that ustar cannot hold.
func cut(s string) string {
	return strings.TrimRight(strings.Map(func(r rune) rune {
		if r >= 0x80 {
			return '_'
		}
		return r
	}, s[:min(len(s), 100)]), "/")
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// records are the PAX records of the header, sorted by their keys.
func (h *header) records(nameFits bool) ([]byte, error) {
	type record struct{ key, value string }
	var list []record
	add := func(key, value string) { list = append(list, record{key, value}) }
	for _, x := range h.xattrs {
		if strings.ContainsRune(x.name, '=') {
			return nil, fmt.Errorf("a tar cannot hold the extended attribute %q", x.name)
		}
		add(xattrPrefix+x.name, string(x.value))
	}
	if !nameFits {
		add("path", h.name)
	}
	if len(h.link) > 100 || !isASCII(h.link) {
		add("linkpath", h.link)
	}
	if h.size > maxOctal11 {
		add("size", strconv.FormatInt(h.size, 10))
	}
	if h.mtime < 0 || h.mtime > maxOctal11 {
		add("mtime", strconv.FormatInt(h.mtime, 10))
	}
	if h.uid > maxOctal7 {
		add("uid", strconv.FormatUint(uint64(h.uid), 10))
	}
	if h.gid > maxOctal7 {
		add("gid", strconv.FormatUint(uint64(h.gid), 10))
	}
	if len(list) == 0 {
		return nil, nil
	}
	slices.SortFunc(list, func(a, b record) int { return strings.Compare(a.key, b.key) })
	var b bytes.Buffer
	for _, r := range list {
		// "LENGTH KEY=VALUE\n", where LENGTH counts its own digits too.
		rest := len(r.key) + len(r.value) + 3
		size := rest + len(strconv.Itoa(rest))
		size = rest + len(strconv.Itoa(size))
		fmt.Fprintf(&b, "%d %s=%s\n", size, r.key, r.value)
	}
	return b.Bytes(), nil
}

// padding is the number of zeros after size bytes of content.
func padding(size int64) int64 { return -size & (blockSize - 1) }
