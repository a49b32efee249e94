package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/compress"
)

// errDamaged is in the error of a source that read the blob store and found other bytes than the digest names.
var errDamaged = errors.New("the copy in the store is damaged")

// source reads bytes that must have a digest, and maybe a size: the Read that gives the last of them, and that
// which gives io.EOF, is an error if they do not.
// Bytes that come from a registry are copied to the blob store on their way.
type source struct {
	r      io.ReadCloser
	want   v1.Descriptor // a size below 0 is not checked
	remote string        // the repository it reads from; empty for the blob store
	hash   hash.Hash
	size   int64
	copy   *blob.Writer // nil if nothing is to be stored
	// autoKeep: the copy is kept when all was read. Otherwise by keep.
	autoKeep bool
	done     func(current, total int64)
	damaged  func() // called when the blob store's bytes are wrong; may be nil
	checked  bool
	err      error // sticky
}

func newSource(r io.ReadCloser, want v1.Descriptor) *source {
	return &source{r: r, want: want, hash: sha256.New()}
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.size += int64(n)
	s.hash.Write(p[:n])
	if s.copy != nil {
		if _, werr := s.copy.Write(p[:n]); werr != nil {
			s.err = werr
			return 0, werr
		}
	}
	if n > 0 && s.done != nil {
		s.done(s.size, s.want.Size)
	}
	switch {
	case s.want.Size >= 0 && s.size > s.want.Size:
		err = s.wrong(fmt.Sprintf("it is longer than its %d bytes", s.want.Size))
	case errors.Is(err, io.EOF):
		if err = s.end(); err == nil {
			err = io.EOF
		}
	case s.want.Size >= 0 && s.size == s.want.Size && err == nil:
		err = s.end() // there are readers who do not read on when they have all
	case err != nil && s.remote != "":
		err = &OriginError{s.want.Digest, fmt.Errorf("fetching blob %s from %s: %w", s.want.Digest, place(s.remote), err)}
	}
	s.err = err
	return n, err
}

// end checks what was read as a whole.
func (s *source) end() error {
	if s.checked {
		return nil
	}
	s.checked = true
	if s.want.Size >= 0 && s.size != s.want.Size {
		return s.wrong(fmt.Sprintf("it has %d of its %d bytes", s.size, s.want.Size))
	}
	got := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(s.hash.Sum(nil))}
	if got != s.want.Digest {
		return s.wrong(fmt.Sprintf("it has the digest %s", got))
	}
	if s.autoKeep {
		return s.keep()
	}
	return nil
}

// wrong is the error of other bytes than wanted.
func (s *source) wrong(how string) error {
	switch {
	case s.remote != "":
		return &OriginError{s.want.Digest, fmt.Errorf("blob %s from %s: %s", s.want.Digest, place(s.remote), how)}
	case s.want.Size < 0:
		return fmt.Errorf("layer %s: its tar is another one: %s", s.want.Digest, how)
	}
	if s.damaged != nil {
		s.damaged()
	}
	return fmt.Errorf("blob %s: %w: %s", s.want.Digest, errDamaged, how)
}

// keep gives the copy its name in the blob store.
func (s *source) keep() error {
	if s.copy == nil {
		return nil
	}
	w := s.copy
	s.copy = nil
	_, _, err := w.Commit(s.want.Digest)
	return err
}

// discard drops the copy unless it was kept.
func (s *source) discard() {
	if s.copy != nil {
		s.copy.Discard()
		s.copy = nil
	}
}

// Close ends the reading. The copy is dropped, unless keep may come.
func (s *source) Close() error {
	if s.autoKeep {
		s.discard()
	}
	return s.r.Close()
}

// unpacker decompresses a source. At the end of the tar it reads what is left of the source,
// so that its digest is known.
type unpacker struct {
	io.ReadCloser
	src *source
}

// newUnpacker owns src: it is closed with the unpacker, or if there is an error.
func newUnpacker(src *source) (*unpacker, error) {
	r, _, err := compress.NewReader(src)
	if err != nil {
		err = src.cause(fmt.Errorf("decompressing blob %s: %w", src.want.Digest, err))
		_ = src.Close()
		return nil, err
	}
	return &unpacker{r, src}, nil
}

func (u *unpacker) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		if _, err := io.Copy(io.Discard, u.src); err != nil {
			return n, err
		}
	case err != nil:
		// Bytes that cannot be decompressed are wrong bytes mostly, which says more.
		err = u.src.cause(fmt.Errorf("decompressing blob %s: %w", u.src.want.Digest, err))
	}
	return n, err
}

func (u *unpacker) Close() error {
	return errors.Join(u.ReadCloser.Close(), u.src.Close())
}

// maxWrong is how many bytes of a registry's blob are read only to tell what is wrong with it.
const maxWrong = 64 << 20

// cause returns the error of the source itself, if it has one when it is read to its end, else err.
func (s *source) cause(err error) error {
	if s.err != nil && !errors.Is(s.err, io.EOF) {
		return s.err
	}
	if s.remote != "" && s.want.Size > maxWrong {
		return err
	}
	if _, serr := io.Copy(io.Discard, s); serr != nil {
		return serr
	}
	return err
}

// stream turns a function that writes into a reader. Close stops the function and waits for it.
func stream(ctx context.Context, write func(ctx context.Context, w io.Writer) error) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(write(ctx, w)) // nil is io.EOF
	}()
	return &streamReader{r, cancel, done}
}

type streamReader struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   <-chan struct{}
}

func (s *streamReader) Close() error {
	s.cancel()
	err := s.PipeReader.Close()
	<-s.done
	return err
}
