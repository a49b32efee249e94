package builder

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strake-build/strake/cache"
)

// explain says what changed of the step itself since an earlier record of it, the first thing and how many more; "" if nothing
// did. Values of variables are not shown.
func (s *step) explain(ctx context.Context, earlier cache.Record, parts, content []cache.Part) string {
	x := explainer{step: s, before: grouped(earlier.Parts, earlier.Content), now: grouped(parts, content)}
	if content == nil {
		x.before = grouped(earlier.Parts, nil)
	}
	x.command()
	x.files(ctx)
	x.variables(earlier.Notes)
	x.attributes()
	if len(x.found) == 0 {
		return ""
	}
	if more := len(x.found) - 1; more > 0 {
		return fmt.Sprintf("%s (and %d more)", x.found[0], more)
	}
	return x.found[0]
}

// named are the values of parts by name.
type named map[string][]string

// grouped groups parts. What both lists say counts once.
func grouped(parts, content []cache.Part) named {
	n := named{}
	for _, p := range parts {
		n[p.Name] = append(n[p.Name], p.Value)
	}
	extra := named{}
	for _, p := range content {
		if _, ok := n[p.Name]; !ok {
			extra[p.Name] = append(extra[p.Name], p.Value)
		}
	}
	maps.Copy(n, extra)
	return n
}

// explainer collects what changed, the likeliest first.
type explainer struct {
	*step
	before, now named
	found       []string
}

func (x *explainer) add(format string, args ...any) {
	x.found = append(x.found, fmt.Sprintf(format, args...))
}

func (x *explainer) changed(name string) bool { return !slices.Equal(x.before[name], x.now[name]) }

// command compares what a RUN runs.
func (x *explainer) command() {
	if x.changed("script") {
		x.add("the heredoc changed")
	}
	if !x.changed("arg") {
		return
	}
	a, b := x.before["arg"], x.now["arg"]
	last := len(a) - 1
	if len(a) == len(b) && last >= 0 && slices.Equal(a[:last], b[:last]) {
		a, b = a[last:], b[last:]
	}
	first, second := cut(strings.Join(a, " "), strings.Join(b, " "))
	x.add("command changed: %q → %q", first, second)
}

// cut makes two texts short, around where they begin to differ.
func cut(a, b string) (string, string) {
	const context = 20
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	if n <= 2*context {
		return clip(a), clip(b)
	}
	from := n - context
	for from > 0 && a[from]&0xc0 == 0x80 { // not in the middle of a character
		from--
	}
	return "…" + clip(a[from:]), "…" + clip(b[from:])
}

// variables compares the environments of a RUN. notes tell which were arguments before.
func (x *explainer) variables(notes []cache.Part) {
	if !x.changed("env") {
		return
	}
	declared := map[string]bool{}
	for _, n := range notes {
		declared[n.Value] = declared[n.Value] || n.Name == "ARG"
	}
	w, ok := x.work.(*runWork)
	if ok {
		for _, a := range w.run.Declared {
			declared[a] = true
		}
	}
	a, b := environment(x.before["env"]), environment(x.now["env"])
	names := slices.Sorted(maps.Keys(a))
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	count := len(x.found)
	for _, name := range names {
		old, had := a[name]
		value, has := b[name]
		how := "changed"
		switch {
		case had && has && old == value:
			continue
		case !had:
			how = "added"
		case !has:
			how = "removed"
		}
		if !declared[name] {
			x.add("ENV %s %s", name, how)
			continue
		}
		x.add("ARG %s %s%s", name, how, x.hint(name, how))
	}
	if len(x.found) == count {
		x.add("the order of variables changed")
	}
}

// hint is advice for an argument that the command of a RUN does not speak of. A program may still read it.
func (x *explainer) hint(name, how string) string {
	w, ok := x.work.(*runWork)
	if !ok || how == "removed" || len(x.found) > 0 {
		return ""
	}
	texts := slices.Clone(w.run.Args)
	if w.run.Script != nil {
		texts = append(texts, string(w.run.Script.Data))
	}
	if slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, name) }) {
		return ""
	}
	return fmt.Sprintf(" (the command does not name it: unless a program reads it, move ARG %s below this step)", name)
}

