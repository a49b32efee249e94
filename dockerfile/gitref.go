package dockerfile

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// GitRef is what a git URL of ADD or of a build context says.
type GitRef struct {
	Remote string // what git is to be given
	Ref    string // a branch, a tag, a commit or a full reference; empty is the repository's HEAD
	Subdir string // the folder that counts; empty is all
	Commit string // the commit, or the start of one, that Ref must be; empty is any
	// KeepGitDir says whether .git stays; nil is not said. In a Remote, a --keep-git-dir is already in it.
	KeepGitDir *bool
	// Submodules says whether submodules are fetched; nil is not said, which means yes.
	Submodules *bool
	// FetchByCommit: Commit is asked for by its name, so that Ref need not reach it.
	FetchByCommit bool
	// MTime is what the times of files are: "checkout", "commit", or empty for the default. ADD does not look at it.
	MTime string
	// UnencryptedTCP: git:// or http://, so anyone on the way may change what comes.
	UnencryptedTCP bool
	// MaybeLocal: "github.com/OWNER/NAME", which could as well be a folder. Only a build context may say it so. Remote has no scheme then.
	MaybeLocal bool
}

var (
	urlScheme = regexp.MustCompile(`^[a-zA-Z0-9]+://`)
	scpLike   = regexp.MustCompile(`^([a-zA-Z0-9-_]+)@([a-zA-Z0-9-.]+):(.*?)(?:\?(.*?))?(?:#(.*))?$`)
)

// ParseGitRef reads the URL of a git repository: git://, ssh://, one like scp's arguments, or http(s):// with a path that ends in ".git",
// and after it "#REF:SUBDIR" or a query (ref, tag, branch, subdir, commit, checksum, keep-git-dir, submodules, mtime, fetch-by-commit).
// What is none gives nil. An error says what is wrong with one that is.
func ParseGitRef(s string) (*GitRef, error) {
	u, maybeLocal := gitURL(s)
	if u == nil {
		return nil, nil
	}
	r := &GitRef{MaybeLocal: maybeLocal, UnencryptedTCP: u.scheme == "http" || u.scheme == "git", Remote: u.remote}
	if u.fragment != "" {
		ref, subdir, _ := strings.Cut(u.fragment, ":")
		r.Ref, r.Subdir = ref, path.Join("/", subdir)[1:]
	}
	if err := r.readQuery(u.query); err != nil {
		return nil, err
	}
	return r, nil
}

// repository is a URL of git in its parts.
type repository struct {
	scheme, remote, fragment string
	query                    url.Values
}

// gitURL takes a git URL apart. It gives nil for what is none.
func gitURL(s string) (u *repository, maybeLocal bool) {
	if strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") {
		return nil, false
	}
	maybeLocal = strings.HasPrefix(s, "github.com/")
	if m := scpLike.FindStringSubmatch(s); m != nil && !maybeLocal && !urlScheme.MatchString(s) {
		query, err := url.ParseQuery(m[4])
		if err != nil {
			return nil, false
		}
		return &repository{scheme: "ssh", remote: m[1] + "@" + m[2] + ":" + m[3], query: query, fragment: m[5]}, false
	}
	if !maybeLocal && !urlScheme.MatchString(s) {
		return nil, false
	}
	parsed, err := url.Parse(s)
	if err != nil {
		return nil, false
	}
	switch parsed.Scheme {
	case "git", "ssh":
	case "http", "https":
		if !strings.HasSuffix(parsed.Path, ".git") {
			return nil, false
		}
	case "":
		if !maybeLocal {
			return nil, false
		}
	default:
		return nil, false
	}
	u = &repository{scheme: parsed.Scheme, query: parsed.Query(), fragment: parsed.Fragment}
	parsed.Fragment, parsed.RawFragment, parsed.RawQuery = "", "", ""
	u.remote = parsed.String()
	return u, maybeLocal
}

