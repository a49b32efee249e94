package fetch

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// GitRequest names a tree in a git repository. The syntax of git URLs is the business of the Dockerfile's parser.
type GitRequest struct {
	// Remote is the repository: an http, https, ssh or git URL without fragment and query, or user@host:path.
	Remote string
	// Ref is a branch, a tag, a full reference ("refs/…") or a whole commit id; "" means the default branch.
	Ref string
	// Checksum, if not "", is how the commit id must begin (or the id of an annotated tag).
	Checksum string
	// FetchByCommit takes Checksum, which is then a whole commit id, instead of asking the server what Ref is.
	FetchByCommit bool
	// Subdir is the folder of the tree to take, with slashes; "" means all. No symbolic link may lead to it.
	Subdir string
	// KeepGitDir keeps .git, with that one commit, unless there is a Subdir.
	KeepGitDir bool
	// SkipSubmodules leaves the folders of submodules empty. Otherwise they are fetched, and theirs.
	SkipSubmodules bool
	// CommitTimes gives all files the time of the commit; otherwise they have that of the checkout.
	// BuildKit does it for a main context when SOURCE_DATE_EPOCH is given as build argument, and for mtime=commit.
	CommitTimes bool
}

// Repository is a tree in a git repository whose commit is known.
type Repository struct {
	// Remote is where it is, without password.
	Remote string
	// Ref is the full reference that was found, or the commit id that was asked for.
	Ref string
	// Commit is the id of the commit. It is that of an annotated tag if Ref is one and .git is kept, or
	// if it was asked for by that id.
	Commit string
	// Key is the tree's identity for a cache key: the commit and everything in the request that changes the files.
	Key string

	c      *Client
	req    GitRequest
	remote remote
	object string // what Ref points to: the tag object if it is one
}

// resolvedRef is what a server says about a reference.
type resolvedRef struct {
	name   string // in full
	object string
	peeled string // the commit of an annotated tag, or ""
}

// defaultBranch finds the branch in the first line of git ls-remote --symref.
var defaultBranch = regexp.MustCompile(`(?m)^ref: (refs/heads/\S+)\tHEAD$`)

var hexOnly = regexp.MustCompile(`^[a-fA-F0-9]+$`)

// isCommit says whether s is a whole object id, SHA-1 or SHA-256.
func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && hexOnly.MatchString(s) && strings.ToLower(s) == s
}

// checkRef refuses what git could take for something else than a reference (git-check-ref-format(1)).
func checkRef(ref string) error {
	if strings.HasPrefix(ref, "-") || strings.ContainsAny(ref, " ~^:?*[\\\x7f") || strings.Contains(ref, "..") || strings.Contains(ref, "@{") ||
		strings.ContainsFunc(ref, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("invalid git ref %q", ref)
	}
	return nil
}

// Git resolves a reference to a commit, without fetching it. It asks the server, but for a commit id,
// and for the same reference only once. Errors are worded as BuildKit's: "repository
// does not contain ref …", "expected checksum to match …".
func (c *Client) Git(ctx context.Context, req GitRequest) (*Repository, error) {
	rem, err := parseRemote(req.Remote)
	if err != nil {
		return nil, err
	}
	if err := c.checkGitRequest(req, rem); err != nil {
		return nil, err
	}
	r := &Repository{Remote: rem.shown, c: c, req: req, remote: rem}
	switch {
	case isCommit(req.Ref):
		if !strings.HasPrefix(req.Ref, req.Checksum) {
			return nil, fmt.Errorf("expected checksum to match %s, got %s", req.Checksum, req.Ref)
		}
		r.Ref, r.Commit, r.object = req.Ref, req.Ref, req.Ref
	case req.FetchByCommit:
		r.Ref, r.Commit, r.object = req.Ref, req.Checksum, req.Checksum
		if r.Ref == "" {
			r.Ref = req.Checksum
		} else if !strings.HasPrefix(r.Ref, "refs/") {
			r.Ref = "refs/heads/" + r.Ref
		}
	default:
		ref, err := c.lookup(ctx, rem, req.Ref)
		if err != nil {
			return nil, err
		}
		if err := ref.check(req.Checksum); err != nil {
			return nil, err
		}
		r.Ref, r.Commit, r.object = ref.name, ref.object, ref.object
		if ref.peeled != "" && !req.KeepGitDir {
			r.Commit = ref.peeled
		}
	}
	r.Key = r.key()
	return r, nil
}

