package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/strake-build/strake/cmd/ui"
)

// write prints the diagnosis for people.
func (d *diagnosis) write(w io.Writer) error {
	t := newTable(w)
	fmt.Fprintln(t, "RUNG\tWORKS\tWHY")
	for _, r := range d.Rungs {
		works := "no"
		if r.Works {
			works = "yes"
		}
		if r.Used {
			works += ", used"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", r.Name, works, r.text())
		if r.Fix != "" && (!r.notRoot || !d.CanRun) {
			fmt.Fprintf(t, "\t\tto mend it: %s\n", r.Fix)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w)
	row := func(name, text string) { fmt.Fprintf(t, "%s\t%s\n", name, text) }
	d.writeStore(row)
	d.writeMachine(row)
	d.writeCredentials(row)
	for _, r := range d.Registries {
		row("registry", r.text())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if d.CanRun {
		fmt.Fprintf(w, "A RUN works here: isolation %s (%s).\n", d.Isolation.Rung, d.Isolation.Reason)
		if !d.Store.Writable {
			fmt.Fprintln(w, "A build needs a store that can be written: another directory by --root or STRAKE_ROOT.")
		}
		return nil
	}
	// The rungs are in the table already.
	first, _, _ := strings.Cut(d.Isolation.Error, "\n")
	fmt.Fprintf(w, "No RUN works here: %s.\n", first)
	if hint := d.hint(); hint != "" {
		fmt.Fprintf(w, "To mend it: %s.\n", hint)
	}
	return nil
}

// text is how the rung works, or what is in its way.
func (r rungReport) text() string {
	if r.Works {
		return r.Reason
	}
	var parts []string
	if r.What != "" {
		parts = append(parts, r.What)
	}
	failed := r.Error
	if r.Call != "" && failed != "" {
		failed = r.Call + ": " + failed
	}
	for _, p := range []string{failed, r.Why} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ": ")
}

func (d *diagnosis) writeStore(row func(name, text string)) {
	s := d.Store
	state := "new"
	switch {
	case s.Layers != "":
		state = "unpacked " + s.Layers.String()
	case s.Exists:
		state = "without layers"
	}
	row("store", fmt.Sprintf("%s (%s)", s.Path, state))
	if s.Error != "" {
		row("", s.Error)
	}
	yes := func(ok bool, what string) string {
		if ok {
			return what
		}
		return "no " + what
	}
	row("", fmt.Sprintf("%s, %s, %s, %s, %s free, %d inodes free, %d watches", s.FileSystem, yes(s.Overlay, "overlay"), yes(s.Reflink, "reflinks"),
		yes(s.UserXattrs, "user attributes"), ui.Size(s.FreeBytes), s.FreeInodes, s.InotifyWatches))
	if s.OverlayError != "" {
		row("", "overlay: "+s.OverlayError)
	}
}

func (d *diagnosis) writeMachine(row func(name, text string)) {
	limits := "none"
	if c := d.Cgroups; c.Error != "" {
		limits = c.Error
	} else if c.Version > 0 {
		limits = fmt.Sprintf("cgroup v%d, ", c.Version)
		switch {
		case len(c.Controllers) > 0:
		case c.Version == 2:
			limits += "no controllers: use systemd-run --user --scope -p Delegate=yes strake …"
		default:
			limits += "no controllers that this user may set"
		}
		limits += strings.Join(c.Controllers, " ")
	}
	row("limits", limits)
	var helpers []string
	for _, p := range d.Network {
		if p.Path != "" {
			helpers = append(helpers, p.Path)
		}
	}
	row("network", orNone(strings.Join(helpers, ", "), "no helper (pasta or slirp4netns)"))
	var found []string
	for _, e := range d.Emulators {
		name := e.Name
		switch {
		case !e.Enabled:
			name += " (disabled)"
		case !e.Fixed:
			name += " (not for steps: register it with the flag F)"
		}
		found = append(found, name)
	}
	row("emulators", orNone(strings.Join(found, ", "), "none"))
}

func (d *diagnosis) writeCredentials(row func(name, text string)) {
	name := "credentials"
	for _, c := range d.Credentials {
		var what []string
		if len(c.Registries) > 0 {
			what = append(what, strings.Join(c.Registries, ", "))
		}
		for _, registry := range slices.Sorted(maps.Keys(c.Helpers)) {
			helper := "docker-credential-" + c.Helpers[registry]
			if slices.Contains(c.Missing, c.Helpers[registry]) {
				helper += ", which is missing"
			}
			what = append(what, fmt.Sprintf("%s by %s", orNone(registry, "all others"), helper))
		}
		if c.Error != "" {
			what = append(what, c.Error)
		}
		row(name, printableText(fmt.Sprintf("%s: %s", c.File, orNone(strings.Join(what, "; "), "none"))))
		name = ""
	}
	if name != "" {
		row(name, "none")
	}
	name = "certificates"
	for _, c := range d.Certificates {
		text := fmt.Sprintf("%s: %s, until %s", c.File, c.Subject, c.Expires)
		switch {
		case c.Error != "":
			text = fmt.Sprintf("%s: %s", c.File, c.Error)
		case c.Expired:
			text = fmt.Sprintf("%s: %s, expired on %s", c.File, c.Subject, c.Expires)
		}
		row(name, printableText(text))
		name = ""
	}
	if name != "" {
		row(name, "none but the system's")
	}
}

// text says for people how a registry answered.
func (r registryReport) text() string {
	if !r.Works {
		return printableText(fmt.Sprintf("%s fails: %s", r.Name, r.Error))
	}
	text := fmt.Sprintf("%s works by %s", r.Name, r.Scheme)
	if r.Expires != "" {
		text += ", its certificate until " + r.Expires
	}
	switch {
	case r.Credentials != "":
		text += ", with the credentials in " + r.Credentials
	case r.Auth != "":
		text += ", without credentials"
	}
	return printableText(text)
}

// printableText is text from files and servers, on one line.
func printableText(text string) string {
	return strings.Join(strings.Fields(string(ui.Printable([]byte(text)))), " ")
}

func orNone(text, none string) string {
	if text == "" {
		return none
	}
	return text
}
