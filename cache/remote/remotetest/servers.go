package remotetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The bucket of StartS3, and who may use it.
const (
	S3Bucket = "bucket"
	S3Region = "eu-test-1"
	S3Key    = "KEY"
	S3Secret = "a/very+secret/key"
)

// The servers that .ci/deps installs.
const (
	BazelRemote = "bazel-remote-v2.6.2"
	VersityGW   = "versitygw-v1.8.0"
)

// StartBazel runs a bazel-remote that keeps its files in dir until the test ends, and returns its url.
func StartBazel(t testing.TB, dir string, more ...string) string {
	t.Helper()
	program, address := Program(t, BazelRemote), Address(t)
	args := append([]string{"--dir", dir, "--max_size", "1", "--http_address", address, "--grpc_address", "none"}, more...)
	Start(t, address, exec.Command(program, args...))
	return "http://" + address
}

// StartS3 runs a server of S3's protocol with the bucket S3Bucket until the test ends, and returns its url. It checks signatures.
func StartS3(t testing.TB) string {
	t.Helper()
	program, address, dir := Program(t, VersityGW), Address(t), t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, S3Bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	Start(t, address, exec.Command(program, "--access", S3Key, "--secret", S3Secret, "--region", S3Region, "--port", address, "posix", dir))
	return "http://" + address
}
