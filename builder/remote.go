package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/copier"
	"github.com/strake-build/strake/builder/fetch"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/layer/rootfs"
)

// fileMode is what ADD gives to a file that it downloads (Dockerfile reference, ADD).
const fileMode = 0o600

// remote resolves a source of ADD that is fetched.
func (w *copyWork) remote(ctx context.Context, r dockerfile.Remote) (group, error) {
	if w.opt.Fetch == nil {
		return group{}, errors.New("internal error: no client for remote sources")
	}
	if r.Git != nil {
		req := GitRequest(r.Git, w.copy.Checksum)
		req.CommitTimes = false // it is for contexts
		repo, err := w.opt.Fetch.Git(ctx, req)
		if err != nil {
			return group{}, err
		}
		return group{repo: repo, part: cache.Part{Name: "repository", Value: repo.Key}}, nil
	}
	req := fetch.HTTPRequest{URL: r.URL, Name: r.Name}
	if w.copy.Checksum != "" {
		var err error
		if req.Checksum, err = v1.NewHash(w.copy.Checksum); err != nil {
			return group{}, fmt.Errorf("invalid checksum: %w", err)
		}
	}
	f, err := w.opt.Fetch.HTTP(ctx, req)
	if err != nil {
		return group{}, err
	}
	return group{file: f, part: cache.Part{Name: "file", Value: f.Name + " " + f.Digest.String()}}, nil
}

// GitRequest is what a git URL of a Dockerfile or of a context asks for; checksum is ADD --checksum.
func GitRequest(g *dockerfile.GitRef, checksum string) fetch.GitRequest {
	return fetch.GitRequest{
		Remote: g.Remote, Ref: g.Ref, Subdir: g.Subdir,
		Checksum: cmp.Or(g.Commit, checksum), FetchByCommit: g.FetchByCommit,
		KeepGitDir:     g.KeepGitDir != nil && *g.KeepGitDir,
		SkipSubmodules: g.Submodules != nil && !*g.Submodules,
		CommitTimes:    g.MTime == "commit",
	}
}

// addFile copies a downloaded file, or unpacks it if --unpack says so.
func (w *copyWork) addFile(ctx context.Context, dst *rootfs.Root, f *fetch.File, opt copier.Options) error {
	content, err := f.Open(ctx)
	if err != nil {
		return err
	}
	defer content.Close()
	opt.Extract = w.copy.Unpack != nil && *w.copy.Unpack
	return copier.CopyFile(ctx, dst, copier.File{
		Path: "/proc/self/fd/" + strconv.Itoa(int(content.Fd())), Name: f.Name, Mode: fileMode, ModTime: content.MTime(),
	}, opt)
}

// addRepository copies the files of a repository.
func (w *copyWork) addRepository(ctx context.Context, dst *rootfs.Root, repo *fetch.Repository, opt copier.Options) error {
	dir, err := os.MkdirTemp(w.Temp, "git-")
	if err != nil {
		return fmt.Errorf("making a folder for %s: %w", repo.Remote, err)
	}
	defer os.RemoveAll(dir)
	checkout := filepath.Join(dir, "tree")
	if err := repo.Checkout(ctx, checkout); err != nil {
		return err
	}
	tree, err := source.Open(checkout, source.Options{ResetOwner: true, Now: w.Now})
	if err != nil {
		return err
	}
	defer tree.Close()
	items, err := tree.Select(ctx, source.Selection{Patterns: []string{""}, Exclude: w.copy.Exclude})
	if err != nil {
		return err
	}
	opt.Extract = false
	return copier.Copy(ctx, dst, tree, items, nil, opt)
}
