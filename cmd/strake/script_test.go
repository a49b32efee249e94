package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/strake-build/strake/layer/registry/registrytest"
	"github.com/strake-build/strake/runner"
)

func TestMain(m *testing.M) {
	runner.Main()
	testscript.Main(m, map[string]func(){
		"strake": func() { os.Exit(strake()) },
	})
}

// required says whether a test may not be skipped for what the machine lacks.
func required() bool { return os.Getenv("STRAKE_TEST_REQUIRE") == "1" }

// TestScript runs testdata/script: commands as users type them.
//
// Beside testscript's own there are the commands
//
//	exits CODE COMMAND...   run the command, which must end with the code
//	base [NAME]             build the image NAME (base) from busybox, without a network
//	registry [KIND]         start or find a registry; $REGISTRY is its host. KIND is plain, htpasswd, token or tls
//	interrupt SIGNAL CODE TEXT COMMAND...
//	                        run the command, send the signal when its output contains TEXT, want the exit code
//	serve DIR               serve the files of a folder by HTTP at $URL, also to git (a bare repository after git update-server-info)
//	asuser CODE ARG...      run strake as an ordinary user with a subordinate id range, which must end with the code;
//	                        $AS_UID and $AS_GID are setpriv's flags for him
//	proxy LOG               pass requests on to $REGISTRY from $PROXY, and write their methods and paths to the file LOG
//	sshd DIR                start an ssh server on 127.0.0.1 at $SSHD_URL, after ending the script's one before; its keys are in DIR: key is the client's
//	emulate FLAGS COMMAND   run the command where qemu is registered for arm64 with the flags; the file emulated is what it wrote
//	compile GOARCH FILE OUT compile a Go program
//	empty                   fail if the store holds an image, a layer or a blob
//	clean DIR               fail if the store in DIR has a leftover of a command
//
// and the conditions [root], [userns] (root that can make a user who can be rootless), [registry], [sshd] and [binfmt].
func TestScript(t *testing.T) {
	registries := &registries{t: t}
	user := &testUser{t: t}
	testscript.Run(t, testscript.Params{
		Dir:         "../../testdata/script",
		WorkdirRoot: publicDir(t),
		Setup: func(env *testscript.Env) error {
			env.Values[scriptTest{}] = env.T()
			env.Values[sshServer{}] = new(sshServer)
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("STRAKE_ROOT", filepath.Join(env.WorkDir, "store"))
			if busybox, err := exec.LookPath("busybox"); err == nil {
				env.Setenv("BUSYBOX", busybox)
			}
			return os.Mkdir(home, 0o755)
		},
		Condition: condition,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":     cmdExits,
			"base":      cmdBase,
			"registry":  registries.start,
			"gha":       cmdGHA,
			"bazel":     cmdBazel,
			"s3":        cmdS3,
			"interrupt": cmdInterrupt,
			"clean":     cmdClean,
			"serve":     cmdServe,
			"proxy":     cmdProxy,
			"asuser":    user.run,
			"sshd":      user.sshd,
			"emulate":   cmdEmulate,
			"compile":   cmdCompile,
			"empty":     cmdEmpty,
		},
	})
}

// scriptTest is the key of a script's own test.
type scriptTest struct{}

// testOf is the test of a script: it fails with what the script starts, and that ends with it.
func testOf(ts *testscript.TestScript) testing.TB { return ts.Value(scriptTest{}).(testing.TB) }

func condition(cond string) (bool, error) {
	switch cond {
	case "root":
		return os.Getuid() == 0 || required(), nil
	case "userns":
		for _, program := range []string{"useradd", "newuidmap", "setpriv"} {
			if !installed(program) {
				return required(), nil
			}
		}
		return os.Getuid() == 0 || required(), nil
	case "registry":
		return installed("docker-registry") || required(), nil
	case "bazel-remote-v2.6.2", "versitygw-v1.8.0":
		_, err := os.Stat(filepath.Join("..", "..", "bin", cond))
		return err == nil || required(), nil
	case "binfmt":
		return whyNoBinfmt() == "", nil
	case "sshd":
		_, err := os.Stat(sshdPath)
		return err == nil || required(), nil
	case "limits": // containers often cannot have it, so it is not required
		const writes = 2
		return os.Getuid() == 0 && (syscall.Access("/sys/fs/cgroup/pids", writes) == nil || syscall.Access("/sys/fs/cgroup/cgroup.subtree_control", writes) == nil), nil
	default:
		return false, fmt.Errorf("unknown condition %q", cond)
	}
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	checkCode(ts, want, ts.Exec(args[1], args[2:]...))
}

