package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// forms are the compressed layers that uploads have in hand, each compressed once for all targets.
type forms struct {
	mu   sync.Mutex
	made map[string]*form
}

// form is a layer compressed into a file without a name.
type form struct {
	once  sync.Once
	users int
	desc  v1.Descriptor
	file  *os.File
	err   error
}

// of returns the blob of a layer for a target, and how to read it until done is called.
func (f *forms) of(ctx context.Context, u *Uploads, l image.Layer, t Target) (d v1.Descriptor, open opener, done func(), err error) {
	mediaType, err := image.MediaType(t.Encoder.Algorithm)
	if err != nil {
		return d, nil, nil, err
	}
	if l.Blob != nil && t.Force && image.OCIMediaType(l.Blob.MediaType) != mediaType {
		tar := l
		return f.compressed(ctx, u, l, t.Encoder, func(ctx context.Context) (io.ReadCloser, error) { return u.Layers.Uncompressed(ctx, tar) })
	}
	if d, ok := u.Layers.Descriptor(l, t.Encoder); ok {
		d.MediaType = image.OCIMediaType(d.MediaType)
		return d, func(ctx context.Context) (io.ReadCloser, error) { return u.Layers.Compressed(ctx, l, t.Encoder) }, func() {}, nil
	}
	return f.compressed(ctx, u, l, t.Encoder, nil)
}

// compressed compresses a layer, once for all who ask meanwhile. tar is nil for the layer's own compressed form.
func (f *forms) compressed(ctx context.Context, u *Uploads, l image.Layer, e compress.Encoder, tar opener) (v1.Descriptor, opener, func(), error) {
	name := l.DiffID.String() + string(e.Algorithm) + e.Version()
	f.mu.Lock()
	if f.made == nil {
		f.made = map[string]*form{}
	}
	m := f.made[name]
	if m == nil {
		m = &form{}
		f.made[name] = m
	}
	m.users++
	f.mu.Unlock()
	done := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if m.users--; m.users == 0 {
			delete(f.made, name)
			if m.file != nil {
				_ = m.file.Close()
			}
		}
	}
	m.once.Do(func() { m.err = m.make(ctx, u, l, e, tar) })
	if m.err != nil {
		done()
		return v1.Descriptor{}, nil, nil, m.err
	}
	open := func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(m.file, 0, m.desc.Size)), nil
	}
	return m.desc, open, done, nil
}

// make compresses the layer.
func (m *form) make(ctx context.Context, u *Uploads, l image.Layer, e compress.Encoder, tar opener) error {
	fd, err := unix.Open(u.Temp, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("making a temporary file in %s: %w", u.Temp, err)
	}
	m.file = os.NewFile(uintptr(fd), "compressed layer")
	h := sha256.New()
	out := io.MultiWriter(m.file, h)
	if tar == nil {
		err = drain(ctx, out, func(ctx context.Context) (io.ReadCloser, error) { return u.Layers.Compressed(ctx, l, e) })
	} else {
		err = recompress(ctx, out, e, tar)
	}
	if err != nil {
		return fmt.Errorf("compressing layer %s: %w", l.DiffID, err)
	}
	size, err := m.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if m.desc.MediaType, err = image.MediaType(e.Algorithm); err != nil {
		return err
	}
	m.desc.Size, m.desc.Digest = size, v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
	if l.Blob != nil {
		return nil
	}
	return u.Layers.Remember(l, e, m.desc)
}

func drain(ctx context.Context, w io.Writer, open opener) error {
	r, err := open(ctx)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, r.Close())
}

func recompress(ctx context.Context, w io.Writer, e compress.Encoder, tar opener) error {
	if e.Algorithm == compress.None {
		return drain(ctx, w, tar)
	}
	c, err := e.NewWriter(w)
	if err != nil {
		return err
	}
	return errors.Join(drain(ctx, c, tar), c.Close())
}
