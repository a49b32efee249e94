package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// repo is the cached bare repository of a remote, under lock.
type repo struct {
	*entry
	g      *git
	remote remote
}

// openRepo opens the cached repository of a remote, and makes it if it is missing or broken.
func (r *Repository) openRepo(ctx context.Context) (*repo, error) {
	g, err := r.c.newGit(r.remote)
	if err != nil {
		return nil, err
	}
	format := r.format()
	sum := sha256.Sum256([]byte("1\x00" + format + "\x00" + r.remote.url))
	e, err := openEntry(ctx, filepath.Join(r.c.opt.Dir, "git", hex.EncodeToString(sum[:])))
	if err != nil {
		return nil, err
	}
	p := &repo{entry: e, remote: r.remote, g: g.at(e.path("repo"), "")}
	if err := p.prepare(ctx, format); err != nil {
		e.close()
		return nil, err
	}
	return p, nil
}

// format is the hash of the repository's object ids, in git's words.
func (r *Repository) format() string {
	if len(r.object) == 64 {
		return "sha256"
	}
	return "sha1"
}

// prepare makes the repository if it is missing, by rename so that there is never half of one, and removes what a
// crash left.
func (p *repo) prepare(ctx context.Context, format string) error {
	if err := p.remove("work", "new"); err != nil {
		return err
	}
	if _, err := os.Stat(p.path("repo/HEAD")); err == nil {
		for _, lock := range []string{"shallow.lock", "packed-refs.lock", "config.lock", "HEAD.lock"} {
			_ = os.Remove(p.path("repo/" + lock)) // of a git that was killed; we alone use this repository
		}
		return nil
	}
	if err := p.remove("repo"); err != nil {
		return err
	}
	if _, err := p.g.at(p.path("new"), "").run(ctx, p.dir, "init", "--quiet", "--bare", "--template=", "--object-format="+format); err != nil {
		return fmt.Errorf("making a repository for %s: %w", p.remote.shown, err)
	}
	if err := os.Rename(p.path("new"), p.path("repo")); err != nil {
		return fmt.Errorf("making a repository for %s: %w", p.remote.shown, err)
	}
	return nil
}

// broken says whether a fetch may have failed for what the cached repository is, and not for what the server is.
func (p *repo) broken(ctx context.Context, err error) bool {
	if _, err := p.g.run(ctx, p.dir, "rev-parse", "--is-bare-repository"); err != nil {
		return true
	}
	return said(err, "corrupt", "object file", "bad object", "missing blob", "missing tree", "did not send all necessary objects", "unresolved deltas")
}

func (p *repo) remove(names ...string) error {
	for _, n := range names {
		if err := os.RemoveAll(p.path(n)); err != nil {
			return fmt.Errorf("cleaning up the cached repository of %s: %w", p.remote.shown, err)
		}
	}
	return nil
}

// pin gives an object a name, if it is there and leads to a commit. This keeps it, and makes it
// something to build on for the next fetch.
func (p *repo) pin(ctx context.Context, object string) bool {
	if _, err := os.Lstat(p.path("repo/refs/strake/" + object)); err == nil {
		return true
	}
	if _, err := p.g.run(ctx, p.dir, "cat-file", "-e", object+"^{commit}"); err != nil {
		return false
	}
	_, err := p.g.run(ctx, p.dir, "update-ref", "refs/strake/"+object, object)
	return err == nil
}

// fetch brings the object that r.Ref points to, with as little else as the server allows.
func (p *repo) fetch(ctx context.Context, r *Repository) error {
	if p.pin(ctx, r.object) {
		return nil
	}
	var err error
	if !isCommit(r.Ref) && !r.req.FetchByCommit {
		// The reference may have moved since it was resolved: then the object is asked for by its id below.
		if err = p.fetchRefs(ctx, true, "+"+r.Ref+":refs/strake/fetched"); err == nil && p.pin(ctx, r.object) {
			return nil
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if p.fetchRefs(ctx, true, r.object) == nil && p.pin(ctx, r.object) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// A server that gives nothing by its id: everything that it has a name for.
	if all := p.fetchRefs(ctx, false, "+refs/heads/*:refs/strake/heads/*", "+refs/tags/*:refs/strake/tags/*"); all != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("failed to fetch remote %s: %w", p.remote.shown, errors.Join(all, err))
	}
	if p.pin(ctx, r.object) {
		return nil
	}
	if isCommit(r.Ref) || r.req.FetchByCommit {
		return fmt.Errorf("failed to fetch remote %s: repository does not contain commit %s", p.remote.shown, r.object)
	}
	return fmt.Errorf("fetched ref %s does not match expected commit %s and commit can not be found in the repository", r.Ref, r.object)
}

// fetchRefs runs git fetch, shallow if that is wanted and the server can do it.
func (p *repo) fetchRefs(ctx context.Context, shallow bool, refspecs ...string) error {
	args := []string{"fetch", "--quiet", "--no-tags", "--force", "--no-write-fetch-head", "--no-recurse-submodules"}
	if shallow {
		_, err := p.g.run(ctx, p.dir, append(append(args, "--depth=1", "--", p.remote.url), refspecs...)...)
		if err == nil || ctx.Err() != nil || !said(err, "shallow", "--depth") {
			return err
		}
	} else if _, err := os.Lstat(p.path("repo/shallow")); err == nil {
		args = append(args, "--unshallow")
	}
	_, err := p.g.run(ctx, p.dir, append(append(args, "--", p.remote.url), refspecs...)...)
	return err
}

// CommitTime is the time at which the commit was made (the committer's), which is what SOURCE_DATE_EPOCH=context
// means for a repository. It fetches the commit.
func (r *Repository) CommitTime(ctx context.Context) (time.Time, error) {
	p, err := r.openRepo(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer p.close()
	if err := p.fetch(ctx, r); err != nil {
		return time.Time{}, err
	}
	return p.commitTime(ctx, r.object)
}

func (p *repo) commitTime(ctx context.Context, object string) (time.Time, error) {
	out, err := p.g.line(ctx, p.dir, "log", "-1", "--no-show-signature", "--format=%ct", object+"^{commit}", "--")
	if err != nil {
		return time.Time{}, fmt.Errorf("failed to get commit time for %s: %w", p.remote.shown, err)
	}
	sec, err := strconv.ParseInt(out, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("failed to get commit time for %s: %q is no time", p.remote.shown, out)
	}
	return time.Unix(sec, 0).UTC(), nil
}

// keepsGitDir says whether .git is part of the result; with a folder it never is, as in BuildKit.
func (r *Repository) keepsGitDir() bool { return r.req.KeepGitDir && cleanSubdir(r.req.Subdir) == "" }

// cleanSubdir is a folder's name relative to the root, without "..", and "" for the root.
func cleanSubdir(s string) string {
	return strings.TrimPrefix(filepath.Clean("/"+s), "/")
}
