package bazel_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/bazel"
	"github.com/strake-build/strake/cache/remote/remotetest"
)

// nginx runs Debian's nginx with the server block that docs/cache.md shows, whose files are in dir, and returns its url.
func nginx(t *testing.T, dir string) string {
	t.Helper()
	program := remotetest.Program(t, "nginx")
	doc, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "cache.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(doc), "```nginx\n")
	block, _, ok := strings.Cut(block, "```\n")
	if !ok {
		t.Fatal("docs/cache.md shows no configuration of nginx")
	}
	address, root := remotetest.Address(t), filepath.Join(dir, "cache")
	for example, here := range map[string]string{
		"listen 8080;": "listen " + address + ";", "/srv/strake-cache": root, "/etc/nginx/strake-cache.users": filepath.Join(dir, "users"),
	} {
		if !strings.Contains(block, example) {
			t.Fatalf("docs/cache.md does not say %q", example)
		}
		block = strings.ReplaceAll(block, example, here)
	}
	config := fmt.Sprintf("daemon off; master_process off; pid %[1]s/pid; error_log stderr;\nevents {}\nhttp {\naccess_log off;\n", dir)
	for _, unused := range []string{"proxy", "fastcgi", "uwsgi", "scgi"} {
		config += fmt.Sprintf("%s_temp_path %s/%[1]s;\n", unused, dir)
	}
	file := filepath.Join(dir, "nginx.conf")
	for path, text := range map[string]string{file: config + block + "}\n", filepath.Join(dir, "users"): "ci:{PLAIN}secret\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	remotetest.Start(t, address, exec.Command(program, "-p", dir, "-e", "stderr", "-c", file))
	return "http://" + address
}

// A web server with WebDAV is a cache; what it stores are the files that the protocol names, and it takes them only of who may write.
func TestNginx(t *testing.T) {
	dir := t.TempDir()
	url := nginx(t, dir)
	remotetest.Exercise(t, func() remote.Backend { return open(t, bazel.Options{URL: url, User: "ci:secret"}) })
	files, err := filepath.Glob(filepath.Join(dir, "cache", "*", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	name := regexp.MustCompile(`/cache/(ac|cas)/[0-9a-f]{64}$`)
	for _, f := range files {
		if !name.MatchString(f) && !strings.Contains(f, "/cache/tmp/") {
			t.Errorf("a file at %s", f)
		}
	}

	data, d := remotetest.Blob(t, 150, 3<<20) // more than a body may have by default
	reader := open(t, bazel.Options{URL: url})
	if err := reader.Put(t.Context(), d, remotetest.From(data, nil)); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("writing without a password: %v", err)
	}
	if err := open(t, bazel.Options{URL: url, User: "ci:secret"}).Put(t.Context(), d, remotetest.From(data, nil)); err != nil {
		t.Error(err)
	}
	if got, err := remotetest.Fetch(t.Context(), reader, d); err != nil || len(got) != len(data) {
		t.Errorf("reading without a password: %d bytes, %v", len(got), err)
	}
}
