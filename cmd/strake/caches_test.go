package main

// This file has the commands that start servers of remote caches. They end with the script.

import (
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/strake-build/strake/cache/remote/remotetest"
)

// cmdGHA sets GHA to the url of an emulated cache service of GitHub Actions, and GHA_TOKEN to a job's token.
func cmdGHA(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: gha")
	}
	a := remotetest.NewActions(testOf(ts))
	ts.Setenv("GHA", a.URL)
	ts.Setenv("GHA_TOKEN", remotetest.Token("refs/heads/main"))
}

// cmdBazel sets BAZEL to the url of a bazel-remote.
func cmdBazel(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: bazel")
	}
	t := testOf(ts)
	ts.Setenv("BAZEL", remotetest.StartBazel(t, filepath.Join(t.TempDir(), "cache")))
}

// cmdS3 sets S3 to the url of a server with the bucket, the region and the user of remotetest.StartS3.
func cmdS3(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: s3")
	}
	ts.Setenv("S3", remotetest.StartS3(testOf(ts)))
}
