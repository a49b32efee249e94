// Command strake builds OCI images from Dockerfiles, moves them and runs them.
//
// This package is the door of the house: it reads flags, the environment, the
// clock and signals, turns them into decided values, wires the other packages
// together, and turns errors into exit codes. There is one file per command: newXCommand
// describes it to cobra, runX does it in plain Go.
package main

import (
	"os"

	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/runner"
)

// version is set by the linker.
var version = "dev"

func main() {
	runner.Main() // does not return in a process that runner started as a child
	os.Exit(strake())
}

// strake runs the command line and returns the exit code.
func strake() int {
	env := newEnvironment()
	ctx, stop := env.signals.start()
	defer stop()
	cmd, err := newRootCommand(env).ExecuteContextC(ctx)
	err = classify(ctx, cmd, err)
	if !silent(err) {
		ui.Report(env.stderr, err)
	}
	return exitCode(err)
}