// checkCode checks how a command ended.
func checkCode(ts *testscript.TestScript, want int, err error) {
	var exit *exec.ExitError
	switch {
	case err == nil && want == 0:
	case errors.As(err, &exit) && exit.ExitCode() == want:
	default:
		ts.Fatalf("want exit code %d, got: %v", want, err)
	}
}

// publicDir is a temporary directory that every user may look into.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "strake-script-*") //nolint:usetesting // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// testUser is a user that is made when a script needs him and removed after the test.
type testUser struct {
	t        *testing.T
	once     sync.Once
	uid, gid string
	err      error
}

// make adds the user to this machine.
func (u *testUser) make() {
	name := fmt.Sprintf("strks%d", os.Getpid())
	if u.err = accounts("useradd", "-M", "-K", "SUB_UID_COUNT=65536", "-K", "SUB_GID_COUNT=65536", name); u.err != nil {
		return
	}
	u.t.Cleanup(func() {
		if err := accounts("userdel", "-f", name); err != nil {
			u.t.Error(err)
		}
	})
	var found *user.User
	if found, u.err = user.Lookup(name); u.err == nil {
		u.uid, u.gid = found.Uid, found.Gid
	}
}

// accounts runs useradd or userdel, again if the tests of another package are at it.
func accounts(program string, args ...string) error {
	for try := 0; ; try++ {
		out, err := exec.Command(program, args...).CombinedOutput()
		if err == nil {
			return nil
		}
		if try == 600 {
			return fmt.Errorf("%s: %w\n%s", program, err, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (u *testUser) run(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: asuser CODE ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	u.once.Do(u.make)
	ts.Check(u.err)
	// The copy of the program that testscript makes is for root only.
	home := ts.MkAbs(".user")
	program := filepath.Join(home, "strake")
	if _, err := os.Stat(program); err != nil {
		self, err := os.Executable()
		ts.Check(err)
		ts.Check(os.Mkdir(home, 0o755))
		ts.Check(exec.Command("cp", self, program).Run())
		uid, _ := strconv.Atoi(u.uid)
		gid, _ := strconv.Atoi(u.gid)
		ts.Check(os.Chown(home, uid, gid))
	}
	as := []string{"--reuid=" + u.uid, "--regid=" + u.gid, "--clear-groups", "env", "-u", "STRAKE_ROOT", "HOME=" + home, program}
	ts.Setenv("AS_UID", as[0])
	ts.Setenv("AS_GID", as[1])
	checkCode(ts, want, ts.Exec("setpriv", append(as, args[1:]...)...))
}

func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: serve DIR")
	}
	server := httptest.NewServer(http.FileServer(http.Dir(ts.MkAbs(args[0]))))
	ts.Defer(server.Close)
	ts.Setenv("URL", server.URL)
}

func cmdProxy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: proxy LOG")
	}
	log, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: ts.Getenv("REGISTRY")})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(log, r.Method, r.URL.RequestURI())
		pass.ServeHTTP(w, r) // with the client's Host, so that uploads come here too
	}))
	ts.Defer(func() {
		server.Close()
		_ = log.Close()
	})
	ts.Setenv("PROXY", strings.TrimPrefix(server.URL, "http://"))
}

const baseDockerfile = `FROM scratch
COPY busybox /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY passwd group /etc/
CMD ["sh"]
`

func cmdBase(ts *testscript.TestScript, neg bool, args []string) {
	name := "base"
	if len(args) > 0 {
		name = args[0]
	}
	busybox, err := exec.LookPath("busybox")
	ts.Check(err)
	dir := ts.MkAbs(".base")
	ts.Check(os.MkdirAll(dir, 0o755))
	program, err := os.ReadFile(busybox)
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "busybox"), program, 0o755))
	ts.Check(os.WriteFile(filepath.Join(dir, "passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nbob:x:1001:1002::/home/bob:/bin/sh\n"), 0o644))
	ts.Check(os.WriteFile(filepath.Join(dir, "group"), []byte("root:x:0:\nbob:x:1002:\nstaff:x:50:bob\n"), 0o644))
	ts.Check(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(baseDockerfile), 0o644))
	ts.Check(ts.Exec("strake", "build", "--progress=plain", "-t", name, dir))
}

