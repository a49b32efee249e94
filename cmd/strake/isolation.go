package main

import (
	"fmt"
	"strings"

	"github.com/strake-build/strake/builder/store"
	"github.com/strake-build/strake/runner"
)

// formOf is the form of the layers that are made under i.
func formOf(i runner.Isolation) store.Form {
	// Before Enter, Rootless is not yet in the namespace.
	user := i.UserNS || i.Rung == runner.Rootless
	switch {
	case i.RecordsOwners() && i.NoOverlay:
		return store.RecordedCopies
	case i.RecordsOwners():
		return store.Recorded
	case user && i.NoOverlay:
		return store.UserCopies
	case user:
		return store.User
	case i.NoOverlay:
		return store.Copies
	}
	return store.Trusted
}

// fit makes an isolation one that makes layers of the form f, if it can: what can have overlay can do without.
func fit(f store.Form, i *runner.Isolation) *runner.Obstacle {
	if f == "" || formOf(*i) == f {
		return nil
	}
	without := *i
	if without.NoOverlay = true; formOf(without) == f {
		without.Reason += ", by copies, as the store is"
		*i = without
		return nil
	}
	return &runner.Obstacle{Why: fmt.Sprintf("the layers of the store were unpacked %v", f), Fix: "use another store with --root"}
}

// probe finds the isolation to use: that of --isolation, or the best there is; for a store that has layers, of those that it can be used with.
func (e *environment) probe(root string) (runner.Isolation, error) {
	want, err := e.rung()
	if err != nil {
		return runner.Isolation{}, err
	}
	format, err := store.KnownFormat(root)
	if err != nil {
		return runner.Isolation{}, err
	}
	misfit := store.Form("")
	isolation, err := runner.Choose(want, func(i *runner.Isolation) *runner.Obstacle {
		o := fit(format.Layers, i)
		if o != nil && misfit == "" {
			misfit = formOf(*i)
		}
		return o
	})
	switch {
	case err == nil:
		return isolation, nil
	case misfit == "":
		return isolation, &isolationError{err}
	case want != runner.Auto:
		return isolation, &store.FormError{Root: root, Have: format.Layers, Want: misfit}
	}
	return isolation, &hintError{
		fmt.Errorf("the layers of the store %s were unpacked %v, which does not work here: %w", root, format.Layers, err),
		"use another store with --root, or delete this one",
	}
}

// settle decides, where boxes are made, in which form the layers of a new store can be, and makes the isolation one for the form of the
// store.
func (s *session) settle(i runner.Isolation) (runner.Isolation, error) {
	have, err := store.ReadFormat(s.Root)
	if err != nil {
		return i, err
	}
	if have.Layers == "" {
		// The first layers: can they be mounted here?
		dir, remove, err := s.TempDir()
		if err != nil {
			return i, fmt.Errorf("opening the store: %w", err)
		}
		defer remove()
		return runner.ProbeStore(i, dir)
	}
	if o := fit(have.Layers, &i); o != nil {
		return i, &store.FormError{Root: s.Root, Have: have.Layers, Want: formOf(i)}
	}
	return i, nil
}

// enteredVar tells this program in its user namespace why it is there, for the line that says so to people.
const enteredVar = "STRAKE_ENTERED"

// remember keeps why this isolation was chosen over runner.Enter, in whose namespace the machine looks different.
func (e *environment) remember(i runner.Isolation) (runner.Isolation, error) {
	switch {
	case i.Rung != runner.Rootless:
		return i, nil
	case !i.UserNS:
		return i, e.setenv(enteredVar, i.Reason+"\n"+i.Advice())
	}
	reason, advice, ok := strings.Cut(e.getenv(enteredVar), "\n")
	if !ok {
		return i, nil
	}
	i.Reason, i.Better = reason, nil
	if rung, why, ok := strings.Cut(advice, ": "); ok {
		i.Better = []runner.Finding{{Isolation: runner.Isolation{Rung: runner.Rung(rung)}, Obstacle: &runner.Obstacle{Why: why}}}
	}
	return i, nil
}

// isolationLine says how steps are isolated, and what would be better.
func isolationLine(i runner.Isolation) string {
	line := fmt.Sprintf("isolation: %s (%s)", i.Rung, i.Reason)
	if advice := i.Advice(); advice != "" {
		line += "; better is " + advice
	}
	return line
}
