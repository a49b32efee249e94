// Package compress wraps the formats that layers and archives are compressed with.
package compress

import (
	"errors"
	"io"
)

var errTodo = errors.New("not written yet")

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

// Version names the encoder and its parameters: the same Algorithm, Version and
// input give the same bytes on every machine. It is part of what strake
// remembers about a compressed layer.
func (a Algorithm) Version() string { return "" }

// NewWriter returns a writer that compresses to w on all cores. Close ends the
// stream and does not close w.
func (a Algorithm) NewWriter(w io.Writer) (io.WriteCloser, error) { return nil, errTodo }

// NewReader returns a reader that detects the format of r by its first bytes and
// decompresses it; bytes in no known format are passed through as None.
func NewReader(r io.Reader) (io.ReadCloser, Algorithm, error) { return nil, "", errTodo }

// Detect says which format b, the beginning of a file, is in.
func Detect(b []byte) Algorithm { return None }