// readQuery reads the query of a URL, as in https://example.org/r.git?ref=main&subdir=a.
func (r *GitRef) readQuery(query url.Values) error {
	var tag, branch string
	for _, k := range slices.Sorted(maps.Keys(query)) {
		v := query[k]
		if len(v) > 1 {
			return fmt.Errorf("query %q has multiple values", k)
		}
		value, empty := v[0], v[0] == ""
		if empty && !slices.Contains([]string{"submodules", "keep-git-dir", "fetch-by-commit"}, k) {
			return fmt.Errorf("query %q has no value", k)
		}
		switch k {
		case "tag":
			tag = value
		case "branch":
			branch = value
		default:
			if err := r.readOption(k, value); err != nil {
				return err
			}
		}
	}
	if tag != "" && branch != "" {
		return errors.New("branch conflicts with tag")
	}
	for _, named := range []struct{ prefix, name string }{{"refs/tags/", tag}, {"refs/heads/", branch}} {
		if named.name == "" {
			continue
		}
		if err := setOnce(&r.Ref, "ref", named.prefix+strings.TrimPrefix(named.name, named.prefix)); err != nil {
			return err
		}
	}
	return nil
}

// readOption reads one parameter of the query but tag and branch.
func (r *GitRef) readOption(k, v string) error {
	switch k {
	case "ref":
		return setOnce(&r.Ref, "ref", v)
	case "subdir":
		return setOnce(&r.Subdir, "subdir", v)
	case "checksum", "commit":
		return setOnce(&r.Commit, "checksum", v)
	case "mtime":
		if v != "checkout" && v != "commit" {
			return fmt.Errorf(`invalid mtime value: %q (must be "checkout" or "commit")`, v)
		}
		r.MTime = v
		return nil
	case "keep-git-dir", "submodules", "fetch-by-commit":
		on, err := true, error(nil)
		if v != "" {
			on, err = strconv.ParseBool(v)
		}
		if err != nil {
			return fmt.Errorf("invalid %s value: %q", k, v)
		}
		switch k {
		case "keep-git-dir":
			r.KeepGitDir = &on
		case "submodules":
			r.Submodules = &on
		default:
			r.FetchByCommit = on
		}
		return nil
	}
	return fmt.Errorf("unexpected query %q", k)
}

// setOnce sets what may be said twice, but not in two ways.
func setOnce(field *string, name, value string) error {
	if *field != "" && *field != value {
		return fmt.Errorf("%s conflicts: %q vs %q", name, *field, value)
	}
	*field = value
	return nil
}

// isGit says whether a source of ADD or COPY is a git repository, right or wrong.
func isGit(src string) bool {
	u, maybeLocal := gitURL(src)
	return u != nil && !maybeLocal
}

// isHTTP says whether a source is a URL of one file.
func isHTTP(src string) bool {
	return (strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://")) && !isGit(src)
}

// fileName is what a file from a URL is called.
func fileName(src string) string {
	if u, err := url.Parse(src); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			return base
		}
	}
	return "__unnamed__"
}

// remotes are those of the sources of ADD that are fetched.
func remotes(c *Copy) ([]Remote, error) {
	var list []Remote
	for i, src := range c.Sources {
		switch {
		case isHTTP(src):
			if c.Checksum != "" {
				if err := checkDigest(c.Checksum); err != nil {
					return nil, err
				}
			}
			list = append(list, Remote{Index: i, URL: src, Name: fileName(src)})
		case isGit(src):
			ref, err := ParseGitRef(src)
			if err != nil {
				return nil, err
			}
			if c.KeepGitDir != nil && ref.KeepGitDir != nil && *c.KeepGitDir != *ref.KeepGitDir {
				return nil, errors.New("inconsistent keep-git-dir configuration")
			}
			if ref.KeepGitDir == nil {
				ref.KeepGitDir = c.KeepGitDir
			}
			if c.Checksum != "" && ref.Commit != "" && c.Checksum != ref.Commit {
				return nil, fmt.Errorf("checksum mismatch %q != %q", c.Checksum, ref.Commit)
			}
			if ref.Commit == "" {
				ref.Commit = c.Checksum
			}
			list = append(list, Remote{Index: i, URL: src, Git: ref})
		}
	}
	return list, nil
}

var digestForm = regexp.MustCompile(`^[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$`)

// checkDigest refuses what is not ALGORITHM:HEX of a digest that is known (OCI image specification, descriptor.md, "digests").
func checkDigest(s string) error {
	algorithm, hex, ok := strings.Cut(s, ":")
	size, known := map[string]int{"sha256": 64, "sha384": 96, "sha512": 128}[algorithm]
	switch {
	case !ok || !digestForm.MatchString(s):
		return errors.New("invalid checksum digest format")
	case !known:
		return errors.New("unsupported digest algorithm")
	case len(hex) != size:
		return errors.New("invalid checksum digest length")
	case strings.Trim(hex, "0123456789abcdef") != "":
		return errors.New("invalid checksum digest format")
	}
	return nil
}
