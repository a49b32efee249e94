package compress

import (
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

const (
	gzipLevel     = 5
	gzipBlockSize = 1 << 20

	// The versions of the encoders, which another release may change in its
	// bytes. A test compares them with the ones that are linked.
	klauspostVersion = "v1.20.3"
	pgzipVersion     = "v1.3.0"
)

// Version names the encoder and its parameters: the same Algorithm, Version and
// input give the same bytes on every machine. It is part of what strake
// remembers about a compressed layer. It is empty for what can only be read.
func (a Algorithm) Version() string {
	switch a {
	case None:
		return "none"
	case Gzip:
		return fmt.Sprintf("pgzip %s, compress %s, level %d, block %d", pgzipVersion, klauspostVersion, gzipLevel, gzipBlockSize)
	case Zstd:
		return fmt.Sprintf("zstd, compress %s, level default", klauspostVersion)
	case Bzip2, XZ:
	}
	return ""
}

// NewWriter returns a writer that compresses to w on all cores. Close ends the
// stream and does not close w; it must be called, also after an error, to end the goroutines.
// An error of w may show at a later Write, or at Close.
func (a Algorithm) NewWriter(w io.Writer) (io.WriteCloser, error) {
	return a.newWriter(w, runtime.GOMAXPROCS(0))
}

func (a Algorithm) newWriter(w io.Writer, cores int) (io.WriteCloser, error) {
	switch a {
	case None:
		return nopCloser{w}, nil
	case Gzip:
		s := &sticky{w: w}
		z, err := pgzip.NewWriterLevel(s, gzipLevel)
		if err != nil {
			return nil, err
		}
		if err := z.SetConcurrency(gzipBlockSize, cores); err != nil {
			return nil, err
		}
		z.ModTime = time.Unix(0, 0) // "no time" (RFC 1952); the zero Time is none of its values
		return &gzipWriter{Writer: z, out: s}, nil
	case Zstd:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(cores))
	case Bzip2, XZ:
		return nil, fmt.Errorf("%s can only be read", a)
	}
	return nil, fmt.Errorf("unknown compression %q", string(a))
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// gzipWriter is a pgzip.Writer that can be closed after an error of w: pgzip's
// own Close gives up then, and leaves a goroutine waiting for ever.
type gzipWriter struct {
	*pgzip.Writer
	out *sticky
}

func (g *gzipWriter) Write(p []byte) (int, error) {
	if err := g.out.failed(); err != nil {
		return 0, err
	}
	return g.Writer.Write(p)
}

func (g *gzipWriter) Close() error {
	err := g.Writer.Close()
	if out := g.out.failed(); out != nil {
		return out
	}
	return err
}
