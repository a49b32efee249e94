package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/runner"
)

// The groups of commands in strake --help.
const (
	groupBuild    = "build"
	groupImages   = "images"
	groupRegistry = "registry"
	groupStore    = "store"
)

// newRootCommand builds the whole command line. It must stay cheap: it runs before the command is known.
func newRootCommand(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "strake",
		Short: "Build OCI images from Dockerfiles, move them and run them",
		Long: `strake builds OCI images from Dockerfiles, moves them and runs them.
One binary, no daemon.

` + exitCodesHelp,
		Version:                    version,
		SuggestionsMinimumDistance: 2,
		SilenceErrors:              true,
		SilenceUsage:               true,
		Args:                       unknownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(env.stdin)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	root.SetFlagErrorFunc(flagError)
	root.SetVersionTemplate("strake {{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&env.flags.root, "root", "", "directory of the `store` (default $STRAKE_ROOT, /var/lib/strake for root, else ~/.local/share/strake)")
	f.StringArrayVar(&env.flags.registryCA, "registry-ca", nil, "PEM `file` of a certificate authority to trust for registries (repeatable)")
	f.StringArrayVar(&env.flags.insecure, "insecure-registry", nil, "registry `host[:port]` that may use plain HTTP or any certificate (repeatable)")
	f.StringVar(&env.flags.authFile, "authfile", "", "credentials `file` to use instead of docker's and podman's (default $REGISTRY_AUTH_FILE)")

	root.AddGroup(
		&cobra.Group{ID: groupBuild, Title: "Building and running:"},
		&cobra.Group{ID: groupImages, Title: "Images:"},
		&cobra.Group{ID: groupRegistry, Title: "Registries:"},
		&cobra.Group{ID: groupStore, Title: "The store:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			c.DisableFlagsInUseLine = true
			root.AddCommand(c)
		}
	}
	add(groupBuild, newBuildCommand(env), newExplainCommand(env), newRunCommand(env))
	add(groupImages, newImagesCommand(env), newInspectCommand(env), newHistoryCommand(env), newTagCommand(env),
		newRmiCommand(env), newSaveCommand(env), newLoadCommand(env))
	add(groupRegistry, newPullCommand(env), newPushCommand(env), newLoginCommand(env), newLogoutCommand(env))
	add(groupStore, newDuCommand(env), newPruneCommand(env), newFsckCommand(env))
	root.AddCommand(newDoctorCommand(env), newVersionCommand(env))
	return root
}

// addIsolationFlag adds --isolation to a command that touches layers.
func addIsolationFlag(cmd *cobra.Command, env *environment) {
	cmd.Flags().StringVar(&env.flags.isolation, "isolation", string(runner.Auto), "how steps and layers are isolated: `auto`, root, rootless, chroot or none (docs/isolation.md)")
}

// rung returns the value of --isolation.
func (e *environment) rung() (runner.Rung, error) {
	switch r := runner.Rung(e.flags.isolation); r {
	case runner.Auto, runner.Root, runner.Rootless, runner.Chroot, runner.None:
		return r, nil
	default:
		return "", usagef("invalid --isolation %q: it is auto, root, rootless, chroot or none", e.flags.isolation)
	}
}

// exactArgs is cobra.ExactArgs with an error that says what the command takes.
func exactArgs(n int) cobra.PositionalArgs { return rangeArgs(n, n) }

// rangeArgs wants between low and high arguments; a negative high is no limit.
func rangeArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= low && (high < 0 || len(args) <= high) {
			return nil
		}
		want := fmt.Sprintf("%d to %d arguments", low, high)
		switch {
		case high < 0:
			want = fmt.Sprintf("at least %s", count(low, "argument"))
		case low == high:
			want = "exactly " + count(low, "argument")
		case low == 0:
			want = "at most " + count(high, "argument")
		}
		if high == 0 {
			want = "no arguments"
		}
		return &usageError{
			err:  fmt.Errorf("%q requires %s, not %d", cmd.CommandPath(), want, len(args)),
			hint: fmt.Sprintf("usage: %s; see \"%s --help\"", cmd.UseLine(), cmd.CommandPath()),
		}
	}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// unknownCommand refuses the arguments of the root command: they were meant as a command.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := &usageError{err: fmt.Errorf("unknown command %q", args[0]), hint: "see \"strake --help\""}
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		err.hint = fmt.Sprintf("did you mean %q?", "strake "+similar[0])
	}
	return err
}

// flagNames finds the names of flags in a usage text.
var flagNames = regexp.MustCompile(`(?m)^ *(?:-\w, )?--([\w-]+)`)

// flagError makes a usageError of what the parser of flags says, and adds the flag that was probably meant.
func flagError(cmd *cobra.Command, err error) error {
	usage := &usageError{err: err}
	var unknown interface{ GetSpecifiedName() string }
	if !errors.As(err, &unknown) {
		return usage
	}
	name := unknown.GetSpecifiedName()
	if len(name) == 1 || cmd.Flag(name) != nil { // nothing is like a letter; one that exists lacks its value
		return usage
	}
	best, distance := "", 3
	for _, m := range flagNames.FindAllStringSubmatch(cmd.LocalFlags().FlagUsages()+cmd.InheritedFlags().FlagUsages(), -1) {
		d := editDistance(name, m[1])
		if len(name) > 2 && strings.HasPrefix(m[1], name) {
			d = min(d, 1)
		}
		if d < distance {
			best, distance = m[1], d
		}
	}
	if best != "" {
		usage.hint = fmt.Sprintf("did you mean \"--%s\"? See \"%s --help\"", best, cmd.CommandPath())
	}
	return usage
}

// editDistance is the Levenshtein distance.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := left
			if a[i] != b[j] {
				cost++
			}
			left = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
