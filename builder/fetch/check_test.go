package fetch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-build/strake/layer/flock"
)

// TestCheckRepository damages cached repositories in the ways of a power failure.
func TestCheckRepository(t *testing.T) {
	f := newForge(t)
	url := f.repo(t, "r", map[string]string{"a": strings.Repeat("a", 1000), "d/b": "b"})
	for name, c := range map[string]struct {
		files string // of the repository, that are changed
		to    func(path string) error
		bad   bool
	}{
		"nothing":           {"HEAD", func(string) error { return nil }, false},
		"a lost object":     {"objects/[0-9a-f][0-9a-f]/*", os.Remove, true},
		"a torn object":     {"objects/[0-9a-f][0-9a-f]/*", func(p string) error { return tear(p, 0) }, true},
		"a changed object":  {"objects/[0-9a-f][0-9a-f]/*", func(p string) error { return tear(p, 10) }, true},
		"a torn name":       {"refs/strake/*", func(p string) error { return tear(p, 5) }, true},
		"a torn HEAD":       {"HEAD", func(p string) error { return tear(p, 0) }, true},
		"no HEAD":           {"HEAD", os.Remove, true},
		"a lock left alone": {"HEAD", func(p string) error { return os.WriteFile(p+".lock", nil, 0o600) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			client, err := New(Options{Dir: dir, Path: os.Getenv("PATH")})
			if err != nil {
				t.Fatal(err)
			}
			r, err := client.Git(t.Context(), GitRequest{Remote: url, Ref: "main"})
			if err == nil {
				err = r.Checkout(t.Context(), filepath.Join(t.TempDir(), "out"))
			}
			if err != nil {
				t.Fatal(err)
			}
			repos, _ := filepath.Glob(filepath.Join(dir, "git", "*", "repo"))
			if len(repos) != 1 {
				t.Fatal(repos)
			}
			files, _ := filepath.Glob(filepath.Join(repos[0], c.files))
			if len(files) == 0 {
				t.Fatal("there is no", c.files)
			}
			for _, p := range files {
				if err := c.to(p); err != nil {
					t.Fatal(err)
				}
			}
			bad, err := client.CheckRepository(t.Context(), filepath.Dir(repos[0]))
			if err != nil || (bad != nil) != c.bad {
				t.Errorf("found %v, %v", bad, err)
			}
		})
	}
}

// tear leaves n bytes of a file as they were, and others of the rest.
func tear(path string, n int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for i := n; i < len(b); i++ {
		b[i] ^= 0x55
	}
	return errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600))
}

// A commit that git does not like, and can work with, is no damage: it came so.
func TestCheckMalformed(t *testing.T) {
	f := newForge(t)
	url := f.repo(t, "r", map[string]string{"a": "a"})
	tree := f.tree("r")
	text := "tree " + runGit(t, tree, "rev-parse", "HEAD^{tree}") + "\nauthor a <a@b> 1 +0000\ncommitter a<a@b> 1 +0000\n\nm\n"
	file := filepath.Join(t.TempDir(), "commit")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	runGit(t, tree, "update-ref", "refs/heads/odd", runGit(t, tree, "hash-object", "-t", "commit", "-w", "--literally", file))
	dir := t.TempDir()
	client, err := New(Options{Dir: dir, Path: os.Getenv("PATH")})
	if err != nil {
		t.Fatal(err)
	}
	r, err := client.Git(t.Context(), GitRequest{Remote: url, Ref: "odd"})
	if err == nil {
		err = r.Checkout(t.Context(), filepath.Join(t.TempDir(), "out"))
	}
	if err != nil {
		t.Fatal(err)
	}
	repos, _ := filepath.Glob(filepath.Join(dir, "git", "*", "repo"))
	entry := filepath.Dir(repos[0])
	if bad, err := client.CheckRepository(t.Context(), entry); bad != nil || err != nil {
		t.Errorf("found %v, %v", bad, err)
	}
	client.opt.Path = t.TempDir()
	if _, err := client.CheckRepository(t.Context(), entry); !errors.Is(err, ErrNoGit) {
		t.Errorf("without git: %v", err)
	}
	if bad, err := client.CheckRepository(t.Context(), filepath.Join(dir, "git", "gone")); bad != nil || err != nil {
		t.Errorf("a repository that is gone: %v, %v", bad, err)
	}
}

// TestRemove removes what nobody works on, and who waits for it makes it again.
func TestRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "entry")
	e, err := openEntry(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if gone, err := Remove(dir); gone || err != nil {
		t.Errorf("an entry in use: %t, %v", gone, err)
	}
	ended, end := context.WithCancelCause(t.Context())
	end(os.ErrNotExist) // which is no sign that the entry was removed
	if _, err := openEntry(ended, dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a wait that ended since something else was missing: %v", err)
	}
	waiting, err := os.Open(e.path("lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	e.close()
	if gone, err := Remove(dir); !gone || err != nil {
		t.Errorf("an entry that nobody uses: %t, %v", gone, err)
	}
	if err := flock.Try(waiting, flock.Alone); err != nil || flock.Named(waiting) {
		t.Errorf("who waited takes what was removed: %v", err)
	}
	if e, err = openEntry(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	e.close()
	if gone, err := Remove(dir); !gone || err != nil {
		t.Error(gone, err)
	}
	if gone, err := Remove(dir); !gone || err != nil {
		t.Errorf("an entry that is gone: %t, %v", gone, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