func environment(list []string) map[string]string {
	env := map[string]string{}
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	return env
}

// files compares what a COPY or an ADD copies.
func (x *explainer) files(ctx context.Context) {
	w, ok := x.work.(*copyWork)
	if !ok || !x.changed(cache.PartFiles) {
		return
	}
	if x.changed(cache.PartSource) || x.changed("exclude") || x.changed("parents") {
		return // the instruction changed: the files are others for this
	}
	root := ""
	if w.fromStage {
		root = "/"
	}
	before, now := x.before[cache.PartFiles], x.now[cache.PartFiles]
	if len(before) == 0 || len(now) == 0 {
		return // not known yet
	}
	lists := w.lists(ctx)
	var changes []cache.Change
	for i := range now {
		if i >= len(before) || before[i] == now[i] {
			continue
		}
		list, ok := lists[w.listKey(now[i])]
		if !ok {
			continue
		}
		if old, err := x.Records.LoadFiles(ctx, w.listKey(before[i])); err == nil {
			changes = append(changes, cache.CompareFiles(old, list)...)
		}
	}
	switch len(changes) {
	case 0:
		x.add("files changed")
	case 1:
		x.add("%s%s %s", root, changes[0].Path, changes[0].How)
	default:
		x.add("%s%s %s (+%d more)", root, changes[0].Path, changes[0].How, len(changes)-1)
	}
}

// attributes compares everything else.
func (x *explainer) attributes() {
	for _, a := range []struct{ name, said string }{
		{"instruction", "the instruction"},
		{"source", "the sources"},
		{"dest", "the destination"},
		{"exclude", "--exclude"},
		{"parents", "--parents"},
		{"link", "--link"},
		{"chown", "--chown"},
		{"chmod", "--chmod"},
		{"folder-mode", "the mode of the folder"},
		{"unpack", "--unpack"},
		{"user", "USER"},
		{"dir", "WORKDIR"},
		{"network", "the network"},
		{"security", "--security"},
		{"device", "--device"},
		{"host", "--add-host"},
		{"hostname", "the host name"},
		{"ulimit", "--ulimit"},
		{"shm-size", "--shm-size"},
	} {
		if !x.changed(a.name) {
			continue
		}
		before, now := strings.Join(x.before[a.name], " "), strings.Join(x.now[a.name], " ")
		if before == "" || now == "" || a.name == "instruction" {
			x.add("%s changed", a.said)
		} else {
			x.add("%s changed: %s → %s", a.said, clip(before), clip(now))
		}
	}
	if x.changed("inline") || x.changed("data") {
		x.add("the heredoc changed")
	}
	if x.changed("file") {
		x.add("what the URL serves changed")
	}
	if x.changed("repository") {
		x.add("the repository changed")
	}
	if x.changed("clamp") || x.changed("time") {
		x.add("SOURCE_DATE_EPOCH changed")
	}
	x.mounts()
	if x.changed("owner") || x.changed("ways") {
		x.add("what lies below the copy changed")
	}
}

// mounts compares the mounts of a RUN.
func (x *explainer) mounts() {
	before, now := environment(x.before["secret"]), environment(x.now["secret"])
	for _, id := range slices.Sorted(maps.Keys(now)) {
		if old, ok := before[id]; ok && old != now[id] {
			x.add("the secret %s changed", id)
		}
	}
	for _, name := range []string{"mount", "target", "read-only", "size", "mount-id", "mount-env", "mount-owner", "mount-source"} {
		if x.changed(name) {
			x.add("--mount changed")
			return
		}
	}
	if x.now["mounted"] != nil && x.before["mounted"] != nil && x.changed("mounted") {
		x.add("the mounted files changed")
	}
}
