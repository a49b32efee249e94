package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// Checkout fetches the commit, if the cache does not have it, and writes its files to the folder dir, which must not exist; its parent
// must. dir appears when it is whole. Folders and executable files have the mode 0755, others 0644, whatever
// the umask; their owner is who runs this, to be taken for 0:0. Nothing of the repository is executed: no hooks, no filters.
func (r *Repository) Checkout(ctx context.Context, dir string) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("finding a folder for %s: %w", r.Remote, err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("checking out %s: %s exists", r.Remote, dir)
	}
	p, err := r.openRepo(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	temp, err := os.MkdirTemp(filepath.Dir(dir), ".git-checkout-")
	if err != nil {
		return fmt.Errorf("making a folder for %s: %w", r.Remote, err)
	}
	defer os.RemoveAll(temp)
	defer os.RemoveAll(p.path("work"))
	tree := filepath.Join(temp, "tree")
	err = p.materialize(ctx, r, tree)
	if errors.Is(err, errBroken) && ctx.Err() == nil {
		if err = p.remove("repo"); err == nil {
			err = p.prepare(ctx, r.format())
		}
		if err == nil {
			err = p.materialize(ctx, r, tree)
		}
	}
	if err != nil {
		return err
	}
	var at time.Time
	if r.req.CommitTimes {
		if at, err = p.commitTime(ctx, r.object); err != nil {
			return err
		}
	}
	from, err := subdir(tree, r.req.Subdir)
	if err != nil {
		return err
	}
	if err := normalize(ctx, from, r.keepsGitDir(), at); err != nil {
		return fmt.Errorf("checking out %s: %w", r.Remote, err)
	}
	if err := os.Rename(from, dir); err != nil {
		return fmt.Errorf("checking out %s: %w", r.Remote, err)
	}
	return nil
}

var (
	errSubmodules = errors.New("submodules")
	// errBroken is a cached repository that does not give what it has, as after a power failure: it is a miss.
	errBroken = errors.New("failed to checkout remote")
)

// materialize fetches the commit and fills the folder tree with its files.
func (p *repo) materialize(ctx context.Context, r *Repository, tree string) error {
	if err := p.fetch(ctx, r); err != nil {
		if ctx.Err() == nil && p.broken(ctx, err) {
			return fmt.Errorf("%w %s: %w", errBroken, p.remote.shown, err)
		}
		return err
	}
	err := p.populate(ctx, r, tree, true)
	if errors.Is(err, errSubmodules) && ctx.Err() == nil {
		// Their servers may not know how to be shallow, or give nothing by its id.
		err = p.populate(ctx, r, tree, false)
	}
	return err
}

// populate fills the folder tree with the files of the commit and its submodules.
func (p *repo) populate(ctx context.Context, r *Repository, tree string, shallow bool) error {
	if err := p.remove("work"); err != nil {
		return err
	}
	if err := os.RemoveAll(tree); err != nil {
		return fmt.Errorf("making a folder for %s: %w", p.remote.shown, err)
	}
	if err := os.Mkdir(tree, 0o700); err != nil {
		return fmt.Errorf("making a folder for %s: %w", p.remote.shown, err)
	}
	gitDir := p.path("work") // with an index of its own
	if r.keepsGitDir() {
		gitDir = filepath.Join(tree, ".git")
	}
	g := p.g.at(gitDir, tree)
	if _, err := g.run(ctx, tree, "init", "--quiet", "--template=", "--object-format="+r.format()); err != nil {
		return fmt.Errorf("making a repository for %s: %w", p.remote.shown, err)
	}
	var err error
	if r.keepsGitDir() {
		err = p.copyCommit(ctx, r, g)
	} else {
		err = borrow(gitDir, p.path("repo/objects"))
	}
	if err == nil {
		_, err = g.run(ctx, tree, "read-tree", "--reset", "-u", r.object+"^{commit}")
	}
	if err != nil {
		return fmt.Errorf("%w %s: %w", errBroken, p.remote.shown, err)
	}
	_, err = os.Lstat(filepath.Join(tree, ".gitmodules"))
	modules := err == nil && !r.req.SkipSubmodules
	if !modules && !r.keepsGitDir() {
		return nil
	}
	for _, args := range [][]string{
		{"update-ref", "--no-deref", "HEAD", r.object + "^{commit}"},
		{"remote", "add", "--", "origin", p.remote.url}, // what relative URLs of submodules are relative to
	} {
		if _, err := g.run(ctx, tree, args...); err != nil {
			return fmt.Errorf("making a repository for %s: %w", p.remote.shown, err)
		}
	}
	if modules {
		if err := p.submodules(ctx, g, tree, shallow); err != nil {
			return err
		}
	}
	if r.keepsGitDir() {
		return p.tidy(ctx, g, tree)
	}
	return nil
}

