package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/strake-build/strake/builder/fetch"
)

// checkRepositories has git check the repositories that were fetched, and finds what was half removed.
func (c *checker) checkRepositories(ctx context.Context) error {
	client, err := fetch.New(fetch.Options{Dir: c.Path("remote"), Path: c.opt.Path})
	if err != nil {
		return err
	}
	defer client.Close()
	paths, err := filepath.Glob(c.Path("remote", "*", "[^.]*"))
	if err != nil {
		return err
	}
	for _, p := range paths {
		what := filepath.Join(filepath.Base(filepath.Dir(p)), filepath.Base(p))
		drop := func() (bool, error) { return fetch.Remove(p) }
		if strings.Contains(what, fetch.RemovedMark) {
			if err := c.stale(what, drop); err != nil {
				return err
			}
			continue
		}
		if !strings.HasPrefix(what, "git/") {
			continue
		}
		c.found.GitSources++
		bad, err := client.CheckRepository(ctx, p)
		if errors.Is(err, fetch.ErrNoGit) {
			c.found.NoGit++
			continue
		}
		if err == nil && bad != nil {
			err = c.problem(what, bad, drop)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// checkMounts looks at the directories of cache mounts.
func (c *checker) checkMounts(context.Context) error {
	checked, problems, err := c.CacheMounts().Check()
	c.found.CacheMounts = checked
	for _, p := range problems {
		what := filepath.Join("mounts", p.Name)
		if p.Err == nil {
			err = c.stale(what, p.Drop)
		} else {
			err = c.problem(what, p.Err, p.Drop)
		}
		if err != nil {
			return err
		}
	}
	return err
}
