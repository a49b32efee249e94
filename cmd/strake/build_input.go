package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/fetch"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// maxDockerfile bounds what is read of a Dockerfile, in bytes.
const maxDockerfile = 16 << 20

// input is what a build reads: the Dockerfile and the context.
type input struct {
	name    string // of the Dockerfile
	text    []byte
	tree    *source.Tree
	time    builder.TimeOf // of the context
	ignored func(path string) bool
}

// openInput opens the context and reads the Dockerfile.
func (j *job) openInput(ctx context.Context) error {
	f, text, err := j.openContext(ctx)
	if err != nil {
		return err
	}
	j.in.time = f.time
	root, err := rootfs.Open(f.dir)
	if err != nil {
		return fmt.Errorf("the context: %w", err)
	}
	defer root.Close()
	beside := ""
	if text != nil || f.file != "" {
		if j.opts.file != "" {
			return usagef("-f has no meaning when the context is a Dockerfile itself")
		}
		j.in.name, j.in.text = "Dockerfile", text
		if f.file != "" {
			j.in.text, err = readContextFile(root, f.file)
		}
	} else {
		beside, err = j.readDockerfile(ctx, root, f)
	}
	if err != nil {
		return fmt.Errorf("reading the Dockerfile: %w", err)
	}
	tree, rules, err := j.openTree(f, beside)
	j.in.tree, j.in.ignored = tree, rules.CopySources()
	return err
}

// openContext finds the folder of the build's context; text is the Dockerfile that came instead of one.
func (j *job) openContext(ctx context.Context) (f folder, text []byte, err error) {
	if j.opts.context != "-" {
		ref, url, err := isURL(j.opts.context)
		if err != nil {
			return f, nil, err
		}
		if url {
			f, err = j.fetch(ctx, j.opts.context, ref, true)
			return f, nil, err
		}
		f, err = localFolder(j.opts.context)
		return f, nil, err
	}
	dir := filepath.Join(j.temp, "stdin")
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // modes are part of what COPY takes
		return f, nil, err
	}
	if text, err = source.Stdin(ctx, j.env.input(ctx), dir, j.archiveOptions()); err != nil {
		return f, nil, fmt.Errorf("reading the context from standard input: %w", err)
	}
	return folder{dir: dir, owners: true, time: newestIn(dir)}, text, nil
}

// archiveOptions say how owners of what is unpacked from an archive are kept.
func (j *job) archiveOptions() layer.Options {
	if j.Snapshots != nil {
		return layer.Options{UserXattr: j.isolation.UserNS, RecordOwners: j.Snapshots.Owners().Records()}
	}
	// Nothing is built, and nobody can be the owner but this user.
	me := &layer.Owner{UID: os.Geteuid(), GID: os.Getegid()}
	return layer.Options{Owner: me, Implied: me}
}

// newestIn is the time of an archive that was unpacked into dir: of its newest file.
func newestIn(dir string) builder.TimeOf {
	return func(ctx context.Context) (at time.Time, err error) {
		err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return cmp.Or(err, context.Cause(ctx))
			}
			info, err := d.Info()
			if err == nil && info.ModTime().After(at) {
				at = info.ModTime()
			}
			return err
		})
		return at, err
	}
}

// readDockerfile reads the Dockerfile that -f names, or that of the context. beside is the file of ignore rules that would go with it.
func (j *job) readDockerfile(ctx context.Context, root *rootfs.Root, f folder) (beside string, err error) {
	name := j.opts.file
	switch {
	case name == "-":
		j.in.name = "Dockerfile"
		j.in.text, err = io.ReadAll(io.LimitReader(j.env.input(ctx), maxDockerfile))
	case strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://"):
		j.in.name = name
		j.in.text, err = j.download(ctx, name)
	case name != "" && (f.local || f.remote && filepath.IsAbs(name)):
		if err = j.readEitherCase(name, readHostFile); f.local {
			beside = j.in.name + ".dockerignore"
		}
	default:
		err = j.readEitherCase(cmp.Or(name, "Dockerfile"), func(name string) ([]byte, error) { return readContextFile(root, name) })
		if f.local {
			beside = filepath.Join(f.dir, j.in.name+".dockerignore")
		}
	}
	return beside, err
}

// readEitherCase reads the Dockerfile of that name. One called Dockerfile may be called dockerfile.
func (j *job) readEitherCase(name string, read func(string) ([]byte, error)) (err error) {
	j.in.name = name
	j.in.text, err = read(name)
	if dir, base := filepath.Split(name); errors.Is(err, fs.ErrNotExist) && base == "Dockerfile" {
		if lower, lowerErr := read(dir + "dockerfile"); lowerErr == nil {
			j.in.name, j.in.text, err = dir+"dockerfile", lower, nil
		}
	}
	return err
}

// download gets a Dockerfile by HTTP.
func (j *job) download(ctx context.Context, url string) ([]byte, error) {
	file, err := j.client.HTTP(ctx, fetch.HTTPRequest{URL: url})
	if err != nil {
		return nil, err
	}
	content, err := file.Open(ctx)
	if err != nil {
		return nil, err
	}
	return readRegular(content.File)
}

// parse parses the Dockerfile.
func (in *input) parse() (*dockerfile.File, error) { return dockerfile.Parse(in.name, in.text) }

// readContextFile reads a small file of a context, whose links must not lead out of it.
func readContextFile(root *rootfs.Root, name string) ([]byte, error) {
	return readPlain(name, func(flags int) (*os.File, error) { return root.OpenFile(name, flags, 0) })
}

// readBeside reads a small file that lies beside one that the user named.
func readBeside(name string) ([]byte, error) {
	return readPlain(name, func(flags int) (*os.File, error) { return os.OpenFile(name, flags, 0) })
}

// readPlain reads a small file that must be one: a pipe would hold the build, a device have no end.
func readPlain(name string, open func(flags int) (*os.File, error)) ([]byte, error) {
	f, err := open(os.O_RDONLY | unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() && !st.IsDir() {
		f.Close()
		return nil, &fs.PathError{Op: "reading", Path: name, Err: errors.New("it is not a regular file")}
	}
	return readRegular(f)
}

// readHostFile reads a small file that the user named.
func readHostFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return readRegular(f)
}

var errFolder = errors.New("it is a folder")

// readRegular reads f and closes it.
func readRegular(f *os.File) ([]byte, error) {
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if st.IsDir() {
		return nil, &fs.PathError{Op: "reading", Path: f.Name(), Err: errFolder}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	if err == nil && len(text) > maxDockerfile {
		err = &fs.PathError{Op: "reading", Path: f.Name(), Err: errors.New("it is too large")}
	}
	return text, err
}
