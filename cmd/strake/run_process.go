package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/runner"
)

// defaultPath is docker's PATH for images that have none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// containerProcess is the process of a container with the host name that it is told.
type containerProcess struct {
	runner.Process
	hostname string
}

// process joins the image's configuration and the flags, as docker does.
func (o *runOptions) process(env *environment, c v1.Config) (containerProcess, error) {
	entrypoint, command := c.Entrypoint, c.Cmd
	if o.entrypoint != nil {
		entrypoint, command = nil, nil
		if *o.entrypoint != "" {
			entrypoint = []string{*o.entrypoint}
		}
	}
	if len(o.command) > 0 {
		command = o.command
	}
	p := containerProcess{hostname: o.hostname}
	p.Args = append(append([]string{}, entrypoint...), command...)
	if len(p.Args) == 0 {
		return p, &hintError{errors.New("no command specified, and the image has none"), "give a command after the image"}
	}
	if p.hostname == "" {
		id := make([]byte, 6)
		if _, err := rand.Read(id); err != nil {
			return p, err
		}
		p.hostname = hex.EncodeToString(id)
	}
	p.Env = []string{"PATH=" + defaultPath, "HOSTNAME=" + p.hostname}
	if o.terminal {
		p.Env = append(p.Env, "TERM=xterm")
	}
	p.Env = runner.JoinEnv(p.Env, c.Env, o.env)
	p.Dir, p.User = o.workDir, o.user
	if p.Dir == "" {
		p.Dir = c.WorkingDir
	}
	if p.Dir == "" {
		p.Dir = "/"
	}
	if p.User == "" {
		p.User = c.User
	}
	switch {
	case o.terminal && o.interactive:
		p.Terminal = env.stdin
		return p, nil
	case o.terminal:
		p.Terminal, p.OutputOnly = env.stdout, true
		return p, nil
	case o.interactive:
		p.Stdin = env.stdin
	}
	p.Stdout, p.Stderr = env.stdout, env.stderr
	return p, nil
}
