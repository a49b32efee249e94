package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/strake-build/strake/builder/agent"
)

// defaultAgent is the id of the ssh agent that a step gets when it names none.
const defaultAgent = "default"

// sshFlag is a decided --ssh.
type sshFlag struct {
	id    string
	paths []string // a socket, or keys
}

// parseSSH parses docker's syntax: ID[=SOCKET|KEY[,KEY…]]. An ID alone is the agent of $SSH_AUTH_SOCK.
func parseSSH(env *environment, value string) (sshFlag, error) {
	id, paths, _ := strings.Cut(value, "=")
	if id == "" {
		return sshFlag{}, usagef("invalid --ssh %q: it is ID or ID=SOCKET or ID=KEY,KEY", value)
	}
	if paths == "" {
		socket := env.getenv("SSH_AUTH_SOCK")
		if socket == "" {
			return sshFlag{}, usagef("invalid --ssh %q: no ssh agent runs: SSH_AUTH_SOCK is not set", value)
		}
		return sshFlag{id, []string{socket}}, nil
	}
	return sshFlag{id, strings.Split(paths, ",")}, nil
}

// openAgents opens the sockets and keys of --ssh. dir is for the sockets that steps get.
func openAgents(flags []sshFlag, dir string) (*agent.Agents, error) {
	sources := make(map[string]*agent.Source)
	for _, f := range flags {
		src, err := agent.Open(f.paths...)
		if errors.Is(err, agent.ErrPassphrase) {
			return nil, &hintError{fmt.Errorf("--ssh %s: %w", f.id, err), fmt.Sprintf("run \"ssh-add %s\" and use --ssh %s", f.paths[0], f.id)}
		}
		if err != nil {
			return nil, fmt.Errorf("--ssh %s: %w", f.id, err)
		}
		sources[f.id] = src
	}
	return agent.New(dir, sources), nil
}

// has says whether there is an agent of that id.
func hasAgent(flags []sshFlag, id string) bool {
	for _, f := range flags {
		if f.id == id {
			return true
		}
	}
	return false
}