func (c *Client) checkGitRequest(req GitRequest, rem remote) error {
	if err := checkRef(req.Ref); err != nil {
		return err
	}
	if req.Checksum != "" && !hexOnly.MatchString(req.Checksum) {
		return fmt.Errorf("invalid checksum %s for Git URL, expected hex commit hash", req.Checksum)
	}
	if req.FetchByCommit && !isCommit(req.Ref) {
		if req.Checksum == "" {
			return errors.New("fetch-by-commit requires a checksum or a commit SHA ref")
		}
		if !isCommit(req.Checksum) {
			return fmt.Errorf("fetch-by-commit requires a full commit SHA checksum, got %q", req.Checksum)
		}
	}
	ssh := !rem.http && !strings.HasPrefix(rem.url, "git://")
	if ssh && c.opt.SSH == nil {
		return fmt.Errorf("fetching %s: no SSH key %q forwarded from the client", rem.shown, "default")
	}
	return nil
}

// check compares the ids with the beginning that they must have.
func (r resolvedRef) check(checksum string) error {
	if strings.HasPrefix(r.object, checksum) || r.peeled != "" && strings.HasPrefix(r.peeled, checksum) {
		return nil
	}
	got := r.object
	if r.peeled != "" {
		got += " or " + r.peeled
	}
	return fmt.Errorf("expected checksum to match %s, got %s", checksum, got)
}

// key is the identity of the files: of the same commit, all references give the same ones unless .git is kept.
func (r *Repository) key() string {
	key := r.Commit
	if r.keepsGitDir() {
		key += ".git#" + r.Ref + "@" + r.Remote // .git/config holds it
	}
	if sub := cleanSubdir(r.req.Subdir); sub != "" {
		key += ":" + sub
	}
	if r.req.SkipSubmodules {
		key += "(skip-submodules)"
	}
	if r.req.CommitTimes {
		key += "(mtime=commit)"
	}
	return key
}

// lookup asks the server what ref is, once in the life of a client.
func (c *Client) lookup(ctx context.Context, rem remote, ref string) (resolvedRef, error) {
	id := rem.url + "\x00" + rem.basic + "\x00" + ref
	c.mu.Lock()
	known, ok := c.refs[id]
	c.mu.Unlock()
	if ok {
		return known, nil
	}
	g, err := c.newGit(rem)
	if err != nil {
		return resolvedRef{}, err
	}
	found, err := g.lookup(ctx, rem, ref)
	if err != nil {
		return resolvedRef{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.refs[id]; ok {
		return known, nil // somebody was faster; all must see the same
	}
	c.refs[id] = found
	return found, nil
}

func (g *git) lookup(ctx context.Context, rem remote, ref string) (resolvedRef, error) {
	if ref == "" {
		out, err := g.run(ctx, g.home, "ls-remote", "--symref", "--", rem.url, "HEAD")
		if err != nil {
			return resolvedRef{}, fmt.Errorf("error fetching default branch for repository %s: %w", rem.shown, err)
		}
		m := defaultBranch.FindStringSubmatch(out)
		if m == nil {
			return resolvedRef{}, fmt.Errorf("could not find default branch for repository: %s", rem.shown)
		}
		if err := checkRef(m[1]); err != nil {
			return resolvedRef{}, err
		}
		return pick(out+strings.ReplaceAll(out, "\tHEAD", "\t"+m[1]), m[1])
	}
	out, err := g.run(ctx, g.home, "ls-remote", "--", rem.url, ref, ref+"^{}")
	if err != nil {
		return resolvedRef{}, fmt.Errorf("failed to fetch remote %s: %w", rem.shown, err)
	}
	return pick(out, ref)
}

// pick chooses among the lines of git ls-remote as git checkout does: the name as it is, a branch, a tag.
func pick(out, ref string) (resolvedRef, error) {
	ids := map[string]string{}
	for line := range strings.Lines(out) {
		if id, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			ids[name] = id
		}
	}
	tag := "refs/tags/" + strings.TrimPrefix(ref, "refs/tags/")
	for _, name := range []string{"refs/" + strings.TrimPrefix(ref, "refs/"), "refs/heads/" + strings.TrimPrefix(ref, "refs/heads/"), tag} {
		id := ids[name]
		if id == "" {
			continue
		}
		if !isCommit(id) {
			return resolvedRef{}, fmt.Errorf("invalid commit sha %q", id)
		}
		found := resolvedRef{name: name, object: id}
		if peeled := ids[name+"^{}"]; name == tag && isCommit(peeled) {
			found.peeled = peeled
		}
		return found, nil
	}
	return resolvedRef{}, fmt.Errorf("repository does not contain ref %s, output: %q", ref, out[:min(len(out), 1<<10)])
}
