package builder_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/fetch"
)

// site is a host that has what is in the folder site of the context.
const site = "http://site.test/"

// fetcher fetches from there.
func (w *world) fetcher() *fetch.Client {
	w.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		name := filepath.Join(w.path("site"), filepath.Clean(r.URL.Path))
		data, err := os.ReadFile(name)
		if err != nil {
			http.NotFound(out, r)
			return
		}
		out.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(data)))
		http.ServeFile(out, r, name)
	}))
	w.t.Cleanup(server.Close)
	proxy, err := url.Parse(server.URL)
	must(w.t, err)
	c, err := fetch.New(fetch.Options{
		Dir: filepath.Join(w.dir, "remote"), Path: os.Getenv("PATH"), ProxyEnv: []string{"http_proxy=" + server.URL},
		Proxy: func(*http.Request) (*url.URL, error) { return proxy, nil },
	})
	must(w.t, err)
	return c
}

// needProgram skips a test that a program is missing for.
func needProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// commit adds a commit with a file to a branch of the site's repo.git.
func commit(branch, name, text string) func(*world) {
	return func(w *world) {
		w.t.Helper()
		repo, work := w.path("site/repo.git"), w.t.TempDir()
		must(w.t, os.MkdirAll(repo, 0o755))
		git := func(args ...string) {
			cmd := exec.Command("git", append([]string{"--git-dir=" + repo, "--work-tree=" + work, "-c", "user.name=n", "-c", "user.email=e"}, args...)...)
			cmd.Env = append(os.Environ(), "HOME="+work, "GIT_CONFIG_NOSYSTEM=1")
			if out, err := cmd.CombinedOutput(); err != nil {
				w.t.Fatalf("git %q: %v\n%s", args, err, out)
			}
		}
		git("init", "--quiet")
		git("symbolic-ref", "HEAD", "refs/heads/"+branch)
		must(w.t, os.WriteFile(filepath.Join(work, name), []byte(text), 0o644))
		git("add", ".")
		git("commit", "--quiet", "-m", text)
		git("update-server-info")
	}
}

// archive makes pack.tar, with a file of that time.
func archive(name, text string, sec int64) func(*world) {
	return func(w *world) {
		w.t.Helper()
		var b bytes.Buffer
		t := tar.NewWriter(&b)
		must(w.t, t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o640, Uid: 3, Gid: 4, Size: int64(len(text)), ModTime: time.Unix(sec, 0)}))
		_, err := t.Write([]byte(text))
		must(w.t, err)
		must(w.t, t.Close())
		must(w.t, os.WriteFile(w.path("pack.tar"), b.Bytes(), 0o644))
	}
}

// secretValue is a secret of every name.
type secretValue string

func (s secretValue) Secret(string) ([]byte, bool, error) { return []byte(s), true, nil }

// secret gives the build one, whose value may count for keys.
func secret(value string, counts bool) []change {
	return option(func(o *builder.Options) {
		o.Secrets = secretValue(value)
		if counts {
			o.SecretKey = func(string) (string, bool, error) { return "salted " + value, true, nil }
		}
	})
}
