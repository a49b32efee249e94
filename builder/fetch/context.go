package fetch

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/rootfs"
)

// ContextName is the name of a file that serves as a build context (BuildKit's choice).
const ContextName = "context"

// sniff is how many first bytes decide whether a context is an archive.
const sniff = 1024

// unpack makes a build context of r, in the folder dir, which must exist and be empty. If r is a tar archive, whatever it is
// compressed with, it is unpacked and the answer is true. Else r is one file, the Dockerfile itself, and
// becomes ContextName in dir, with mode 0600. opt says how the owners in the archive are kept or replaced.
// After an error, what is in dir is the caller's to remove.
func unpack(ctx context.Context, r io.Reader, dir string, opt layer.Options) (archive bool, err error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(sniff)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("reading a build context: %w", err)
	}
	if !isArchive(head) {
		return false, writeFile(filepath.Join(dir, ContextName), b)
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		return true, fmt.Errorf("opening the folder for a build context: %w", err)
	}
	defer root.Close()
	plain, _, err := compress.NewReader(b)
	if err != nil {
		return true, fmt.Errorf("unpacking a build context: %w", err)
	}
	defer plain.Close()
	opt.Form = layer.Plain
	if err := layer.Apply(ctx, root, plain, opt); err != nil {
		return true, fmt.Errorf("unpacking a build context: %w", err)
	}
	return true, nil
}

// isArchive says whether a context that begins with head is an archive. Every compressed one counts, as in BuildKit.
func isArchive(head []byte) bool {
	if compress.Detect(head) != compress.None {
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}

func writeFile(name string, r io.Reader) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing a build context: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if _, err := io.Copy(f, r); err != nil {
		return fmt.Errorf("writing a build context: %w", err)
	}
	return nil
}

// Unpack is unpack for the content of f. A file keeps the time that the server says.
func (f *File) Unpack(ctx context.Context, dir string, opt layer.Options) (archive bool, err error) {
	content, err := f.Open(ctx)
	if err != nil {
		return false, err
	}
	defer content.Close()
	archive, err = unpack(ctx, content, dir, opt)
	if err != nil {
		return archive, fmt.Errorf("%s: %w", f.URL, err)
	}
	if !archive {
		at := content.MTime()
		if err := os.Chtimes(filepath.Join(dir, ContextName), at, at); err != nil {
			return false, fmt.Errorf("setting the time of a build context: %w", err)
		}
	}
	return archive, nil
}

// Epoch is what SOURCE_DATE_EPOCH=context means for f: when the server says that it was modified, else the time of the newest regular file
// in the archive that it is, else zero.
func (f *File) Epoch(ctx context.Context) (time.Time, error) {
	content, err := f.Open(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer content.Close()
	if !content.Modified.IsZero() {
		return content.Modified, nil
	}
	b := bufio.NewReaderSize(content, 64<<10)
	if head, _ := b.Peek(sniff); !isArchive(head) {
		return time.Time{}, nil
	}
	at, err := newest(ctx, b)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the archive %s: %w", f.URL, err)
	}
	return at, nil
}

// newest is the time of the newest regular file in an archive.
func newest(ctx context.Context, r io.Reader) (at time.Time, err error) {
	plain, _, err := compress.NewReader(r)
	if err != nil {
		return at, err
	}
	defer plain.Close()
	tr := tar.NewReader(plain)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return at, nil
		}
		if err != nil {
			return at, err
		}
		if ctx.Err() != nil {
			return at, context.Cause(ctx)
		}
		if h.FileInfo().Mode().IsRegular() && h.ModTime.After(at) {
			at = h.ModTime.UTC()
		}
	}
}
