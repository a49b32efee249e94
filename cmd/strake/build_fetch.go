package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/agent"
	"github.com/strake-build/strake/builder/fetch"
	"github.com/strake-build/strake/dockerfile"
)

// openFetch makes what gets files and repositories from the network.
func (j *job) openFetch(ctx context.Context) error {
	opt := fetch.Options{
		Dir:       j.Path("remote"),
		UserAgent: "strake/" + version,
		Proxy:     http.ProxyFromEnvironment,
		Secret:    j.secrets.text,
		Path:      j.env.getenv("PATH"),
	}
	for _, name := range []string{"http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"} {
		if v := j.env.getenv(name); v != "" {
			opt.ProxyEnv = append(opt.ProxyEnv, name+"="+v)
		}
	}
	if hasAgent(j.opts.ssh, defaultAgent) {
		socket, stop, _, err := j.agents.Listen(ctx, defaultAgent, 0o600, os.Geteuid(), os.Getegid())
		if err != nil {
			return err
		}
		j.closers = append(j.closers, stop)
		address, closeAddress, err := agent.Address(socket)
		if err != nil {
			return err
		}
		j.closers = append(j.closers, closeAddress)
		opt.SSH = &fetch.SSH{AuthSock: address, KnownHosts: knownHosts(j.env.getenv("HOME"))}
	}
	var err error
	if j.client, err = fetch.New(opt); err != nil {
		return err
	}
	j.closers = append(j.closers, j.client.Close)
	return nil
}

// knownHosts are the files of host keys that ssh would look into, of those that are there.
func knownHosts(home string) []string {
	var files []string
	for _, file := range []string{filepath.Join(home, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"} {
		if _, err := os.Stat(file); err == nil && filepath.IsAbs(file) && !strings.Contains(file, `"`) {
			files = append(files, file)
		}
	}
	return files
}

// sshContext says whether git needs an agent for a context.
func sshContext(value string) bool {
	ref, err := dockerfile.ParseGitRef(value)
	if err != nil || ref == nil {
		return false
	}
	scheme, _, ok := strings.Cut(ref.Remote, "://")
	return !ref.MaybeLocal && (!ok || scheme == "ssh")
}

// fetch gets a context from the network: with ref by git, else by HTTP. main is the context of the build.
func (j *job) fetch(ctx context.Context, url string, ref *dockerfile.GitRef, main bool) (folder, error) {
	dir, err := os.MkdirTemp(j.temp, "context-")
	if err != nil {
		return folder{}, fmt.Errorf("making a folder for the context: %w", err)
	}
	dir = filepath.Join(dir, "tree")
	if ref != nil {
		return j.fetchGit(ctx, dir, ref, main)
	}
	file, err := j.client.HTTP(ctx, fetch.HTTPRequest{URL: url})
	if err != nil {
		return folder{}, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // modes are part of what COPY takes
		return folder{}, fmt.Errorf("making a folder for the context: %w", err)
	}
	if !main { // as in BuildKit, it is a file, even if that is an archive
		return folder{dir: dir, time: file.Epoch}, saveFile(ctx, file, filepath.Join(dir, fetch.ContextName))
	}
	f := folder{dir: dir, remote: true, owners: true, time: file.Epoch}
	archive, err := file.Unpack(ctx, dir, j.archiveOptions())
	if !archive {
		f.file = fetch.ContextName
	}
	return f, err
}

// saveFile writes a downloaded file, with the mode and time that ADD gives it.
func saveFile(ctx context.Context, file *fetch.File, path string) error {
	content, err := file.Open(ctx)
	if err != nil {
		return err
	}
	defer content.Close()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close(), os.Chtimes(path, content.MTime(), content.MTime()))
}

func (j *job) fetchGit(ctx context.Context, dir string, ref *dockerfile.GitRef, main bool) (folder, error) {
	request := builder.GitRequest(ref, "")
	if main && ref.KeepGitDir == nil && j.language.KeepGitDir != nil {
		request.KeepGitDir = *j.language.KeepGitDir
	}
	_, epoch := j.opts.buildArgs[epochArg]
	request.CommitTimes = ref.MTime == "commit" || main && epoch && ref.MTime == ""
	repo, err := j.client.Git(ctx, request)
	if err != nil {
		return folder{}, err
	}
	if err := repo.Checkout(ctx, dir); err != nil {
		return folder{}, err
	}
	return folder{dir: dir, remote: true, time: func(ctx context.Context) (time.Time, error) { return repo.CommitTime(ctx) }}, nil
}
