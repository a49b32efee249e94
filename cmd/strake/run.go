package main

import (
	"regexp"
	"slices"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/runner"
)

// runFlags are the flags of strake run as they were typed.
type runFlags struct {
	interactive, terminal, remove, readOnly bool

	env, envFiles, volumes        []string
	workDir, user, entrypoint     string
	name, hostname, network, pull string
	entrypointGiven               bool
	limits                        limitFlags
}

// runOptions are the decided values of strake run.
type runOptions struct {
	image       string
	command     []string
	interactive bool
	terminal    bool
	env         []string // K=V
	mounts      []runner.Mount
	workDir     string // empty is the image's
	user        string // empty is the image's
	entrypoint  *string
	name        string // empty for none
	hostname    string // empty for a random one
	network     runner.Network
	readOnly    bool
	limits      builder.SandboxOptions // its limits only
	pull        pullPolicy
}

// pullPolicy says when strake run asks the registry.
type pullPolicy string

// The pull policies, in docker's words.
const (
	pullMissing pullPolicy = "missing"
	pullAlways  pullPolicy = "always"
	pullNever   pullPolicy = "never"
)

func newRunCommand(env *environment) *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Run a command in a container of an image",
		Long: `Run a command in a new container of an image, which is pulled when it is not in the store.

The container lives as long as its process: what it wrote outside of -v is removed at the end, with
or without --rm. Signals go to the process (SIGTERM as the image's STOPSIGNAL), and its
exit code is that of strake. After three Ctrl-C that it ignores, the container is killed.

` + exitCodesHelp,
		Example: `  strake run app:1.0
  strake run -it -v "$PWD":/src -w /src debian:12 bash`,
		Args: rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags.entrypointGiven = cmd.Flags().Changed("entrypoint")
			opts, err := flags.decide(env, args)
			if err != nil {
				return err
			}
			return runRun(cmd.Context(), env, opts)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVar(&flags.remove, "rm", true, "remove the container when it ends (always so)")
	f.BoolVarP(&flags.interactive, "interactive", "i", false, "connect standard input")
	f.BoolVarP(&flags.terminal, "tty", "t", false, "give the process a terminal, with -i for input too")
	f.StringArrayVarP(&flags.env, "env", "e", nil, "environment variable, as `K=V`, or K for its value here (repeatable)")
	f.StringArrayVar(&flags.envFiles, "env-file", nil, "`file` with lines of K=V (repeatable)")
	f.StringArrayVarP(&flags.volumes, "volume", "v", nil, "bind a file or folder, as `SRC:DST[:ro]` (repeatable)")
	f.StringVarP(&flags.workDir, "workdir", "w", "", "working `directory`")
	f.StringVarP(&flags.user, "user", "u", "", "`user`[:group], names or numbers")
	f.StringVar(&flags.entrypoint, "entrypoint", "", "`program` to use instead of the image's entrypoint")
	f.StringVar(&flags.name, "name", "", "`name` that no other running container has")
	f.StringVarP(&flags.hostname, "hostname", "h", "", "host `name` in the container")
	f.Bool("help", false, "help for run") // -h is docker's for the host name
	f.StringVar(&flags.network, "network", string(runner.HostNetwork), "`host`, none or bridge (a private one, with a way out)")
	f.BoolVar(&flags.readOnly, "read-only", false, "make the root file system read-only")
	f.StringVar(&flags.pull, "pull", string(pullMissing), "when to pull the image: always, `missing` or never")
	flags.limits.add(f, "the container")
	addIsolationFlag(cmd, env)
	return cmd
}

var (
	containerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)
	hostName      = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?$`)
)

// decide turns flags into values, and refuses what makes no sense before anything else happens.
func (f *runFlags) decide(env *environment, args []string) (runOptions, error) {
	opts := runOptions{
		image: args[0], command: slices.Clone(args[1:]), interactive: f.interactive, terminal: f.terminal,
		workDir: f.workDir, user: f.user, name: f.name, hostname: f.hostname,
		network: runner.Network(f.network), readOnly: f.readOnly, pull: pullPolicy(f.pull),
	}
	if f.entrypointGiven {
		opts.entrypoint = &f.entrypoint
	}
	if !f.remove {
		return opts, usagef("--rm=false is not supported: containers are removed when they end")
	}
	if f.terminal && f.interactive && !isTerminal(env.stdin) {
		return opts, usagef("cannot attach stdin to a TTY-enabled container because stdin is not a terminal")
	}
	if f.name != "" && !containerName.MatchString(f.name) {
		return opts, usagef("invalid container name %q, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", f.name)
	}
	if f.hostname != "" && !hostName.MatchString(f.hostname) {
		return opts, usagef("invalid --hostname %q", f.hostname)
	}
	if f.workDir != "" && f.workDir[0] != '/' {
		return opts, usagef("the working directory %q is invalid, it needs to be an absolute path", f.workDir)
	}
	switch opts.network {
	case runner.HostNetwork, runner.NoNetwork, runner.BridgeNetwork:
	default:
		return opts, usagef("invalid --network %q: it is host, none or bridge", f.network)
	}
	switch opts.pull {
	case pullAlways, pullMissing, pullNever:
	default:
		return opts, usagef("invalid --pull %q: it is always, missing or never", f.pull)
	}
	if _, err := env.rung(); err != nil {
		return opts, err
	}
	err := f.limits.decide(&opts.limits)
	if err != nil {
		return opts, err
	}
	if opts.env, err = decideEnv(env, f.envFiles, f.env); err != nil {
		return opts, err
	}
	for _, v := range f.volumes {
		m, err := parseVolume(v)
		if err != nil {
			return opts, err
		}
		opts.mounts = append(opts.mounts, m)
	}
	return opts, nil
}
