package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// git runs the git program for one remote: with no configuration but its own, no hooks, no prompts,
// and only the protocols that a remote may have. Everything secret is in the environment, never in an argument.
type git struct {
	program string
	home    string // an empty folder, also to run in: there is no repository above it that git would find
	env     []string
	config  []string // key, value, key, value, …
	secrets []string // not to be seen in errors
}

// gitTimeout is how long git and its children have to end after they were told to.
const gitTimeout = 10 * time.Second

// ErrNoGit is that of something which needs git.
var ErrNoGit = errors.New("the program git is needed for this and was not found in PATH")

// newGit prepares git for the remote.
func (c *Client) newGit(r remote) (*git, error) {
	g, err := c.localGit()
	if err == nil {
		err = c.addAuth(g, r)
	}
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r.shown, err)
	}
	return g, nil
}

// localGit prepares git without what a remote asks for.
func (c *Client) localGit() (*git, error) {
	program := findProgram(c.opt.Path, "git")
	if program == "" {
		return nil, ErrNoGit
	}
	home := filepath.Join(c.opt.Dir, "git", ".home") // empty: neither git nor ssh finds a user's files
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("making an empty home for git: %w", err)
	}
	g := &git{program: program, home: home, env: []string{
		"PATH=" + c.opt.Path,
		"HOME=" + home,
		"GIT_CEILING_DIRECTORIES=" + filepath.Dir(home),
		"LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_ALLOW_PROTOCOL=" + strings.Join(c.scheme, ":"), // for submodules too: no ext::, no files of this machine
		"GIT_LITERAL_PATHSPECS=1",
	}}
	g.env = append(g.env, c.opt.ProxyEnv...)
	stall := strconv.Itoa(max(1, int(c.opt.Stall/time.Second)))
	g.config = []string{
		"core.hooksPath", os.DevNull,
		"core.fsmonitor", "false",
		"core.autocrlf", "false",
		"core.symlinks", "true",
		"gc.auto", "0",
		"maintenance.auto", "false",
		"init.defaultBranch", "master",
		"advice.detachedHead", "false",
		"safe.directory", "*", // the cache may belong to another id of the same user namespace
		"http.lowSpeedLimit", "1",
		"http.lowSpeedTime", stall,
	}
	if c.opt.UserAgent != "" {
		g.config = append(g.config, "http.userAgent", c.opt.UserAgent)
	}
	if c.opt.SSH != nil {
		g.env = append(g.env, "SSH_AUTH_SOCK="+c.opt.SSH.AuthSock, "GIT_SSH_VARIANT=ssh", "GIT_SSH_COMMAND="+c.sshCommand())
	}
	return g, nil
}

// sshCommand is how git calls ssh: without a user's configuration and key files, never asking.
func (c *Client) sshCommand() string {
	known := `"` + c.knownHosts() + `"` // ssh writes to the first
	for _, file := range c.opt.SSH.KnownHosts {
		known += ` "` + file + `"`
	}
	return "ssh -F " + os.DevNull + " -o BatchMode=yes -o IdentityFile=none -o StrictHostKeyChecking=accept-new" +
		" -o GlobalKnownHostsFile=" + os.DevNull + " -o " + shellQuote("UserKnownHostsFile="+known) +
		" -o ConnectTimeout=" + strconv.Itoa(max(1, int(c.opt.Stall/time.Second)))
}

// knownHosts is the file of host keys that were trusted when they were first seen.
func (c *Client) knownHosts() string { return filepath.Join(c.opt.Dir, "git", ".known_hosts") }

// sshHint says what can be done about what ssh complains of.
func sshHint(stderr string) string {
	switch {
	case strings.Contains(stderr, "Host key verification failed"):
		return "the server's key is not the one that is known for it: if it has really got another key, " +
			"remove the old one with ssh-keygen -R, from the file that is named above"
	case strings.Contains(stderr, "Permission denied (") || strings.Contains(stderr, "Too many authentication failures"):
		return "the server takes none of the keys that --ssh forwards (ssh-add -L lists an agent's): add the right one with ssh-add, or name its file with --ssh default=FILE"
	case strings.Contains(stderr, "ssh: not found") || strings.Contains(stderr, "cannot run ssh"):
		return "the program ssh is needed for this and was not found in PATH"
	}
	return ""
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// findProgram looks for an executable file in the folders of path; "" if there is none. Relative folders do not count.
func findProgram(path, name string) string {
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		file := filepath.Join(dir, name)
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return file
		}
	}
	return ""
}

// withEnv returns a git with more variables; a later one counts.
func (g *git) withEnv(env ...string) *git {
	clone := *g
	clone.env = append(g.env[:len(g.env):len(g.env)], env...)
	return &clone
}

// at returns a git for a repository, and a working tree unless it is "".
func (g *git) at(gitDir, workTree string) *git {
	if workTree == "" {
		return g.withEnv("GIT_DIR=" + gitDir)
	}
	return g.withEnv("GIT_DIR="+gitDir, "GIT_WORK_TREE="+workTree)
}

// gitError is a git that failed, with the end of what it said.
type gitError struct {
	verb   string
	err    error
	stderr string
}

func (e *gitError) Error() string {
	if e.stderr == "" {
		return fmt.Sprintf("git %s: %v", e.verb, e.err)
	}
	if hint := sshHint(e.stderr); hint != "" {
		return fmt.Sprintf("git %s: %s: %s", e.verb, e.stderr, hint)
	}
	return fmt.Sprintf("git %s: %s", e.verb, e.stderr)
}

func (e *gitError) Unwrap() error { return e.err }

// said says whether err is a git that said one of the phrases.
func said(err error, phrases ...string) bool {
	var e *gitError
	if !errors.As(err, &e) {
		return false
	}
	for _, p := range phrases {
		if strings.Contains(e.stderr, p) {
			return true
		}
	}
	return false
}

// run runs git in the folder dir and returns what it printed. Cancelling ends git and its helpers.
func (g *git) run(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, g.program, args...)
	cmd.Dir = dir
	cmd.Env = append(append([]string(nil), g.env...), "GIT_CONFIG_COUNT="+strconv.Itoa(len(g.config)/2))
	for i := 0; i+1 < len(g.config); i += 2 {
		n := strconv.Itoa(i / 2)
		cmd.Env = append(cmd.Env, "GIT_CONFIG_KEY_"+n+"="+g.config[i], "GIT_CONFIG_VALUE_"+n+"="+g.config[i+1])
	}
	var out bytes.Buffer
	tail := &tailBuffer{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = &limitedBuffer{b: &out, limit: 16 << 20}, tail
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = gitTimeout
	// The parent in Pdeathsig is a thread: it must not end before git does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	if cmd.Process != nil && ctx.Err() != nil {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // helpers that did not listen
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	stderr := strings.TrimSpace(tail.String())
	for _, s := range g.secrets {
		stderr = strings.ReplaceAll(stderr, s, "***")
	}
	return out.String(), &gitError{verb: args[0], err: err, stderr: stderr}
}

// line is run for a git that prints one line.
func (g *git) line(ctx context.Context, dir string, args ...string) (string, error) {
	out, err := g.run(ctx, dir, args...)
	return strings.TrimSpace(out), err
}

// tailBuffer keeps the last bytes written, up to limit.
type tailBuffer struct {
	b     []byte
	limit int
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - t.limit; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string { return string(t.b) }

var errTooMuch = errors.New("the server lists too much")

// limitedBuffer fails when more than limit bytes are written.
type limitedBuffer struct {
	b     *bytes.Buffer
	limit int
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > l.limit {
		return 0, errTooMuch
	}
	return l.b.Write(p)
}
