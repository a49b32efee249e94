package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// needGit skips the test where there is no git, but fails where tests must not be skipped.
func needGit(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("git")
	if err != nil {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal("git is required")
		}
		t.Skip("no git")
	}
	return program
}

// when is the time of all commits.
const when = 1577934245

// runGit runs git in dir.
func runGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(needGit(t), args...)
	cmd.Dir = dir
	stamp := fmt.Sprintf("%d +0000", when)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=" + stamp, "GIT_COMMITTER_DATE=" + stamp, "GIT_ALLOW_PROTOCOL=file:http:ext",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// forge is a server of repositories, and what it was asked.
type forge struct {
	dir, url string

	mu     sync.Mutex // guards what follows
	anySHA bool       // gives every object by its id
	auth   string     // what the header Authorization must be, if not ""
	posts  int        // fetches and, with protocol 2, listings
}

func newForge(t *testing.T) *forge {
	t.Helper()
	f := &forge{dir: t.TempDir(), anySHA: true}
	program := needGit(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		auth, anySHA := f.auth, f.anySHA
		f.mu.Unlock()
		if auth != "" && r.Header.Get("Authorization") != auth {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodPost {
			f.mu.Lock()
			f.posts++
			f.mu.Unlock()
		}
		if path, ok := strings.CutPrefix(r.URL.Path, "/dumb/"); ok {
			http.ServeFile(w, r, filepath.Join(f.dir, filepath.Clean("/"+path)))
			return
		}
		if path, ok := strings.CutPrefix(r.URL.Path, "/moved/"); ok {
			http.Redirect(w, r, "/"+path+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
			return
		}
		env := []string{
			"GIT_PROJECT_ROOT=" + f.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_COUNT=2",
			"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
			"GIT_CONFIG_KEY_1=uploadpack.allowAnySHA1InWant", fmt.Sprintf("GIT_CONFIG_VALUE_1=%v", anySHA),
		}
		if !anySHA {
			r.Header.Del("Git-Protocol") // version 2 always gives what is asked for
		}
		if p := r.Header.Get("Git-Protocol"); p != "" {
			env = append(env, "GIT_PROTOCOL="+p)
		}
		(&cgi.Handler{Path: program, Args: []string{"http-backend"}, Env: env, Dir: f.dir, Stderr: os.Stderr}).ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	f.url = s.URL
	return f
}

// set changes how the server behaves from now on.
func (f *forge) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// tree is the folder in which the repository name is made; it is served as name/.git.
func (f *forge) tree(name string) string { return filepath.Join(f.dir, name) }

// repo makes a repository of files, on the branch main, with the tag v1 and the annotated tag v2.
func (f *forge) repo(t *testing.T, name string, files map[string]string, init ...string) string {
	t.Helper()
	dir := f.tree(name)
	runGit(t, f.dir, append(append([]string{"init", "-q", "-b", "main"}, init...), dir)...)
	f.commit(t, name, files)
	runGit(t, dir, "tag", "v1")
	runGit(t, dir, "tag", "-a", "-m", "two", "v2")
	return f.url + "/" + name + "/.git"
}

// commit adds files: "-> x" is a symbolic link, "#!" begins an executable.
func (f *forge) commit(t *testing.T, name string, files map[string]string) string {
	t.Helper()
	for file, text := range files {
		path := filepath.Join(f.tree(name), file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	runGit(t, f.tree(name), "add", "-A")
	runGit(t, f.tree(name), "commit", "-q", "--allow-empty", "-m", "more")
	return runGit(t, f.tree(name), "rev-parse", "HEAD")
}

func (f *forge) fetches() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.posts
	f.posts = 0
	return n
}

// list is what is in dir, but for .git.
func list(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if rel == ".git" {
			out = append(out, ".git")
			return filepath.SkipDir
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o", rel, fi.Mode().Perm())
		switch {
		case fi.Mode()&os.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			line = rel + " -> " + target
		case fi.Mode().IsRegular():
			b, _ := os.ReadFile(p)
			line += " " + strings.TrimSpace(string(b))
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, ", ")
}

func checkout(t *testing.T, c *Client, req GitRequest) (*Repository, string) {
	t.Helper()
	r, err := c.Git(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := r.Checkout(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return r, dir
}

func gitErr(t *testing.T, c *Client, req GitRequest) error {
	t.Helper()
	parent := t.TempDir()
	r, err := c.Git(t.Context(), req)
	if err == nil {
		err = r.Checkout(t.Context(), filepath.Join(parent, "out"))
	}
	if err == nil {
		t.Fatalf("no error; there is: %s", list(t, parent))
	}
	if got := list(t, parent); got != "" {
		t.Errorf("left behind: %s", got)
	}
	return err
}

func TestGitRefs(t *testing.T) {
	for _, format := range []string{"sha1", "sha256"} {
		t.Run(format, func(t *testing.T) {
			f := newForge(t)
			url := f.repo(t, "r", map[string]string{"a": "a", "run": "#!x", "sub/f": "f", "link": "-> a"}, "--object-format="+format)
			first := runGit(t, f.tree("r"), "rev-parse", "HEAD")
			second := f.commit(t, "r", map[string]string{"b": "b"})
			tag := runGit(t, f.tree("r"), "rev-parse", "v2")
			runGit(t, f.tree("r"), "branch", "topic/x", "HEAD~1")
			runGit(t, f.tree("r"), "tag", "main2", "HEAD~1")
			runGit(t, f.tree("r"), "branch", "main2")
			runGit(t, f.tree("r"), "update-ref", "refs/pull/1/head", "HEAD~1")
			cached := t.TempDir()
			old := "a 644 a, link -> a, run 755 #!x, sub 755, sub/f 644 f"
			now := "a 644 a, b 644 b, link -> a, run 755 #!x, sub 755, sub/f 644 f"
			for _, tt := range []struct{ ref, full, commit, files string }{
				{"", "refs/heads/main", second, now},
				{"main", "refs/heads/main", second, now},
				{"refs/heads/main", "refs/heads/main", second, now},
				{"heads/main", "refs/heads/main", second, now},
				{"topic/x", "refs/heads/topic/x", first, old},
				{"v1", "refs/tags/v1", first, old},
				{"refs/tags/v1", "refs/tags/v1", first, old},
				{"v2", "refs/tags/v2", first, old},
				{"main2", "refs/heads/main2", second, now},
				{"refs/pull/1/head", "refs/pull/1/head", first, old},
				{"pull/1/head", "refs/pull/1/head", first, old},
				{first, first, first, old},
				{second, second, second, now},
				{tag, tag, tag, old},
			} {
				for _, keep := range []bool{false, true} {
					opt := Options{Dir: cached}
					if format == "sha1" && !keep {
						opt.Dir = "" // nothing is there yet
					}
					r, dir := checkout(t, client(t, opt), GitRequest{Remote: url, Ref: tt.ref, KeepGitDir: keep})
					want, commit := tt.files, tt.commit
					if keep {
						want = ".git, " + want
						if tt.ref == "v2" {
							commit = tag
						}
					}
					if r.Ref != tt.full || r.Commit != commit || list(t, dir) != want {
						t.Errorf("%q: %s is %s: %s", tt.ref, r.Ref, r.Commit, list(t, dir))
					}
					if keep {
						if got := runGit(t, dir, "status", "--porcelain"); got != "" {
							t.Errorf("%q: the kept repository says %s", tt.ref, got)
						}
						if got := runGit(t, dir, "log", "--format=%H"); strings.Contains(got, "\n") {
							t.Errorf("%q: there is more than one commit", tt.ref)
						}
					}
				}
			}
			sub, dir := checkout(t, client(t, Options{}), GitRequest{Remote: url, Ref: "v1", Subdir: "/sub/../sub/", KeepGitDir: true})
			if got := list(t, dir); got != "f 644 f" || sub.Key != first+":sub" {
				t.Errorf("the folder has %s; its key is %s", got, sub.Key)
			}
		})
	}
}

func TestGitCache(t *testing.T) {
	f := newForge(t)
	url := f.repo(t, "r", map[string]string{"a": "a"})
	dir := t.TempDir()
	first, _ := checkout(t, client(t, Options{Dir: dir}), GitRequest{Remote: url, Ref: "main"})
	f.fetches()
	checkout(t, client(t, Options{Dir: dir}), GitRequest{Remote: url, Ref: first.Commit})
	if n := f.fetches(); n != 0 {
		t.Errorf("a known commit made %d requests", n)
	}
	second := f.commit(t, "r", map[string]string{"b": "b"})
	r, out := checkout(t, client(t, Options{Dir: dir}), GitRequest{Remote: url, Ref: "main"})
	if got := list(t, out); got != "a 644 a, b 644 b" || r.Commit != second {
		t.Errorf("after a commit: %s", got)
	}
	// What was resolved stays, though the branch moves before the files are fetched, and even though it was rewritten.
	c := client(t, Options{})
	r, err := c.Git(t.Context(), GitRequest{Remote: url, Ref: "main"})
	if err != nil {
		t.Fatal(err)
	}
	runGit(t, f.tree("r"), "commit", "-q", "--amend", "--allow-empty", "-m", "rewritten")
	f.commit(t, "r", map[string]string{"c": "c"})
	out = filepath.Join(t.TempDir(), "out")
	if err := r.Checkout(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	if got := list(t, out); got != "a 644 a, b 644 b" {
		t.Errorf("after the branch moved: %s", got)
	}
	// A cached repository that is broken is made again.
	for _, broken := range []string{"HEAD", "objects/[0-9a-f][0-9a-f]/*", "refs"} {
		files, _ := filepath.Glob(filepath.Join(dir, "git", "*", "repo", broken))
		for _, name := range files {
			if err := os.RemoveAll(name); err != nil {
				t.Fatal(err)
			}
			if broken != "refs" {
				os.WriteFile(name, nil, 0o600)
			}
		}
		if len(files) == 0 {
			t.Errorf("there is no %s", broken)
		}
		checkout(t, client(t, Options{Dir: dir}), GitRequest{Remote: url, Ref: "v2", KeepGitDir: true})
		checkout(t, client(t, Options{Dir: dir}), GitRequest{Remote: url, Ref: "v1"})
	}
}

func TestGitServers(t *testing.T) {
	f := newForge(t)
	f.repo(t, "r", map[string]string{"a": "a"})
	old := runGit(t, f.tree("r"), "rev-parse", "HEAD~0")
	for i := range 3 {
		old2 := f.commit(t, "r", map[string]string{"b": fmt.Sprint(i)})
		if i == 0 {
			old = old2
		}
	}
	runGit(t, f.tree("r"), "repack", "-a", "-d", "-q")
	runGit(t, f.tree("r"), "update-server-info")
	f.set(func() { f.anySHA = false })
	for _, url := range []string{f.url + "/r/.git", f.url + "/dumb/r/.git", f.url + "/moved/r/.git"} {
		for ref, want := range map[string]string{"main": "a 644 a, b 644 2", "": "a 644 a, b 644 2", "v2": "a 644 a", old: "a 644 a, b 644 0"} {
			if _, dir := checkout(t, client(t, Options{}), GitRequest{Remote: url, Ref: ref}); list(t, dir) != want {
				t.Errorf("%s#%s: %s", url, ref, list(t, dir))
			}
		}
	}
	absent := strings.Repeat("0123456789", 4)
	if err := gitErr(t, client(t, Options{}), GitRequest{Remote: f.url + "/r/.git", Ref: absent}); !strings.Contains(err.Error(), absent) {
		t.Errorf("a commit that is not there: %v", err)
	}
}

func TestGitErrors(t *testing.T) {
	f := newForge(t)
	url := f.repo(t, "r", map[string]string{"a": "a", "d/f": "f", "out": "-> /etc", "in": "-> d"})
	commit := runGit(t, f.tree("r"), "rev-parse", "HEAD")
	for want, req := range map[string]GitRequest{
		"repository does not contain ref nosuchref": {Remote: url, Ref: "nosuchref"},
		"nosuchdir":                                              {Remote: url, Subdir: "nosuchdir"},
		`"out" contains non-directory "out"`:                     {Remote: url, Subdir: "out"},
		`"in" contains non-directory "in"`:                       {Remote: url, Subdir: "x/../in"},
		`contains non-directory "a"`:                             {Remote: url, Subdir: "a"},
		"expected checksum to match abc, got " + commit:          {Remote: url, Ref: "main", Checksum: "abc"},
		"expected checksum to match abd, got " + commit:          {Remote: url, Ref: commit, Checksum: "abd"},
		"invalid checksum x for Git URL, expected hex":           {Remote: url, Checksum: "x"},
		"invalid git ref":                                        {Remote: url, Ref: "--upload-pack=touch /tmp/x"},
		"fetch-by-commit requires a checksum":                    {Remote: url, Ref: "main", FetchByCommit: true},
		"fetch-by-commit requires a full commit":                 {Remote: url, FetchByCommit: true, Checksum: "abc"},
		`invalid git remote "--upload-pack=x"`:                   {Remote: "--upload-pack=x"},
		`protocol "file"`:                                        {Remote: "file://" + f.tree("r")},
		`invalid git remote "ext::sh`:                            {Remote: "ext::sh -c true"},
		`invalid git remote "/`:                                  {Remote: f.tree("r")},
		`no SSH key "default" forwarded`:                         {Remote: "git@127.0.0.1:x.git"},
		`fetching ssh://git@h/x: no SSH key`:                     {Remote: "ssh://git:hush@h/x"},
		"invalid git remote: net/url: invalid control character": {Remote: "http://h/\x01"},
		"failed to fetch remote " + f.url + "/none":              {Remote: f.url + "/none", Ref: "x"},
	} {
		err := gitErr(t, client(t, Options{}), req)
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%+v: got %v, want %s", req, err, want)
		}
	}
	tag := runGit(t, f.tree("r"), "rev-parse", "v2")
	for _, req := range []GitRequest{
		{Remote: url, Ref: "v2", Checksum: tag[:8]},
		{Remote: url, Ref: "v2", Checksum: commit[:8]},
		{Remote: url, Ref: "nowhere", Checksum: commit, FetchByCommit: true},
		{Remote: url, Ref: commit, Checksum: commit},
	} {
		checkout(t, client(t, Options{}), req)
		req.KeepGitDir = true
		checkout(t, client(t, Options{}), req)
	}
	err := gitErr(t, client(t, Options{Path: t.TempDir()}), GitRequest{Remote: url})
	if !strings.Contains(err.Error(), "the program git is needed") {
		t.Errorf("without git: %v", err)
	}
}

func TestGitAuth(t *testing.T) {
	f := newForge(t)
	url := f.repo(t, "r", map[string]string{"a": "a"})
	host := strings.TrimPrefix(f.url, "http://")
	token := "basic eC1hY2Nlc3MtdG9rZW46aHVzaA==" // x-access-token:hush
	f.set(func() { f.auth = token })
	with := func(kv ...string) *Client {
		return client(t, Options{Secret: func(id string) (string, bool, error) {
			if i := slices.Index(kv, id); i >= 0 {
				return kv[i+1], true, nil
			}
			return "", false, nil
		}})
	}
	checkout(t, with("GIT_AUTH_TOKEN", "hush\n"), GitRequest{Remote: url})
	checkout(t, with("GIT_AUTH_TOKEN", "wrong", "GIT_AUTH_TOKEN."+host, "hush"), GitRequest{Remote: url})
	checkout(t, with("GIT_AUTH_HEADER", token, "GIT_AUTH_TOKEN", "wrong"), GitRequest{Remote: url})
	inURL := strings.Replace(url, "//", "//x-access-token:hush@", 1)
	r, dir := checkout(t, with(), GitRequest{Remote: inURL, KeepGitDir: true})
	config, err := os.ReadFile(filepath.Join(dir, ".git", "config"))
	if err != nil || strings.Contains(string(config)+r.Key+r.Remote, "hush") || !strings.Contains(string(config), url) {
		t.Errorf("the kept configuration is %s (%v)", config, err)
	}
	for _, c := range []*Client{with(), with("GIT_AUTH_TOKEN", "hush2")} {
		err := gitErr(t, c, GitRequest{Remote: strings.Replace(url, "//", "//me:hush2@", 1)})
		if strings.Contains(err.Error(), "hush") {
			t.Errorf("the secret is in %v", err)
		}
	}
	// Credentials are not for who is redirected to.
	got := ""
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got += r.Header.Get("Authorization")
		w.WriteHeader(http.StatusNotFound)
	}))
	defer other.Close()
	front := httptest.NewServer(http.RedirectHandler(other.URL+"/r/.git/info/refs?service=git-upload-pack", http.StatusFound))
	defer front.Close()
	gitErr(t, with("GIT_AUTH_TOKEN", "hush"), GitRequest{Remote: front.URL + "/r/.git"})
	if got != "" {
		t.Errorf("another host saw %s", got)
	}
}

func TestGitSubmodules(t *testing.T) {
	for _, anySHA := range []bool{true, false} {
		f := newForge(t)
		inner := f.repo(t, "inner", map[string]string{"deep": "deep"})
		outer := f.repo(t, "outer", map[string]string{"o": "o"})
		runGit(t, f.tree("outer"), "submodule", "--quiet", "add", inner, "in")
		f.commit(t, "outer", nil)
		f.commit(t, "inner", map[string]string{"deep": "deeper"}) // what is wanted is not the newest
		url := f.repo(t, "r", map[string]string{"a": "a", "sub/f": "f"})
		runGit(t, f.tree("r"), "submodule", "--quiet", "add", outer, "sub/mod")
		runGit(t, f.tree("r"), "config", "-f", ".gitmodules", "submodule.sub/mod.url", "../../outer/.git")
		f.commit(t, "r", nil)
		f.set(func() { f.anySHA = anySHA })
		req := GitRequest{Remote: url}
		if _, dir := checkout(t, client(t, Options{}), req); !strings.HasSuffix(list(t, dir),
			"sub/f 644 f, sub/mod 755, sub/mod/.gitmodules 644 "+strings.TrimSpace(read(t, filepath.Join(f.tree("outer"), ".gitmodules")))+
				", sub/mod/in 755, sub/mod/in/deep 644 deep, sub/mod/o 644 o") {
			t.Errorf("the tree is %s", list(t, dir))
		}
		req.Subdir = "sub/mod/in"
		if _, dir := checkout(t, client(t, Options{}), req); list(t, dir) != "deep 644 deep" {
			t.Errorf("in a submodule: %s", list(t, dir))
		}
		req.Subdir, req.KeepGitDir = "", true
		_, dir := checkout(t, client(t, Options{}), req)
		got := runGit(t, dir, "submodule", "status", "--recursive")
		for line := range strings.Lines(got) {
			if strings.ContainsAny(line[:1], "-+U") {
				t.Errorf("the kept submodules are %s", got)
			}
		}
		if strings.Count(got, "\n") != 1 {
			t.Errorf("the kept submodules are %s", got)
		}
		_ = filepath.WalkDir(filepath.Join(dir, ".git"), func(p string, d fs.DirEntry, err error) error {
			if b, _ := os.ReadFile(p); strings.Contains(string(b), "/git-checkout") || strings.Contains(string(b), "/git/") {
				t.Errorf("%s names a path of this machine: %s", p, b)
			}
			return err
		})
		req.SkipSubmodules = true
		r, dir := checkout(t, client(t, Options{}), req)
		if got := list(t, filepath.Join(dir, "sub", "mod")); got != "" || !strings.HasSuffix(r.Key, "(skip-submodules)") {
			t.Errorf("without submodules: %s, key %s", got, r.Key)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestGitHostile is about repositories that want more than to be checked out.
func TestGitHostile(t *testing.T) {
	f := newForge(t)
	mark := filepath.Join(t.TempDir(), "mark")
	url := f.repo(t, "filters", map[string]string{
		".gitattributes":              "* filter=evil diff=evil merge=evil text eol=crlf\n",
		"a":                           "a\n",
		".githooks/post-checkout":     "#!/bin/sh\ntouch " + mark,
		"hooks/post-checkout":         "#!/bin/sh\ntouch " + mark,
		".gitconfig":                  "[core]\n\thooksPath = .githooks\n[filter \"evil\"]\n\tsmudge = touch " + mark,
		".git-checkout-x/config":      "x",
		"home/.gitconfig":             "x",
		"objects/info/alternates":     "/etc",
		"info/grafts":                 "x",
		"a file with \n newline \"'$": "x",
	})
	checkout(t, client(t, Options{}), GitRequest{Remote: url})
	if _, err := os.Stat(mark); err == nil {
		t.Error("something of the repository ran")
	}
	f.repo(t, "secret", map[string]string{"secret": "secret"})
	for name, sub := range map[string]string{
		"file": "file://" + f.tree("secret"), "path": f.tree("secret"), "ext": "ext::sh -c touch% " + mark, "option": "-u./x", "ssh": "ssh://-oProxyCommand=x/y",
	} {
		url := f.repo(t, name, map[string]string{"a": "a"})
		dir := f.tree(name)
		runGit(t, dir, "update-index", "--add", "--cacheinfo", "160000,"+runGit(t, f.tree("secret"), "rev-parse", "HEAD")+",mod")
		runGit(t, dir, "config", "-f", ".gitmodules", "submodule.mod.path", "mod")
		runGit(t, dir, "config", "-f", ".gitmodules", "submodule.mod.url", sub)
		runGit(t, dir, "add", ".gitmodules")
		runGit(t, dir, "commit", "-q", "-m", "evil")
		gitErr(t, client(t, Options{}), GitRequest{Remote: url})
		checkout(t, client(t, Options{}), GitRequest{Remote: url, SkipSubmodules: true})
		if _, err := os.Stat(mark); err == nil {
			t.Errorf("%s: something of the repository ran", name)
		}
	}
}

func TestGitUmaskAndTimes(t *testing.T) {
	f := newForge(t)
	url := f.repo(t, "r", map[string]string{"a": "a", "run": "#!x", "d/f": "f", "l": "-> a"})
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for _, keep := range []bool{false, true} {
		r, dir := checkout(t, client(t, Options{}), GitRequest{Remote: url, CommitTimes: true, KeepGitDir: keep})
		if got := strings.TrimPrefix(list(t, dir), ".git, "); got != "a 644 a, d 755, d/f 644 f, l -> a, run 755 #!x" {
			t.Errorf("got %s", got)
		}
		if !strings.HasSuffix(r.Key, "(mtime=commit)") {
			t.Errorf("the key is %s", r.Key)
		}
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, _ error) error {
			fi, err := d.Info()
			if err != nil || fi.ModTime().Unix() != when || fi.IsDir() && fi.Mode().Perm() != 0o755 {
				t.Errorf("%s: %v (%v)", p, fi, err)
			}
			return nil
		})
		at, err := r.CommitTime(t.Context())
		if err != nil || at.Unix() != when {
			t.Errorf("the commit was made at %v (%v)", at, err)
		}
	}
}

func TestGitSSH(t *testing.T) {
	f := newForge(t)
	f.repo(t, "r", map[string]string{"a": "a"})
	tools := t.TempDir()
	noted := filepath.Join(tools, "noted")
	script := "#!/bin/sh\necho \"$SSH_AUTH_SOCK $HOME $@\" >>" + noted + "\nfor last; do :; done\nexec sh -c \"$last\"\n"
	if err := os.WriteFile(filepath.Join(tools, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	opt := Options{Dir: dir, Path: tools + ":" + os.Getenv("PATH"), SSH: &SSH{AuthSock: "/run/agent's"}}
	runGit(t, f.tree("r"), "config", "uploadpack.allowAnySHA1InWant", "true")
	for _, remote := range []string{"git@host:" + f.tree("r"), "ssh://git:hush@host:22" + f.tree("r")} {
		if _, out := checkout(t, client(t, opt), GitRequest{Remote: remote, Ref: "v1"}); list(t, out) != "a 644 a" {
			t.Errorf("%s: %s", remote, list(t, out))
		}
	}
	got := read(t, noted)
	for _, want := range []string{"/run/agent's ", "-F /dev/null", "BatchMode=yes", "IdentityFile=none", "accept-new", "git@host", "-p 22"} {
		if !strings.Contains(got, want) {
			t.Errorf("ssh was called without %s: %s", want, got)
		}
	}
	if strings.Contains(got, "hush") {
		t.Errorf("ssh was given the password: %s", got)
	}
	known := filepath.Join(tools, "it's known")
	opt.SSH.KnownHosts = []string{known}
	checkout(t, client(t, opt), GitRequest{Remote: "git@host:" + f.tree("r"), Ref: "main"})
	if got := read(t, noted); !strings.Contains(got, ` "`+known+`" -o`) {
		t.Errorf("the known hosts are not used: %s", got)
	}
}

func TestRemotes(t *testing.T) {
	for raw, want := range map[string]remote{
		"github.com/o/n":               {url: "https://github.com/o/n", shown: "https://github.com/o/n", host: "github.com", http: true},
		"HTTPS://u:p@h:8443/x.git#r:s": {url: "https://h:8443/x.git", shown: "https://h:8443/x.git", host: "h:8443", http: true, basic: "u:p"},
		"git@h:o/n.git":                {url: "git@h:o/n.git", shown: "git@h:o/n.git", host: "h"},
		"ssh://git:p@h/n":              {url: "ssh://git@h/n", shown: "ssh://git@h/n", host: "h"},
		"git://h/n":                    {url: "git://h/n", shown: "git://h/n", host: "h"},
	} {
		if got, err := parseRemote(raw); err != nil || got != want {
			t.Errorf("%s: %+v, %v", raw, got, err)
		}
	}
	if got := tokenScope("https://github.com/o/n"); got != "https://github.com/" {
		t.Errorf("the credentials are for %s", got)
	}
	for _, env := range []string{"GIT_SSH_COMMAND=x", "PATH=x"} {
		if _, err := New(Options{Dir: t.TempDir(), ProxyEnv: []string{env}}); err == nil {
			t.Errorf("%s was taken", env)
		}
	}
}

func TestGitCancel(t *testing.T) {
	needGit(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel(enough)
		<-r.Context().Done()
	}))
	defer s.Close() // which waits for git to hang up
	if _, err := client(t, Options{}).Git(ctx, GitRequest{Remote: s.URL + "/r"}); !errors.Is(err, enough) {
		t.Error(err)
	}
}

func TestGitConcurrent(t *testing.T) {
	f := newForge(t)
	url := f.repo(t, "r", map[string]string{"a": "a"})
	dir, out := t.TempDir(), t.TempDir()
	var wg sync.WaitGroup
	for i := range 4 {
		c := client(t, Options{Dir: dir})
		wg.Go(func() {
			r, err := c.Git(t.Context(), GitRequest{Remote: url})
			if err == nil {
				err = r.Checkout(t.Context(), filepath.Join(out, fmt.Sprint(i)))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func FuzzParseRemote(f *testing.F) {
	for _, s := range []string{"https://me:hush@h/x", "git@h:x", "ext::sh", "-x", "ssh://-oProxyCommand=x/y", "a@b::c"} {
		f.Add(s)
	}
	helper := regexp.MustCompile(`^[a-zA-Z0-9+.-]*::`)
	f.Fuzz(func(t *testing.T, raw string) {
		r, err := parseRemote(raw)
		if err != nil {
			return
		}
		// What git runs as git-remote-<helper>: gitremote-helpers(7).
		if strings.HasPrefix(r.url, "-") || strings.HasPrefix(r.host, "-") || helper.MatchString(r.url) {
			t.Errorf("%q became %+v", raw, r)
		}
	})
}

func FuzzPick(f *testing.F) {
	f.Add("0123456789012345678901234567890123456789\trefs/heads/x\n", "x")
	f.Fuzz(func(t *testing.T, out, ref string) {
		if r, err := pick(out, ref); err == nil && (!isCommit(r.object) || !strings.HasPrefix(r.name, "refs/")) {
			t.Errorf("%q gives %+v", out, r)
		}
	})
}
