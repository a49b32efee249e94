package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/rootfs"
)

const (
	// maxDockerfile bounds a Dockerfile on standard input.
	maxDockerfile = 16 << 20
	// tarBlock is the size of a tar header.
	tarBlock = 512
)

// Stdin reads a context from r: a tar (plain, or compressed in a known format), unpacked into the existing folder dir with its own
// times, modes and owners (opt says how they are kept or replaced), or else a Dockerfile of at most 16 MiB, which is
// returned (then there is no context). Nothing at all is an error. After an error dir may hold a part of the context.
func Stdin(ctx context.Context, r io.Reader, dir string, opt layer.Options) (dockerfile []byte, err error) {
	in := bufio.NewReader(readerFunc(func(p []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		return r.Read(p)
	}))
	if _, err := in.Peek(1); errors.Is(err, io.EOF) {
		return nil, errors.New("standard input is empty: it must be a tar archive or a Dockerfile")
	} else if err != nil {
		return nil, fmt.Errorf("reading standard input: %w", err)
	}
	plain, format, err := compress.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("decompressing standard input: %w", err)
	}
	defer plain.Close()
	content := bufio.NewReaderSize(plain, 64<<10)
	head, err := content.Peek(tarBlock)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading standard input: %w", err)
	}
	if !isTarHeader(head) {
		if format != compress.None {
			return nil, fmt.Errorf("standard input is %s data, but not of a tar archive", format)
		}
		if bytes.IndexByte(head, 0) >= 0 {
			return nil, errors.New("standard input is neither a Dockerfile nor a tar archive (plain, or compressed by gzip, bzip2, xz or zstd)")
		}
		return readDockerfile(content)
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	opt.Form = layer.Plain
	if err := layer.Apply(ctx, root, content, opt); err != nil {
		return nil, fmt.Errorf("unpacking the context from standard input: %w", err)
	}
	return nil, nil
}

// isTarHeader says whether a block is a tar header, or the zeros that end an archive without members.
func isTarHeader(block []byte) bool {
	if len(block) < tarBlock {
		return false
	}
	_, err := tar.NewReader(bytes.NewReader(block)).Next()
	return !errors.Is(err, tar.ErrHeader)
}

func readDockerfile(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the Dockerfile from standard input: %w", err)
	}
	if len(b) > maxDockerfile {
		return nil, fmt.Errorf("standard input is no tar archive, and too long for a Dockerfile (more than %d MiB)", maxDockerfile>>20)
	}
	return b, nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
