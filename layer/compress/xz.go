package compress

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ulikunitz/xz"
)

// newXZReader reads an .xz file (one or more streams). The library allocates the
// dictionary that a block asks for, up to 4 GiB; xzGuard sees the request first.
func newXZReader(b *bufio.Reader) (io.ReadCloser, error) {
	r, err := xz.ReaderConfig{DictCap: 1 << 16}.NewReader(bufio.NewReaderSize(newXZGuard(b), 64<<10))
	if err != nil {
		return nil, err
	}
	return io.NopCloser(r), nil
}

var (
	errXZ     = errors.New("malformed xz")
	errXZDict = fmt.Errorf("xz: the dictionary is larger than %d MiB", maxWindow>>20)
)

// xzGuard passes an .xz file through and follows its structure (The .xz File
// Format 1.2, tukaani.org) as far as it must to see every block header before
// the library does. What it does not understand is an error.
type xzGuard struct {
	r    io.Reader
	next func() error // called with field complete
	// field is the part of the file that is being collected; want is its size.
	field []byte
	want  int
	skip  int64 // bytes that do not matter, before field
	check int64 // size of the check after each block
	data  int64 // bytes of the LZMA2 data or the index so far
	left  uint64
	vli   int // bytes of the current multibyte integer
}

func newXZGuard(r io.Reader) *xzGuard {
	g := &xzGuard{r: r}
	g.expect(4, g.streamStart)
	return g
}

// Read passes bytes on after looking at them.
func (g *xzGuard) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	for b := p[:n]; len(b) > 0; {
		if g.skip > 0 {
			k := min(g.skip, int64(len(b)))
			g.skip -= k
			b = b[k:]
			continue
		}
		k := min(g.want-len(g.field), len(b))
		g.field = append(g.field, b[:k]...)
		b = b[k:]
		if len(g.field) == g.want {
			if err := g.next(); err != nil {
				return 0, err
			}
		}
	}
	return n, err
}

// expect collects the next size bytes and then calls next.
func (g *xzGuard) expect(size int, next func() error) {
	g.field, g.want, g.next = g.field[:0], size, next
}

// streamStart has four bytes: stream padding, or the beginning of a stream header.
func (g *xzGuard) streamStart() error {
	if binary.LittleEndian.Uint32(g.field) == 0 {
		g.expect(4, g.streamStart)
		return nil
	}
	g.expect(8, func() error {
		flags := g.field[3] & 0xf
		g.check = [16]int64{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}[flags]
		g.expect(1, g.blockStart)
		return nil
	})
	return nil
}

// blockStart has the size of a block header, or the 0 that begins the index.
func (g *xzGuard) blockStart() error {
	if g.field[0] == 0 {
		g.data, g.left, g.vli = 1, 0, 0
		g.expect(1, g.indexCount)
		return nil
	}
	g.expect((int(g.field[0])+1)*4-1, g.blockHeader)
	return nil
}

// blockHeader has a block header without its size.
func (g *xzGuard) blockHeader() error {
	const lzma2 = 0x21
	flags, b := g.field[0], g.field[1:len(g.field)-4]
	filters := int(flags&3) + 1
	for _, has := range []byte{0x40, 0x80} { // sizes of the block, of no interest
		if flags&has != 0 {
			_, n := binary.Uvarint(b)
			if n <= 0 {
				return errXZ
			}
			b = b[n:]
		}
	}
	for range filters {
		id, n := binary.Uvarint(b)
		if n <= 0 {
			return errXZ
		}
		size, m := binary.Uvarint(b[n:])
		if m <= 0 || size > uint64(len(b)-n-m) {
			return errXZ
		}
		props := b[n+m : n+m+int(size)]
		b = b[n+m+int(size):]
		if id != lzma2 {
			return errors.New("xz: only the filter LZMA2 is supported")
		}
		if len(props) != 1 || props[0] > 40 {
			return errXZ
		}
		if dict := uint64(2|props[0]&1) << (props[0]/2 + 11); props[0] == 40 || dict > maxWindow {
			return errXZDict
		}
	}
	g.data = 0
	g.expect(1, g.chunk)
	return nil
}

// chunk has the control byte of an LZMA2 chunk.
func (g *xzGuard) chunk() error {
	switch control := g.field[0]; {
	case control == 0:
		g.data++
		g.skip = -g.data&3 + g.check
		g.expect(1, g.blockStart)
	case control < 3: // stored
		g.expect(2, func() error { return g.chunkData(3, g.field) })
	case control < 0x80:
		return errXZ
	case control < 0xc0:
		g.expect(4, func() error { return g.chunkData(5, g.field[2:]) })
	default: // new properties follow
		g.expect(5, func() error { return g.chunkData(6, g.field[2:4]) })
	}
	return nil
}

// chunkData skips the data of a chunk with a header of the given size.
func (g *xzGuard) chunkData(header int64, size []byte) error {
	g.skip = int64(binary.BigEndian.Uint16(size)) + 1
	g.data += header + g.skip
	g.expect(1, g.chunk)
	return nil
}

// indexCount has a byte of the number of records, in groups of 7 bits.
func (g *xzGuard) indexCount() error {
	c := g.field[0]
	if g.vli > 8 {
		return errXZ
	}
	g.left |= uint64(c&0x7f) << (7 * g.vli)
	g.data++
	g.vli++
	if c >= 0x80 {
		g.expect(1, g.indexCount)
		return nil
	}
	if g.left > 1<<40 {
		return errXZ
	}
	g.left *= 2 // two integers for each record
	return g.indexNext()
}

// indexByte has a byte of an integer of the index.
func (g *xzGuard) indexByte() error {
	g.data++
	if g.field[0] < 0x80 {
		g.left--
	}
	return g.indexNext()
}

func (g *xzGuard) indexNext() error {
	if g.left > 0 {
		g.expect(1, g.indexByte)
		return nil
	}
	const crc, footer = 4, 12
	g.skip = -g.data&3 + crc + footer
	g.expect(4, g.streamStart)
	return nil
}
