package fetch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/strake-build/strake/layer/flock"
)

// CheckRepository says what is wrong with the repository in the folder Options.Dir/git/NAME, nil if nothing is: an object that a name
// in it leads to is missing or damaged. Without the program git the error is ErrNoGit. One that somebody works on is not looked at.
func (c *Client) CheckRepository(ctx context.Context, dir string) (bad, err error) {
	lock, err := flock.TryOpen(filepath.Join(dir, "lock"), os.O_RDONLY, flock.Alone)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, flock.ErrHeld) {
		return nil, nil // it was just removed, or never made; or somebody works on it
	}
	if err != nil {
		return nil, fmt.Errorf("locking a cache entry: %w", err)
	}
	defer lock.Close() // only a lock
	repo := filepath.Join(dir, "repo")
	if _, err := os.Lstat(repo); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	g, err := c.localGit()
	if err != nil {
		return nil, err
	}
	return damage(ctx, g.at(repo, ""), g.home)
}

// fsckObject is the exit code of git fsck where objects are malformed or damaged, and nothing else is wrong (git-fsck(1)).
const fsckObject = 1

// damage runs git fsck. Objects that are malformed as they came are none: some repositories have them, and git works with them.
func damage(ctx context.Context, g *git, home string) (bad, err error) {
	_, err = g.run(ctx, home, "fsck", "--full", "--no-dangling", "--no-progress")
	if err == nil || ctx.Err() != nil {
		return nil, err
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return nil, err // git could not be run
	}
	if exit.ExitCode() == fsckObject && !said(err, "corrupt", "mismatch", "unable to", "garbage") {
		return nil, nil
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(first), nil
}
