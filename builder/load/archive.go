package load

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/compress"
)

const (
	// maxEntries bounds the files of an archive: each is remembered.
	maxEntries = 100_000
	// maxLinks bounds how many links of an archive lead to a file.
	maxLinks = 8
)

// errNotInArchive is what is said of a file that an archive lacks.
var errNotInArchive = errors.New("it is not in the archive")

// Archive is the files of an image archive.
type Archive struct {
	has   func(path string) bool
	open  func(path string) (io.ReadCloser, error)
	close func() error
}

// Close closes the archive. What was opened in it can no longer be read.
func (a *Archive) Close() error { return a.close() }

// maxDocument bounds the JSON files of an archive, in bytes.
const maxDocument = 16 << 20

// read returns a small file.
func (a *Archive) read(path string) ([]byte, error) {
	r, err := a.open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(raw) > maxDocument {
		err = &fs.PathError{Op: "reading", Path: path, Err: errors.New("it is too large")}
	}
	return raw, err
}

// Open opens a tar, compressed or not, or a folder. temp is where a tar that cannot be read twice as it is, or is compressed, is copied to.
func Open(name, temp string) (*Archive, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return OpenFolder(name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if st.Mode().IsRegular() && (err == nil || errors.Is(err, io.EOF)) && compress.Detect(head[:n]) == compress.None {
		return indexTar(f)
	}
	defer f.Close()
	return Spool(f, temp)
}

// OpenFolder reads a layout in a folder; links that lead out of it are not followed.
func OpenFolder(name string) (*Archive, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &Archive{
		has: func(path string) bool { _, err := root.Stat(path); return err == nil },
		open: func(path string) (io.ReadCloser, error) {
			// Not a FIFO: opening one would wait.
			if st, err := root.Stat(path); err != nil {
				return nil, err
			} else if !st.Mode().IsRegular() {
				return nil, &fs.PathError{Op: "opening", Path: path, Err: errors.New("it is not a file")}
			}
			return root.Open(path)
		},
		close: root.Close,
	}, nil
}

// Spool copies a tar, compressed or not, into a file without a name in the folder temp, and opens it.
func Spool(r io.Reader, temp string) (*Archive, error) {
	plain, _, err := compress.NewReader(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	fd, err := unix.Open(temp, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making a temporary file in %s: %w", temp, err)
	}
	f := os.NewFile(uintptr(fd), "archive")
	if _, err := io.Copy(f, plain); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return indexTar(f)
}

// tarFile is where a file's bytes are, or which file a link means.
type tarFile struct {
	offset, size int64
	link         string
}

// indexTar notes where the files of a tar are. The archive owns f.
func indexTar(f *os.File) (*Archive, error) {
	files := make(map[string]tarFile)
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && len(files) == maxEntries {
			err = errors.New("it has too many entries")
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		switch h.Typeflag {
		case tar.TypeReg:
			// The reader reads whole headers and nothing more, so f stands where the data begins.
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				f.Close()
				return nil, err
			}
			files[name] = tarFile{offset: offset, size: h.Size}
		case tar.TypeSymlink: // docker before 1.10 linked equal layers
			files[name] = tarFile{link: path.Join(path.Dir("/"+name), h.Linkname)[1:]} //nolint:gosec // a key of the map, never a path
		case tar.TypeLink:
			files[name] = tarFile{link: strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")}
		}
	}
	find := func(name string) (tarFile, bool) {
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		for range maxLinks {
			file, ok := files[name]
			if !ok || file.link == "" {
				return file, ok
			}
			name = file.link
		}
		return tarFile{}, false
	}
	return &Archive{
		has: func(name string) bool { _, ok := find(name); return ok },
		open: func(name string) (io.ReadCloser, error) {
			file, ok := find(name)
			if !ok {
				return nil, &fs.PathError{Op: "opening", Path: name, Err: errNotInArchive}
			}
			return io.NopCloser(io.NewSectionReader(f, file.offset, file.size)), nil
		},
		close: f.Close,
	}, nil
}
