package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/builder/fetch"
)

// checkRepositories has git check the repositories that were fetched, and finds what was half removed.
func (f *fsck) checkRepositories(ctx context.Context) error {
	client, err := fetch.New(fetch.Options{Dir: f.path("remote"), Path: f.env.getenv("PATH")})
	if err != nil {
		return err
	}
	defer client.Close()
	paths, err := filepath.Glob(f.path("remote", "*", "[^.]*"))
	if err != nil {
		return err
	}
	for _, p := range paths {
		what := filepath.Join(filepath.Base(filepath.Dir(p)), filepath.Base(p))
		drop := func() (bool, error) { return fetch.Remove(p) }
		if strings.Contains(what, fetch.RemovedMark) {
			if err := f.stale(what, drop); err != nil {
				return err
			}
			continue
		}
		if !strings.HasPrefix(what, "git/") {
			continue
		}
		f.checked["git source"]++
		bad, err := client.CheckRepository(ctx, p)
		if errors.Is(err, fetch.ErrNoGit) {
			f.noGit++
			continue
		}
		if err == nil && bad != nil {
			err = f.problem(what, bad, drop)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// checkMounts looks at the directories of cache mounts.
func (f *fsck) checkMounts(context.Context) error {
	mounts := &cachemount.Store{Dir: f.path("mounts")}
	checked, problems, err := mounts.Check()
	f.checked["cache mount"] = checked
	for _, p := range problems {
		what := filepath.Join("mounts", p.Name)
		if p.Err == nil {
			err = f.stale(what, p.Drop)
		} else {
			err = f.problem(what, p.Err, p.Drop)
		}
		if err != nil {
			return err
		}
	}
	return err
}
