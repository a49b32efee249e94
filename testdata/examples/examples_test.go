package examples

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/strake-build/strake/cache/remote/remotetest"
)

// app is one of the example applications.
type app struct {
	name   string
	steps  int                       // instructions of its Dockerfile that make files
	args   func(*testing.T) []string // build arguments
	page   string                    // what it serves under /
	signal syscall.Signal            // ends it…
	code   int                       // …with this exit code
	label  string                    // KEY=VALUE of the image, if any
	peers  bool                      // others unpack and run it too; once with Debian below is enough
	check  func(t *testing.T, l *lab, root, image string)
}

var apps = []app{
	{
		name: "goservice", steps: 7, args: goArgs, page: "share memory by communicating",
		signal: syscall.SIGTERM, code: 0, label: "org.opencontainers.image.title=quotes", peers: true,
	},
	{
		name: "nodeservice", steps: 6, args: npmArgs, page: `"hello":"stars","user":"node"`,
		signal: syscall.SIGINT, code: 3,
	},
	{
		name: "website", steps: 4, args: proxyArgs, page: "Served by nginx",
		signal: syscall.SIGTERM, code: 0, peers: true, check: checkCodes,
	},
}

// TestExamples builds the bases and the applications and takes them through their lives, with a registry that
// speaks plain HTTP and with one that wants TLS and a password.
func TestExamples(t *testing.T) {
	l := newLab(t)
	plain := l.startPlain(t)
	secure := l.startTLS(t)
	if !t.Run("bases", func(t *testing.T) { buildBases(t, l, plain, secure) }) {
		return // nothing can stand on them
	}
	for _, a := range apps {
		t.Run(a.name+"/plain", func(t *testing.T) { live(t, l, plain, a) })
		t.Run(a.name+"/tls", func(t *testing.T) { live(t, l, secure, a) })
	}
	t.Run("leftovers", func(t *testing.T) { checkMounts(t, l) })
}

// buildBases builds debian, and golang and node on top of it, and pushes them to both registries.
func buildBases(t *testing.T, l *lab, plain, secure *registry) {
	root := l.dir(t, "store-bases")
	defer remove(t, root)
	debian, golang := filepath.Join(l.cache, "debian"), filepath.Join(l.cache, "golang")
	t.Log(run(t, "bases/debian/rootfs.sh", debian), run(t, "bases/golang/gotar.sh", golang))

	for i, b := range []struct{ name, context string }{
		{"debian", debian},
		{"golang", golang},
		{"node", l.dir(t, "empty")},
	} {
		image := plain.host + "/" + b.name + ":bookworm"
		args := append([]string{"build", "--progress", "plain", "-t", image, "-f", "bases/" + b.name + "/Dockerfile"}, registryArgs(plain)...)
		l.run(t, root, nil, append(append(args, proxyArgs(t)...), b.context)...)
		l.run(t, root, plain, "push", image)

		other := secure.host + "/" + b.name + ":bookworm"
		if i == 0 {
			l.login(t, root, secure, other)
		}
		l.run(t, root, nil, "tag", image, other)
		l.run(t, root, secure, "push", other)
	}
}

// live takes an application through its life: built, built again from the cache, pushed,
// read by others, pulled into an empty store, run, asked, ended.
func live(t *testing.T, l *lab, r *registry, a app) {
	root := l.dir(t, "store-"+strings.ReplaceAll(t.Name(), "/", "-"))
	defer remove(t, root)
	image := r.host + "/" + a.name + ":1.0"
	build := append([]string{"build", "--progress", "plain", "-t", image}, registryArgs(r)...)
	build = append(append(build, a.args(t)...), a.name)

	l.run(t, root, r, build...)
	checkCached(t, l.run(t, root, r, build...), a.steps)
	l.run(t, root, r, "push", image)
	readFromRegistry(t, l, r, a, image)
	if a.peers && r.ca == "" {
		readOutputs(t, l, root, r, a, build)
	}

	remove(t, root)
	l.dir(t, filepath.Base(root))
	l.run(t, root, r, "pull", image)
	addr := remotetest.Address(t)
	s := start(t, l.command(t, root, nil, "run", "--rm", "--network", "host", "-e", "ADDR="+addr, image))
	if page := get(t, "http://"+addr+"/", s.dead); !strings.Contains(page, a.page) {
		t.Errorf("the page is %q, which does not say %q", page, a.page)
	}
	if code := s.stop(t, a.signal); code != a.code {
		t.Errorf("exit code %d after %v, want %d:\n%s", code, a.signal, a.code, s.out.String())
	}
	if a.check != nil {
		a.check(t, l, root, image)
	}
}

var stepLine = regexp.MustCompile(`(?m)^#(\d+) \[[^\]]*\] (?:RUN|COPY|ADD|WORKDIR) .*$`)

// checkCached fails the test unless all the steps of a build, want in number, came from the cache.
func checkCached(t *testing.T, out string, want int) {
	t.Helper()
	found := stepLine.FindAllStringSubmatch(out, -1)
	if len(found) != want {
		t.Errorf("%d steps, want %d:\n%s", len(found), want, out)
	}
	for _, m := range found {
		if !strings.Contains(out, "\n#"+m[1]+" CACHED\n") {
			t.Errorf("not cached: %s\n%s", m[0], out)
		}
	}
}

// checkCodes runs small commands in the image and compares exit codes.
func checkCodes(t *testing.T, l *lab, root, image string) {
	for _, tc := range []struct {
		want int
		args []string
	}{
		{0, []string{image, "true"}},
		{7, []string{image, "sh", "-c", "exit 7"}},
		{125, []string{"localhost:1/nobody/has/this:1.0"}},
		{126, []string{"--entrypoint", "/etc/passwd", image}},
		{127, []string{"--entrypoint", "/no/such/program", image}},
	} {
		cmd := l.command(t, root, nil, append([]string{"run", "--rm"}, tc.args...)...)
		out, err := cmd.CombinedOutput()
		if code := exitCode(t, err); code != tc.want {
			t.Errorf("run %s: exit code %d, want %d\n%s", strings.Join(tc.args, " "), code, tc.want, out)
		}
	}
}

// checkMounts fails the test if a mount of a store is left.
func checkMounts(t *testing.T, l *lab) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.work) {
			t.Errorf("left mounted: %s", line)
		}
	}
}

func registryArgs(r *registry) []string { return []string{"--build-arg", "REGISTRY=" + r.host} }

// proxyArgs hands this machine's proxies on, if it has any.
func proxyArgs(*testing.T) []string {
	var args []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		for _, name := range []string{name, strings.ToLower(name)} {
			if os.Getenv(name) != "" {
				args = append(args, "--build-arg", name)
			}
		}
	}
	return args
}

// goArgs adds where this machine's Go gets modules from.
func goArgs(t *testing.T) []string {
	goCommand := os.Getenv("GO")
	if goCommand == "" {
		goCommand = "go"
	}
	args := proxyArgs(t)
	for _, name := range []string{"GOPROXY", "GOSUMDB"} {
		out, err := exec.Command(goCommand, "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, "--build-arg", fmt.Sprintf("%s=%s", name, strings.TrimSpace(string(out))))
	}
	return args
}

// npmArgs adds where this machine's npm gets packages from, if it has an npm and that is said.
func npmArgs(t *testing.T) []string {
	args := proxyArgs(t)
	if out, err := exec.Command("npm", "config", "get", "registry").Output(); err == nil {
		args = append(args, "--build-arg", "NPM_CONFIG_REGISTRY="+strings.TrimSpace(string(out)))
	}
	return args
}
