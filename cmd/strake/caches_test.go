package main

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/strake-build/strake/cache/remote/remotetest"
)

// caches starts servers of remote caches for scripts.
type caches struct{ t *testing.T }

// gha sets GHA to the url of an emulated cache service of GitHub Actions, and GHA_TOKEN to a job's token.
func (c *caches) gha(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: gha")
	}
	a := remotetest.NewActions(c.t)
	ts.Setenv("GHA", a.URL)
	ts.Setenv("GHA_TOKEN", remotetest.Token("refs/heads/main"))
}

// bazel sets BAZEL to the url of a bazel-remote.
func (c *caches) bazel(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: bazel")
	}
	ts.Setenv("BAZEL", remotetest.StartBazel(c.t, filepath.Join(c.t.TempDir(), "cache")))
}

// s3 sets S3 to the url of a server with the bucket, the region and the user of remotetest.StartS3.
func (c *caches) s3(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: s3")
	}
	ts.Setenv("S3", remotetest.StartS3(c.t))
}
