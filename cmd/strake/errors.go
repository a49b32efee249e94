package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/layer/registry"
	"github.com/strake-build/strake/layer/snapshot"
)

// The exit codes, which are API: exitCodesHelp and README.md say what they mean.
const (
	codeFailed      = 1
	codeUsage       = 2
	codeRunFailed   = 125
	codeInterrupted = 130
)

// exitCodesHelp is part of strake --help.
const exitCodesHelp = `Exit codes:
  0    success
  1    the build or another command failed
  2    wrong usage: an unknown command or flag, a missing argument
  130  interrupted (Ctrl-C or SIGTERM)
"strake run" exits with the code of the process that it runs, or
  125  strake itself failed (wrong usage included)
  126  the program could not be executed
  127  the program was not found`

// usageError is a command line that strake does not understand.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

// Hint says what to type instead.
func (e *usageError) Hint() string { return e.hint }

// usagef makes a usageError.
func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// codeError is an error with an exit code of its own. A nil err prints nothing.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code: %d", e.code)
	}
	return e.err.Error()
}

func (e *codeError) Unwrap() error { return e.err }

// hintError is an error with advice.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }

func (e *hintError) Unwrap() error { return e.err }

// Hint is the advice.
func (e *hintError) Hint() string { return e.hint }

// isolationError is a failure to get the privileges that layers need; it names the setting to change itself.
type isolationError struct{ err error }

func (e *isolationError) Error() string { return e.err.Error() }

func (e *isolationError) Unwrap() error { return e.err }

// classify gives the error of a command the exit code and the advice that belong to it.
func classify(ctx context.Context, cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	var coded *codeError
	if errors.As(err, &coded) {
		return err
	}
	if cause := context.Cause(ctx); errors.Is(cause, errInterrupted) && errors.Is(err, context.Canceled) {
		return &codeError{codeInterrupted, cause}
	}
	var usage *usageError
	if errors.As(err, &usage) && usage.hint == "" && cmd != nil {
		usage.hint = fmt.Sprintf("see \"%s --help\"", cmd.CommandPath())
	}
	err = advise(err)
	if cmd != nil && cmd.Name() == "run" {
		return &codeError{codeRunFailed, err}
	}
	return err
}

// advise adds a hint to errors whose remedy is known, unless they bring one.
func advise(err error) error {
	var adviser interface{ Hint() string }
	var isolation *isolationError
	switch {
	case errors.As(err, &adviser), errors.As(err, &isolation):
	case errors.Is(err, registry.ErrUnauthorized):
		return &hintError{err, "log in with \"strake login REGISTRY\""}
	case errors.Is(err, syscall.ENOSPC):
		return &hintError{err, "the disk is full: free space, or put the store elsewhere with --root"}
	case errors.Is(err, snapshot.ErrNotFound):
		return &hintError{err, "build or pull the image again; \"strake fsck --repair\" drops images that lack a layer"}
	case errors.Is(err, syscall.EROFS):
		return &hintError{err, "the file system is mounted read-only: choose another store with --root or STRAKE_ROOT, or another file"}
	case errors.Is(err, fs.ErrPermission) && strings.Contains(err.Error(), "store"):
		return &hintError{err, "choose a store that you may write with --root or STRAKE_ROOT"}
	}
	return err
}

// silent says whether there is nothing to print about err.
func silent(err error) bool {
	var coded *codeError
	return err == nil || errors.As(err, &coded) && coded.err == nil
}

// exitCode returns the exit code for err.
func exitCode(err error) int {
	var coded *codeError
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, errInterrupted):
		return codeInterrupted
	case errors.As(err, &usage):
		return codeUsage
	default:
		return codeFailed
	}
}
