package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/runner"
)

// diagnosis is what strake doctor --json prints; docs/doctor.md describes it. Fields are added, never renamed.
type diagnosis struct {
	CanRun       bool                `json:"canRun"` // a RUN works
	Isolation    isolationReport     `json:"isolation"`
	Rungs        []rungReport        `json:"rungs"`
	Store        storeReport         `json:"store"`
	Cgroups      cgroupReport        `json:"cgroups"`
	Network      []programReport     `json:"network"`
	Emulators    []emulatorReport    `json:"emulators"`
	Credentials  []credentialReport  `json:"credentials"`
	Certificates []certificateReport `json:"certificates"`
	Registries   []registryReport    `json:"registries"`
	failed       []string            // what makes the exit code 1
	why          error               // why no RUN works
	chosen       *runner.Isolation   // nil if none fits the store
}

// isolationReport is the rung that a build would use, with the store that it would use.
type isolationReport struct {
	Rung      runner.Rung `json:"rung"`
	Reason    string      `json:"reason,omitempty"`
	OneID     bool        `json:"oneID"`     // owners of files are recorded, not given
	SharedPID bool        `json:"sharedPID"` // steps see the processes around them
	Overlay   bool        `json:"overlay"`   // layers are stacked, not copied
	Error     string      `json:"error,omitempty"`
}

func reportIsolation(i runner.Isolation) isolationReport {
	return isolationReport{Rung: i.Rung, Reason: i.Reason, OneID: i.OneID, SharedPID: i.SharedPID, Overlay: !i.NoOverlay}
}

// rungReport is one rung of the ladder.
type rungReport struct {
	Name  string `json:"name"`
	Works bool   `json:"works"`
	Used  bool   `json:"used"`
	// Reason is what it is like here, if it works. What, Call and Error say what failed if it does not, Why what is behind it and Fix what
	// mends it.
	Reason string `json:"reason,omitempty"`
	What   string `json:"what,omitempty"`
	Call   string `json:"call,omitempty"`
	Error  string `json:"error,omitempty"`
	Why    string `json:"why,omitempty"`
	Fix    string `json:"fix,omitempty"`

	notRoot bool // it is for another user
}

func newDoctorCommand(env *environment) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor [OPTIONS] [REGISTRY...]",
		Short: "Say what works on this machine, and how to mend what does not",
		Long: `Say which ways of boxing a RUN work on this machine, why the others do not and what
would mend them; what the store's file system can do; and which limits, network helpers,
emulators, credentials and certificates there are. Nothing is changed.

With the names of registries, each is asked for /v2/ with the credentials that
there are; that needs the network.

The exit code is 0 if a RUN works, and each registry that was named answers; else 1.`,
		Example: `  strake doctor
  strake doctor --json registry.example.org`,
		Args: rangeArgs(0, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDoctor(cmd.Context(), env, args, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, as docs/doctor.md describes it")
	addIsolationFlag(cmd, env)
	return cmd
}

// runDoctor looks, prints, and returns an error without a text if something that is needed fails.
func runDoctor(ctx context.Context, env *environment, registries []string, asJSON bool) error {
	if _, err := env.rung(); err != nil {
		return err
	}
	root, err := env.root()
	if err != nil {
		return err
	}
	d := &diagnosis{}
	d.look(env, root)
	d.askRegistries(ctx, env, registries)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if asJSON {
		err = writeJSONLine(env.stdout, d)
	} else {
		err = d.write(env.stdout)
	}
	if err != nil {
		return err
	}
	if !d.CanRun || len(d.failed) > 0 {
		return &codeError{codeFailed, nil}
	}
	return nil
}

// look fills in all that this machine alone tells.
func (d *diagnosis) look(env *environment, root string) {
	d.Store = env.storeReport(root)
	d.choose(env, root)
	for _, f := range runner.Survey() {
		d.Rungs = append(d.Rungs, d.rung(f))
	}
	d.Cgroups = cgroups()
	d.Network = programs(env, "pasta", "slirp4netns")
	d.Emulators = emulators("/proc/sys/fs/binfmt_misc")
	d.Credentials, d.Certificates = env.credentials()
}

// choose finds out what a build would use.
func (d *diagnosis) choose(env *environment, root string) {
	i, err := env.probe(root)
	if err == nil && d.Store.probe != "" && d.Store.Layers == "" {
		i, err = runner.ProbeStore(i, d.Store.probe)
	}
	if err == nil {
		err = i.CheckRun()
		d.chosen = &i
		d.Isolation = reportIsolation(i)
	}
	if err == nil && i.Rung == runner.Chroot && d.Store.inert {
		err = &hintError{errors.New("isolation chroot: a step's devices and programs do not work on the store's file system, which is mounted with nodev or noexec"), "mount it without (docker run --tmpfs DIR:dev,exec), or use another --root"}
	}
	if err != nil {
		d.Isolation.Error, d.why = err.Error(), err
		if d.Isolation.Rung == "" {
			d.Isolation.Rung = runner.None
		}
	}
	d.CanRun = err == nil
	d.Store.tryOverlay(d.chosen)
}

// rung reports one rung. The second way of rootless is another one.
func (d *diagnosis) rung(f runner.Finding) rungReport {
	r := rungReport{Name: f.Name(), Works: f.Obstacle == nil}
	if d.chosen != nil {
		r.Used = f.Name() == runner.Finding{Isolation: *d.chosen}.Name()
	}
	if r.Works {
		r.Reason = f.Reason
		return r
	}
	o := f.Obstacle
	r.What, r.Call, r.Why, r.Fix, r.notRoot = o.What, o.Call, o.Why, o.Fix, o.NotRoot
	if o.Err != nil {
		r.Error = o.Err.Error()
	}
	return r
}

// hint is what to do when no RUN works.
func (d *diagnosis) hint() string {
	var adviser interface{ Hint() string }
	if errors.As(d.why, &adviser) {
		return adviser.Hint()
	}
	return ""
}

// readable says why a file cannot be read, in a few words.
func readable(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return fmt.Sprintf("%s: %v", path.Op, path.Err)
	}
	return err.Error()
}
