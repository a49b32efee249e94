package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

// storeVersion is the format of the store's directory that this program reads and writes.
const storeVersion = 1

// storeFormat is the content of the file format.
type storeFormat struct {
	Version int `json:"version"`
	// Layers is the form of the unpacked layers; empty until there are any.
	Layers layersForm `json:"layers,omitempty"`
}

// layersForm says how layers are kept: with which marks of overlayfs, or as copies; and whose their files are.
type layersForm string

// The forms.
const (
	layersTrusted        layersForm = "trusted"         // overlay, as root
	layersUser           layersForm = "user"            // overlay, in a user namespace
	layersRecorded       layersForm = "recorded"        // overlay, in a user namespace with one id: owners are recorded
	layersCopies         layersForm = "copies"          // no overlay, as root
	layersUserCopies     layersForm = "user-copies"     // no overlay, in a user namespace
	layersRecordedCopies layersForm = "recorded-copies" // no overlay, owners are recorded
)

// String says for people how such layers were unpacked.
func (f layersForm) String() string {
	switch f {
	case layersTrusted:
		return "as root"
	case layersUser:
		return "in a user namespace"
	case layersRecorded:
		return "in a user namespace with one id"
	case layersCopies:
		return "as root without overlay"
	case layersUserCopies:
		return "in a user namespace without overlay"
	case layersRecordedCopies:
		return "by a user without overlay"
	default:
		return string(f)
	}
}

// formOf is the form of the layers that are made under i.
func formOf(i runner.Isolation) layersForm {
	// Before Enter, Rootless is not yet in the namespace.
	user := i.UserNS || i.Rung == runner.Rootless
	switch {
	case i.RecordsOwners() && i.NoOverlay:
		return layersRecordedCopies
	case i.RecordsOwners():
		return layersRecorded
	case user && i.NoOverlay:
		return layersUserCopies
	case user:
		return layersUser
	case i.NoOverlay:
		return layersCopies
	}
	return layersTrusted
}

// fit makes an isolation one that makes layers of the form f, if it can: what can have overlay can do without.
func (f layersForm) fit(i *runner.Isolation) *runner.Obstacle {
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

// readFormat reads the format of the store in root; that of a new store is the zero value.
func readFormat(root string) (storeFormat, error) {
	var f storeFormat
	data, err := os.ReadFile(filepath.Join(root, "format"))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("opening the store: %w", err)
	}
	if err := json.Unmarshal(data, &f); err != nil || f.Version < 1 {
		return f, fmt.Errorf("opening the store %s: its file \"format\" is damaged", root)
	}
	return f, nil
}

// probe finds the isolation to use: that of --isolation, or the best there is; for a store that has layers, of those that it can be used with.
func (e *environment) probe(root string) (runner.Isolation, error) {
	want, err := e.rung()
	if err != nil {
		return runner.Isolation{}, err
	}
	format, err := readFormat(root)
	if err != nil {
		return runner.Isolation{}, err
	}
	if format.Version > storeVersion {
		return runner.Isolation{}, newerFormat(root, format)
	}
	misfit := layersForm("")
	isolation, err := runner.Choose(want, func(i *runner.Isolation) *runner.Obstacle {
		o := format.Layers.fit(i)
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
		return isolation, misfitError(root, format.Layers, misfit)
	}
	return isolation, &hintError{
		fmt.Errorf("the layers of the store %s were unpacked %v, which does not work here: %w", root, format.Layers, err),
		"use another store with --root, or delete this one",
	}
}

// misfitError says that a store cannot be used as now is layersForm.
func misfitError(root string, have, now layersForm) error {
	return &hintError{
		fmt.Errorf("the layers of the store %s were unpacked %v and cannot be used %v", root, have, now),
		"use another store with --root, or delete this one",
	}
}

func newerFormat(root string, have storeFormat) error {
	return &hintError{
		fmt.Errorf("the store %s has format %d, and this strake knows %d", root, have.Version, storeVersion),
		"use a newer strake, or another store with --root",
	}
}

// settle decides, where boxes are made, the form of the layers of a new store, and makes the isolation one for that.
func (s *store) settle(i runner.Isolation) (runner.Isolation, error) {
	have, err := readFormat(s.root)
	if err != nil {
		return i, err
	}
	if have.Layers == "" {
		// The first layers: can they be mounted here?
		dir, remove, err := s.tempDir()
		if err != nil {
			return i, fmt.Errorf("opening the store: %w", err)
		}
		i, err = runner.ProbeStore(i, dir)
		remove()
		if err != nil {
			return i, err
		}
	} else if o := have.Layers.fit(&i); o != nil {
		return i, misfitError(s.root, have.Layers, formOf(i))
	}
	return i, s.checkFormat(formOf(i))
}

// snapshotOptions say how layers are kept under the isolation of s.
func (s *store) snapshotOptions() snapshot.Options {
	return snapshot.Options{UserXattr: s.isolation.UserNS, RecordOwners: s.isolation.RecordsOwners(), Copy: s.isolation.NoOverlay, Boot: bootID(), Lease: s.lease}
}

// checkFormat refuses a store that this program does not understand, or whose layers were unpacked in another form;
// it marks a new store. An empty form stands for any.
func (s *store) checkFormat(layers layersForm) error {
	have, err := readFormat(s.root)
	if err != nil {
		return err
	}
	switch {
	case have.Version > storeVersion:
		return newerFormat(s.root, have)
	case layers != "" && have.Layers != "" && layers != have.Layers:
		return misfitError(s.root, have.Layers, layers)
	}
	if layers == "" {
		layers = have.Layers
	}
	want := storeFormat{storeVersion, layers}
	if want == have {
		return nil
	}
	data, err := json.Marshal(want)
	if err != nil {
		return err
	}
	return replaceFile(s.path("format"), append(data, '\n'), 0o600, true)
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
