package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/dockerfile/ignore"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/rootfs"
)

// contextFlag is a decided --build-context.
type contextFlag struct{ name, value string }

// parseContext parses NAME=VALUE.
func parseContext(value string) (contextFlag, error) {
	name, v, ok := strings.Cut(value, "=")
	if !ok || name == "" || v == "" {
		return contextFlag{}, usagef("invalid --build-context %q: it is NAME=VALUE, where VALUE is a folder, docker-image://NAME, oci-layout://FOLDER, target:STAGE or a URL", value)
	}
	if v == "target:" || strings.HasPrefix(v, "input:") {
		return contextFlag{}, usagef("invalid --build-context %q: it cannot refer to another build", value)
	}
	return contextFlag{name, v}, nil
}

// folder is a context as a folder on this machine.
type folder struct {
	dir string
	// local: the user's own folder. A .dockerignore in it counts, and digests of its files are remembered.
	local bool
	// remote: it came from a URL. A Dockerfile with an absolute path is not in it, but on this machine.
	remote bool
	// owners: files keep their owners, as an archive says them; otherwise all belong to 0:0.
	owners bool
	// file is the context's only file, which is a Dockerfile rather than a context; empty if it is none.
	file string
	time builder.TimeOf
}

// stageContext begins a context that is a stage of the Dockerfile.
const stageContext = "target:"

// contextStages are the contexts that are stages of the Dockerfile.
func (j *job) contextStages() map[string]string {
	stages := make(map[string]string)
	for _, c := range j.opts.contexts {
		if stage, ok := strings.CutPrefix(c.value, stageContext); ok {
			stages[c.name] = stage
		}
	}
	return stages
}

// isURL says whether a context is to be fetched, and how: by git, or with a nil ref by HTTP.
func isURL(value string) (ref *dockerfile.GitRef, url bool, err error) {
	if ref, err = dockerfile.ParseGitRef(value); err != nil {
		return nil, true, usagef("invalid context %q: %w", value, err)
	}
	if ref != nil {
		if ref.MaybeLocal {
			if _, err := os.Stat(value); err == nil {
				return nil, false, nil
			}
			ref.Remote = "https://" + ref.Remote
		}
		return ref, true, nil
	}
	lower := strings.ToLower(value)
	if strings.HasPrefix(lower, "http://") || strings.HasPrefix(lower, "https://") {
		return nil, true, nil
	}
	if scheme := urlScheme.FindString(lower); scheme != "" {
		if _, err := os.Stat(value); err != nil {
			return nil, false, usagef("invalid context %q: there are none by %s: it is a folder, or a URL by http, https, git or ssh", value, scheme)
		}
	}
	return nil, false, nil
}

// urlScheme is how a URL begins.
var urlScheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://`)

// localFolder makes sure that a context is a folder.
func localFolder(dir string) (folder, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return folder{}, fmt.Errorf("the context: %w", err)
	}
	if !st.IsDir() {
		return folder{}, fmt.Errorf("the context %s is not a folder", dir)
	}
	return folder{dir: dir, local: true}, nil
}

// namedContexts are the --build-contexts, each opened when something needs it.
func (j *job) namedContexts() (map[string]builder.OpenContext, error) {
	named := make(map[string]builder.OpenContext)
	for _, c := range j.opts.contexts {
		if _, ok := strings.CutPrefix(c.value, stageContext); ok {
			continue // the builder's
		}
		open, err := j.namedContext(c)
		if err != nil {
			return nil, fmt.Errorf("--build-context %s: %w", c.name, err)
		}
		named[c.name] = func(ctx context.Context, p v1.Platform) (builder.Context, error) {
			opened, err := open(ctx, p)
			if err != nil {
				return opened, fmt.Errorf("the context %s: %w", c.name, err)
			}
			return opened, nil
		}
	}
	return named, nil
}

