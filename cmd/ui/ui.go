// Package ui shows the events and errors of a build to people and programs.
package ui

import (
	"io"

	"github.com/strake-build/strake/builder/progress"
)

// Display shows a build.
type Display interface {
	// Sink receives the build's events.
	Sink(progress.Event)
	// Close waits until everything is shown.
	Close()
}

// Plain prints a line per step with its name, then CACHED or its time, and the steps' output.
func Plain(w io.Writer) Display { return nil }

// TTY redraws a display of the running steps on a terminal.
func TTY(w io.Writer, width func() int) Display { return nil }

// Quiet shows nothing but the output of a step that failed.
func Quiet(w io.Writer) Display { return nil }

// Report prints an error: with file, line and excerpt when a Dockerfile is at fault, and with its hint.
func Report(w io.Writer, err error) {}