// registries starts one registry of each kind for all scripts.
type registries struct {
	t       *testing.T
	mu      sync.Mutex
	started map[string]*registrytest.Registry
}

// lasting is the test of all scripts, for what lasts as long as it does. Where that cannot be started the script fails that needs it: no
// other goroutine than a test's own may end the test.
type lasting struct {
	testing.TB
	script testing.TB
}

func (l lasting) Fatal(args ...any) {
	l.script.Helper()
	l.script.Fatal(args...)
}

func (l lasting) Fatalf(format string, args ...any) {
	l.script.Helper()
	l.script.Fatalf(format, args...)
}

func (l lasting) Skip(args ...any) {
	l.script.Helper()
	l.script.Skip(args...)
}

func (r *registries) start(ts *testscript.TestScript, neg bool, args []string) {
	kind := "plain"
	if len(args) > 0 {
		kind = args[0]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started == nil {
		r.started = make(map[string]*registrytest.Registry)
	}
	if r.started[kind] == nil {
		cfg, ok := map[string]registrytest.Config{
			"plain":    {},
			"htpasswd": {Htpasswd: true},
			"token":    {Token: true},
			"tls":      {TLS: true, Htpasswd: true},
		}[kind]
		if !ok {
			ts.Fatalf("unknown kind of registry %q", kind)
		}
		r.started[kind] = registrytest.Start(lasting{r.t, testOf(ts)}, cfg)
	}
	reg := r.started[kind]
	ts.Setenv("REGISTRY", reg.Host)
	ts.Setenv("REGISTRY_CA", reg.CAFile)
	ts.Setenv("REGISTRY_USER", registrytest.User)
	ts.Setenv("REGISTRY_PASSWORD", registrytest.Password)
}

func cmdInterrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: interrupt SIGNAL CODE TEXT COMMAND...")
	}
	signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "ALRM": syscall.SIGALRM}
	signal, ok := signals[args[0]]
	if !ok {
		ts.Fatalf("unknown signal %q", args[0])
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var path string
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if p := filepath.Join(dir, args[3]); path == "" {
			if _, err := os.Stat(p); err == nil {
				path = p
			}
		}
	}
	cmd := exec.CommandContext(ctx, path, args[4:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, k := range []string{"PATH", "HOME", "STRAKE_ROOT", "TMPDIR"} {
		cmd.Env = append(cmd.Env, k+"="+ts.Getenv(k))
	}
	out := &trigger{text: args[2], found: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Minute
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-out.found:
		ts.Check(cmd.Process.Signal(signal))
		err = <-ended
	case err := <-ended:
		ts.Fatalf("it ended before it wrote %q: %v\n%s", args[2], err, out.String())
	}
	ts.Logf("[output]\n%s", out.String())
	code := cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	if ctx.Err() != nil || code != want {
		ts.Fatalf("want exit code %d, got %d (%v)", want, code, err)
	}
}

// trigger collects output and tells when a text has come.
type trigger struct {
	mu    sync.Mutex
	buf   strings.Builder
	text  string
	found chan struct{}
	done  bool
}

func (t *trigger) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if !t.done && strings.Contains(t.buf.String(), t.text) {
		t.done = true
		close(t.found)
	}
	return len(p), nil
}

func (t *trigger) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// cmdEmpty looks for what a command that failed must not leave in a new store.
func cmdEmpty(ts *testscript.TestScript, neg bool, args []string) {
	root := ts.Getenv("STRAKE_ROOT")
	for _, pattern := range []string{"blobs/sha256/*", "blobs/tmp/*", "layers/*/fs", "layers/tmp/*", "images/images/*", "images/refs/*", "images/removed/*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		ts.Check(err)
		if len(found) > 0 {
			ts.Fatalf("left in the store: %q", found)
		}
	}
}

// cmdClean looks for what commands that have ended must not leave.
func cmdClean(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.Getenv("STRAKE_ROOT")
	if len(args) > 0 {
		dir = ts.MkAbs(args[0])
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	ts.Check(err)
	if strings.Contains(string(mounts), dir) {
		ts.Fatalf("a mount is left below %s", dir)
	}
	for _, sub := range []string{"tmp", "names"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			ts.Fatalf("%v", err)
		}
		for _, e := range entries {
			if e.Name() != ".lock" {
				ts.Fatalf("%s is left", filepath.Join(dir, sub, e.Name()))
			}
		}
	}
}