func (j *job) namedContext(c contextFlag) (builder.OpenContext, error) {
	if ref, ok := strings.CutPrefix(c.value, "docker-image://"); ok {
		return func(ctx context.Context, p v1.Platform) (builder.Context, error) {
			img, err := j.contextImage(ctx, ref, p)
			return builder.Context{Image: img}, err
		}, nil
	}
	if layout, ok := strings.CutPrefix(c.value, "oci-layout://"); ok {
		return func(ctx context.Context, p v1.Platform) (builder.Context, error) {
			img, err := j.layoutImage(ctx, layout, p)
			return builder.Context{Image: img}, err
		}, nil
	}
	ref, url, err := isURL(c.value)
	if err != nil {
		return nil, err
	}
	if url {
		return j.onceOpened(func(ctx context.Context) (folder, error) { return j.fetch(ctx, c.value, ref, false) }), nil
	}
	local, err := localFolder(c.value)
	return j.onceOpened(func(context.Context) (folder, error) { return local, nil }), err
}

// onceOpened opens a tree that is the same for all platforms.
func (j *job) onceOpened(get func(context.Context) (folder, error)) builder.OpenContext {
	var mu sync.Mutex
	var opened *builder.Context
	return func(ctx context.Context, _ v1.Platform) (builder.Context, error) {
		mu.Lock()
		defer mu.Unlock()
		if opened != nil {
			return *opened, nil
		}
		f, err := get(ctx)
		if err != nil {
			return builder.Context{}, err
		}
		tree, _, err := j.openTree(f, "")
		if err != nil {
			return builder.Context{}, err
		}
		opened = &builder.Context{Tree: tree, Time: f.time}
		return *opened, nil
	}
}

// contextImage is docker-image://NAME.
func (j *job) contextImage(ctx context.Context, ref string, p v1.Platform) (*image.Image, error) {
	if ref == "scratch" {
		return &image.Image{RawConfig: []byte("{}"), Config: v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}}, nil
	}
	return j.resolver(j.opts.pull).Resolve(ctx, ref, p)
}

// openTree opens a context. Its rules are those of its .dockerignore, or of the file beside, which comes first; what came from the network has none.
func (j *job) openTree(f folder, beside string) (*source.Tree, *ignore.Matcher, error) {
	opt := source.Options{Local: f.local, ResetOwner: !f.owners, Now: j.env.now}
	if f.owners && j.Snapshots != nil {
		opt.Owners = j.Snapshots.Owners()
	}
	if f.local {
		var err error
		if opt.Ignore, err = ignoreRules(f.dir, beside); err != nil {
			return nil, nil, err
		}
	}
	if f.local {
		abs, err := filepath.Abs(f.dir)
		if err != nil {
			return nil, nil, err
		}
		if err := os.MkdirAll(j.Path("contexts"), 0o700); err != nil {
			return nil, nil, fmt.Errorf("opening the store: %w", err)
		}
		opt.Index = j.Path("contexts", fmt.Sprintf("%x", sha256.Sum256([]byte(abs))))
		_ = unix.Utimes(opt.Index, nil) // the time of last use, for prune
	}
	tree, err := source.Open(f.dir, opt)
	if err != nil {
		return nil, nil, err
	}
	j.closers = append(j.closers, func() { tree.Close() })
	return tree, opt.Ignore, nil
}

// ignoreRules reads the .dockerignore of a folder, or the file beside the Dockerfile if there is one; nil if there is none. A folder of such a
// name is none.
func ignoreRules(dir, beside string) (*ignore.Matcher, error) {
	name, text := ".dockerignore", []byte(nil)
	err := fs.ErrNotExist
	if beside != "" {
		if text, err = readBeside(beside); err == nil {
			name = beside
		}
	}
	if isNone(err) {
		root, rootErr := rootfs.Open(dir)
		if rootErr != nil {
			return nil, rootErr
		}
		defer root.Close()
		text, err = readContextFile(root, name)
	}
	switch {
	case isNone(err):
		return nil, nil //nolint:nilnil // no rules
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return ignore.Parse(name, bytes.NewReader(text))
}

func isNone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errFolder) }
