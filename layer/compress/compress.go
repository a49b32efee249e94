// Package compress wraps the formats that layers and archives are compressed with.
package compress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Algorithm is a compression format.
type Algorithm string

// The formats. Bzip2 and XZ can only be read.
const (
	None  Algorithm = "none"
	Gzip  Algorithm = "gzip"
	Zstd  Algorithm = "zstd"
	Bzip2 Algorithm = "bzip2"
	XZ    Algorithm = "xz"
)

// maxWindow is how far back compressed data may refer, in bytes: it is what a reader must
// remember. zstd and xz have the same limit or more by themselves, up to 4 GiB.
const maxWindow = 128 << 20

// magic is how the formats begin. A zstd stream may also begin with a skippable frame (RFC 8878, 3.1.2).
var magic = []struct {
	algorithm Algorithm
	begin     string
}{
	{Gzip, "\x1f\x8b\x08"},
	{Zstd, "\x28\xb5\x2f\xfd"},
	{XZ, "\xfd7zXZ\x00"},
	{Bzip2, "BZh"},
}

// detectSize is how many bytes Detect needs to be sure.
const detectSize = 10

// Detect says which format b, the beginning of a file, is in. Ten bytes are enough.
func Detect(b []byte) Algorithm {
	for _, m := range magic {
		if bytes.HasPrefix(b, []byte(m.begin)) {
			if m.algorithm == Bzip2 && !isBzip2(b) {
				continue
			}
			return m.algorithm
		}
	}
	if len(b) >= 4 && b[0]&0xf0 == 0x50 && bytes.Equal(b[1:4], []byte("\x2a\x4d\x18")) {
		return Zstd
	}
	return None
}

// isBzip2 looks beyond "BZh", with which a text can begin: the block size and the
// number that begins a block or ends the stream.
func isBzip2(b []byte) bool {
	if len(b) < detectSize || b[3] < '1' || b[3] > '9' {
		return false
	}
	number := string(b[4:10])
	return number == "\x31\x41\x59\x26\x53\x59" || number == "\x17\x72\x45\x38\x50\x90"
}

// NewReader returns a reader that detects the format of r by its first bytes and
// decompresses it; bytes in no known format are passed through as None.
//
// Close releases what the reader holds, goroutines included, and does not close r. Reading may take more of r
// than the compressed stream. A stream that needs more than 128 MiB of history is an error.
func NewReader(r io.Reader) (io.ReadCloser, Algorithm, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	begin, err := b.Peek(detectSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	a := Detect(begin)
	d, err := a.decoder(b)
	if err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", a, err)
	}
	return d, a, nil
}

func (a Algorithm) decoder(b *bufio.Reader) (io.ReadCloser, error) {
	switch a {
	case None:
		return io.NopCloser(b), nil
	case Gzip:
		return gzip.NewReader(b)
	case Zstd:
		d, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(b)), nil
	case XZ:
		return newXZReader(b)
	}
	return nil, errors.New("unknown format")
}
