package main

import (
	"os"
	"os/exec"
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
	address := remotetest.Address(c.t)
	remotetest.Start(c.t, address, exec.Command(remotetest.Program(c.t, "bazel-remote-v2.6.2"), "--dir", filepath.Join(c.t.TempDir(), "cache"), "--max_size", "1",
		"--http_address", address, "--grpc_address", "none"))
	ts.Setenv("BAZEL", "http://"+address)
}

// s3 sets S3 to the url of a server with the bucket "bucket", the access key "KEY" with "very-secret", and the region "eu-test-1".
func (c *caches) s3(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: s3")
	}
	dir := c.t.TempDir()
	ts.Check(os.Mkdir(filepath.Join(dir, "bucket"), 0o755))
	address := remotetest.Address(c.t)
	remotetest.Start(c.t, address, exec.Command(remotetest.Program(c.t, "versitygw-v1.8.0"), "--access", "KEY", "--secret", "very-secret", "--region", "eu-test-1",
		"--port", address, "posix", dir))
	ts.Setenv("S3", "http://"+address)
}
