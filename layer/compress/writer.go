package compress

import (
	"errors"
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

// Encoder is a format to write, with how much work goes into making it small.
type Encoder struct {
	Algorithm Algorithm
	Level     *int // 0 to 9 for gzip, 0 to 22 for zstd; nil is strake's own choice
}

// Encoder is that of strake's own level.
func (a Algorithm) Encoder() Encoder { return Encoder{Algorithm: a} }

// Check says whether there are such an encoder and such a level.
func (e Encoder) Check() error {
	most := map[Algorithm]int{Gzip: 9, Zstd: 22}[e.Algorithm]
	switch {
	case e.Algorithm == Bzip2 || e.Algorithm == XZ:
		return fmt.Errorf("%s can only be read", e.Algorithm)
	case e.Algorithm != None && most == 0:
		return fmt.Errorf("unknown compression %q", string(e.Algorithm))
	case e.Level == nil:
		return nil
	case e.Algorithm == None:
		return errors.New("there is no level where nothing is compressed")
	case *e.Level < 0 || *e.Level > most:
		return fmt.Errorf("the level of %s is 0 to %d", e.Algorithm, most)
	}
	return nil
}

func (e Encoder) gzipLevel() int {
	if e.Level == nil {
		return gzipLevel
	}
	return *e.Level
}

// zstdLevel is the encoder's level, which stands for several of the format's.
func (e Encoder) zstdLevel() zstd.EncoderLevel {
	if e.Level == nil {
		return zstd.SpeedDefault
	}
	return zstd.EncoderLevelFromZstd(*e.Level)
}

// Version names the encoder and its parameters: the same Encoder, Version and
// input give the same bytes on every machine. It is part of what strake
// remembers about a compressed layer. It is empty for what can only be read.
func (e Encoder) Version() string {
	switch e.Algorithm {
	case None:
		return "none"
	case Gzip:
		return fmt.Sprintf("pgzip %s, compress %s, level %d, block %d", pgzipVersion, klauspostVersion, e.gzipLevel(), gzipBlockSize)
	case Zstd:
		return fmt.Sprintf("zstd, compress %s, level %s", klauspostVersion, e.zstdLevel())
	case Bzip2, XZ:
	}
	return ""
}

// NewWriter returns a writer that compresses to w on all cores. Close ends the
// stream and does not close w; it must be called, also after an error, to end the goroutines.
// An error of w may show at a later Write, or at Close.
func (e Encoder) NewWriter(w io.Writer) (io.WriteCloser, error) {
	return e.newWriter(w, runtime.GOMAXPROCS(0))
}

func (e Encoder) newWriter(w io.Writer, cores int) (io.WriteCloser, error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	switch e.Algorithm {
	case Gzip:
		s := &sticky{w: w}
		z, err := pgzip.NewWriterLevel(s, e.gzipLevel())
		if err != nil {
			return nil, err
		}
		if err := z.SetConcurrency(gzipBlockSize, cores); err != nil {
			return nil, err
		}
		z.ModTime = time.Unix(0, 0) // "no time" (RFC 1952); the zero Time is none of its values
		return &gzipWriter{Writer: z, out: s}, nil
	case Zstd:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(e.zstdLevel()), zstd.WithEncoderConcurrency(cores))
	default:
		return nopCloser{w}, nil
	}
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
