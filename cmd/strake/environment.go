package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner"
)

// environment is what the process was given: nothing else in strake reads environment variables, the clock
// or the standard streams.
type environment struct {
	stdin, stdout, stderr *os.File

	lookup  func(name string) (string, bool)
	setenv  func(name, value string) error // for children of this process
	now     func() time.Time
	uid     int
	signals *interrupts
	flags   globalFlags
}

// globalFlags are the flags that every command takes, and isolation, which those that touch layers take.
type globalFlags struct {
	root       string
	registryCA []string
	insecure   []string
	authFile   string
	isolation  string
}

func newEnvironment() *environment {
	return &environment{
		stdin:   os.Stdin,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		lookup:  os.LookupEnv,
		setenv:  os.Setenv,
		now:     time.Now,
		uid:     os.Getuid(),
		signals: &interrupts{stderr: os.Stderr, exit: os.Exit},
		flags:   globalFlags{isolation: string(runner.Auto)},
	}
}

// getenv returns an environment variable, "" if it is not set.
func (e *environment) getenv(name string) string {
	v, _ := e.lookup(name)
	return v
}

// expand gives a "K" of --build-arg or -e its value from the environment; "K=V" is returned as it is.
// ok is false for a K that is not set.
func (e *environment) expand(arg string) (kv string, ok bool) {
	if strings.Contains(arg, "=") {
		return arg, true
	}
	v, ok := e.lookup(arg)
	return arg + "=" + v, ok
}

// input returns standard input as a reader that fails when ctx ends, also while it waits for more.
func (e *environment) input(ctx context.Context) io.Reader {
	r, w := io.Pipe()
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	go func() {
		// A read that waits when ctx ends is left behind: the process ends then.
		_, err := io.Copy(w, e.stdin)
		stop()
		w.CloseWithError(err)
	}()
	return r
}

// isTerminal says whether f is a terminal.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// width returns the columns of the terminal f, 80 if unknown.
func width(f *os.File) int {
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 {
		return 80
	}
	return int(ws.Col)
}

// root returns the absolute path of the store's directory.
func (e *environment) root() (string, error) {
	for _, dir := range []string{e.flags.root, e.getenv("STRAKE_ROOT")} {
		if dir != "" {
			return filepath.Abs(dir)
		}
	}
	if e.uid == 0 {
		return "/var/lib/strake", nil
	}
	if dir := e.getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "strake"), nil
	}
	home := e.getenv("HOME")
	if home == "" {
		return "", usagef("no place for the store: HOME is not set; use --root or STRAKE_ROOT")
	}
	return filepath.Join(home, ".local/share/strake"), nil
}

// dockerConfig returns docker's configuration file, "" if there is no home for it.
func (e *environment) dockerConfig() string {
	if dir := e.getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json")
	}
	if home := e.getenv("HOME"); home != "" {
		return filepath.Join(home, ".docker/config.json")
	}
	return ""
}

// configHome returns $XDG_CONFIG_HOME or its default, "" if there is no home.
func (e *environment) configHome() string {
	if dir := e.getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return dir
	}
	if home := e.getenv("HOME"); home != "" {
		return filepath.Join(home, ".config")
	}
	return ""
}

// chosenAuthFile returns the one credential file that the user named, "" if none.
func (e *environment) chosenAuthFile() string {
	if e.flags.authFile != "" {
		return e.flags.authFile
	}
	return e.getenv("REGISTRY_AUTH_FILE")
}

// authFiles lists the credential files that need not exist, in the order in which they are asked: docker's, then podman's;
// none beside --authfile.
func (e *environment) authFiles() []string {
	if e.flags.authFile != "" {
		return nil
	}
	if f := e.getenv("REGISTRY_AUTH_FILE"); f != "" {
		return []string{f}
	}
	files := []string{e.dockerConfig()}
	if dir := e.getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	}
	if dir := e.configHome(); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	}
	return slices.DeleteFunc(files, func(f string) bool { return f == "" })
}

// certsDirs lists the directories with certificates by registry: the user's, then the machine's.
func (e *environment) certsDirs() []string {
	var dirs []string
	if dir := e.configHome(); dir != "" {
		dirs = append(dirs, filepath.Join(dir, "containers/certs.d"), filepath.Join(dir, "docker/certs.d"))
	}
	return append(dirs, "/etc/containers/certs.d", "/etc/docker/certs.d")
}