// borrow lets the repository gitDir read the objects of the cached one.
func borrow(gitDir, objects string) error {
	info := filepath.Join(gitDir, "objects", "info")
	if err := os.MkdirAll(info, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(info, "alternates"), []byte(quoteAlternate(objects)+"\n"), 0o600)
}

// quoteAlternate writes a path as gitrepository-layout(5) has it, in quotes if it needs them.
func quoteAlternate(path string) string {
	if !strings.ContainsAny(path, "\"\\\n#") {
		return path
	}
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`, "\n", `\n`).Replace(path) + `"`
}

// copyCommit gives the repository that is kept the one commit, under the name it was asked for by: a short
// one becomes a tag, as it does with BuildKit.
func (p *repo) copyCommit(ctx context.Context, r *Repository, g *git) error {
	target := ""
	switch ref := r.req.Ref; {
	case isCommit(ref) || isCommit(r.Ref):
	case ref == "":
		target = "refs/tags/" + strings.TrimPrefix(r.Ref, "refs/heads/")
	case strings.HasPrefix(ref, "refs/"):
		target = ref
	default:
		target = "refs/tags/" + ref
	}
	spec := "refs/strake/" + r.object
	if target != "" {
		spec += ":" + target
	}
	// From the cache, and by a protocol, not by links to its files: the only place where git may read files of this machine.
	g = g.withEnv("GIT_ALLOW_PROTOCOL=file")
	_, err := g.run(ctx, p.dir, "fetch", "--quiet", "--no-tags", "--update-head-ok", "--depth=1", "--no-write-fetch-head",
		"--no-recurse-submodules", "--", "file://"+p.path("repo"), spec)
	return err
}

// submodules checks out the submodules and theirs.
func (p *repo) submodules(ctx context.Context, g *git, tree string, shallow bool) error {
	args := []string{"submodule", "--quiet", "update", "--init", "--recursive"}
	if shallow {
		args = append(args, "--depth=1")
	}
	if _, err := g.run(ctx, tree, args...); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("failed to update %w for %s: %w", errSubmodules, p.remote.shown, err)
	}
	return nil
}

// tidy removes from a kept .git what differs at each checkout.
func (p *repo) tidy(ctx context.Context, g *git, tree string) error {
	if _, err := g.run(ctx, tree, "reflog", "expire", "--all", "--expire=now"); err != nil {
		return fmt.Errorf("failed to expire reflog for remote %s: %w", p.remote.shown, err)
	}
	return nil
}

// subdir finds the folder of the tree, to which no symbolic link may lead.
func subdir(tree, name string) (string, error) {
	name = cleanSubdir(name)
	if name == "" {
		return tree, nil
	}
	root, err := rootfs.Open(tree)
	if err != nil {
		return "", fmt.Errorf("opening a checkout: %w", err)
	}
	defer root.Close()
	for i, c := range name + "/" {
		if c != '/' {
			continue
		}
		st, err := root.Lstat(name[:i])
		if err != nil {
			return "", fmt.Errorf("invalid subdir %s: %w", name, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return "", fmt.Errorf("invalid subdir %s: git subpath %q contains non-directory %q", name, name, name[:i])
		}
	}
	return filepath.Join(tree, name), nil
}

// normalize makes the modes independent of the umask, removes the .git files of submodules unless .git is kept (they lead to
// the cache), and sets all times to at unless it is zero.
func normalize(ctx context.Context, dir string, keep bool, at time.Time) error {
	root, err := rootfs.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.OpenFile(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return normalizeDir(ctx, f, keep, at)
}

func normalizeDir(ctx context.Context, dir *os.File, keep bool, at time.Time) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	entries, err := rootfs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name == ".git" && !keep {
			if err := rootfs.RemoveAll(dir, e.Name); err != nil {
				return err
			}
			continue
		}
		if err := normalizeEntry(ctx, dir, e.Name, keep, at); err != nil {
			return err
		}
	}
	if err := rootfs.Chmod(dir, ".", 0o755); err != nil {
		return err
	}
	return setTime(dir, ".", at)
}

// normalizeEntry gives an entry, and everything below it, the mode and the time that a checkout has in BuildKit.
func normalizeEntry(ctx context.Context, dir *os.File, name string, keep bool, at time.Time) error {
	st, err := rootfs.StatEntry(dir, name)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		sub, err := rootfs.OpenEntry(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer sub.Close()
		return normalizeDir(ctx, sub, keep, at)
	case unix.S_IFREG:
		want := uint32(0o644)
		switch {
		case st.Mode&0o100 != 0:
			want = 0o755
		case st.Mode&0o200 == 0:
			want = 0o444 // an object in .git
		}
		if st.Mode&0o7777 != want {
			if err := rootfs.Chmod(dir, name, want); err != nil {
				return err
			}
		}
	}
	return setTime(dir, name, at)
}

func setTime(dir *os.File, name string, at time.Time) error {
	if at.IsZero() {
		return nil
	}
	ts := unix.NsecToTimespec(at.UnixNano())
	return rootfs.Utimes(dir, name, ts, ts)
}
