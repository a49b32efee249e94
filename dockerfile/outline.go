package dockerfile

import (
	"cmp"
	"maps"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Outline is the answer to --call outline: what a target can be given. Its JSON is that of BuildKit's subrequest "frontend.outline".
type Outline struct {
	Name        string          `json:"name,omitempty"`
	Description string          `json:"description,omitempty"`
	Args        []OutlineArg    `json:"args,omitempty"`
	Secrets     []OutlineSecret `json:"secrets,omitempty"`
	SSH         []OutlineSecret `json:"ssh,omitempty"`
	Sources     [][]byte        `json:"sources,omitempty"`
}

// OutlineArg is a build argument.
type OutlineArg struct {
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Value       string    `json:"value,omitempty"`
	Location    *Location `json:"location,omitempty"`
}

// OutlineSecret is a secret or an ssh agent.
type OutlineSecret struct {
	Name     string    `json:"name"`
	Required bool      `json:"required,omitempty"`
	Location *Location `json:"location,omitempty"`
}

// Text is the outline as tables.
func (o Outline) Text() string {
	var text string
	add := func(blanks int, rows [][]string) {
		if len(rows) > 1 {
			text += table(blanks, rows) + "\n"
		}
	}
	if o.Name != "" || o.Description != "" {
		text = table(1, [][]string{{"TARGET:", cmp.Or(o.Name, "(default)")}})
		if o.Description != "" {
			text = table(1, [][]string{{"TARGET:", cmp.Or(o.Name, "(default)")}, {"DESCRIPTION:", o.Description}})
		}
		text += "\n"
	}
	rows := [][]string{{"BUILD ARG", "VALUE", "DESCRIPTION"}}
	for _, a := range o.Args {
		rows = append(rows, []string{a.Name, a.Value, a.Description})
	}
	add(3, rows)
	add(3, secretRows("SECRET", o.Secrets))
	add(3, secretRows("SSH", o.SSH))
	return text
}

func secretRows(title string, list []OutlineSecret) [][]string {
	rows := [][]string{{title, "REQUIRED"}}
	for _, s := range list {
		required := ""
		if s.Required {
			required = "true"
		}
		rows = append(rows, []string{s.Name, required})
	}
	return rows
}

// Outline collects what the target can be given. base gives the state that an image or a named context hands to a stage, and may be nil: then
// what their environment and their triggers would add is left out. The settings should say CheckOnly.
func (g *Graph) Outline(base func(*Stage) (State, error)) (Outline, error) {
	o := outliner{g: g, base: base, states: map[*Stage]State{}, seen: map[string]bool{}, meta: g.metaInfo()}
	if err := o.stage(g.Target); err != nil {
		return Outline{}, err
	}
	byLine := func(a, b *Location) int { return cmp.Compare(a.line(), b.line()) }
	slices.SortStableFunc(o.out.Args, func(a, b OutlineArg) int { return byLine(a.Location, b.Location) })
	slices.SortStableFunc(o.out.Secrets, func(a, b OutlineSecret) int { return byLine(a.Location, b.Location) })
	slices.SortStableFunc(o.out.SSH, func(a, b OutlineSecret) int { return byLine(a.Location, b.Location) })
	o.out.Name, o.out.Description = g.Target.Name, g.Target.from.DocComment
	o.out.Sources = [][]byte{g.File.Source}
	return o.out, nil
}

// argInfo is an argument as an outline shows it.
type argInfo struct {
	arg  OutlineArg
	deps []string // arguments in its default
}

// outliner goes through the stages that a target needs.
type outliner struct {
	g      *Graph
	base   func(*Stage) (State, error)
	states map[*Stage]State
	meta   map[string]argInfo
	seen   map[string]bool // "arg NAME", "secret NAME", "ssh NAME"
	out    Outline
}

// capture is what one stage uses.
type capture struct {
	infos        map[string]argInfo
	used         []string
	secrets, ssh []OutlineSecret
}

// metaInfo describes the arguments before the first FROM.
func (g *Graph) metaInfo() map[string]argInfo {
	lex := shell.NewLex(g.File.parsed.EscapeToken)
	args := platformArgs(g.settings, g.settings.Target)
	infos := map[string]argInfo{}
	for _, c := range g.File.meta {
		for _, a := range c.Args {
			info := argInfo{arg: outlineArg(a, toRange(c.Location()))}
			value, given := g.settings.BuildArgs[a.Key]
			if !given && a.Value != nil {
				// It has been expanded before, without an error.
				r, err := lex.ProcessWordWithMatches(*a.Value, newMeter(args, nil))
				if err != nil {
					continue
				}
				value, given = r.Result, true
				for _, k := range slices.Sorted(maps.Keys(r.Matched)) {
					if k != a.Key {
						info.deps = append(info.deps, k)
						continue
					}
					info.deps = append(info.deps, infos[k].deps...)
				}
			}
			if given {
				args.set(a.Key, value)
			}
			info.arg.Value = value
			infos[a.Key] = info
		}
	}
	return infos
}

func outlineArg(a instructions.KeyValuePairOptional, at Range) OutlineArg {
	return OutlineArg{Name: a.Key, Description: a.DocComment, Location: location(at)}
}

// stage adds what s uses, then what those use that it needs.
func (o *outliner) stage(s *Stage) error {
	if _, ok := o.states[s]; ok {
		return nil
	}
	o.states[s] = State{}
	c := &capture{infos: maps.Clone(o.meta)}
	var state State
	var err error
	// The state of a base stage is needed first, but its arguments come after those of s.
	var below outliner
	if s.Base.Stage != nil {
		below = outliner{g: o.g, base: o.base, states: o.states, meta: o.meta, seen: map[string]bool{}}
		if err = below.stage(s.Base.Stage); err != nil {
			return err
		}
		state = o.states[s.Base.Stage]
	} else if o.base != nil && (s.Base.Image != "" || s.Base.Context != "") {
		if state, err = o.base(s); err != nil {
			return err
		}
	} else if s.Base.Image != "" {
		state = BaseState(emptyImage(s.Platform))
	}
	steps, after, err := o.g.expand(s, state, c)
	if err != nil {
		return err
	}
	o.states[s] = after
	c.used = append(o.g.usedInFrom(s), c.used...)
	o.add(c)
	o.merge(below.out)
	for _, from := range stagesOf(steps) {
		if err := o.stage(from); err != nil {
			return err
		}
	}
	return nil
}

// usedInFrom are the arguments in a stage's FROM.
func (g *Graph) usedInFrom(s *Stage) []string {
	if s.Base.Replaces == ReplacesStage {
		return nil
	}
	lex := shell.NewLex(g.File.parsed.EscapeToken)
	var used []string
	for _, word := range []string{s.from.BaseName, s.from.Platform} {
		if r, err := lex.ProcessWordWithMatches(word, newMeter(g.args, nil)); err == nil {
			used = append(used, slices.Sorted(maps.Keys(r.Matched))...)
		}
	}
	return used
}

// stagesOf are the stages that steps read from.
func stagesOf(steps []Step) []*Stage {
	var list []*Stage
	add := func(s *Source) {
		if s != nil && s.Stage != nil {
			list = append(list, s.Stage)
		}
	}
	for _, s := range steps {
		switch op := s.Op.(type) {
		case *Copy:
			add(op.From)
		case *Run:
			for _, m := range op.Mounts {
				add(m.From)
			}
		}
	}
	return list
}

// add takes what a stage uses into the outline, and the arguments in the defaults of those.
func (o *outliner) add(c *capture) {
	for i := 0; i < len(c.used); i++ {
		k := c.used[i]
		info, ok := c.infos[k]
		if !ok || o.seen["arg "+k] {
			continue
		}
		o.seen["arg "+k] = true
		o.out.Args = append(o.out.Args, info.arg)
		c.used = append(c.used, info.deps...)
	}
	o.out.Secrets = o.addSecrets("secret ", o.out.Secrets, c.secrets)
	o.out.SSH = o.addSecrets("ssh ", o.out.SSH, c.ssh)
}

// merge adds another outline.
func (o *outliner) merge(other Outline) {
	for _, a := range other.Args {
		if !o.seen["arg "+a.Name] {
			o.seen["arg "+a.Name] = true
			o.out.Args = append(o.out.Args, a)
		}
	}
	o.out.Secrets = o.addSecrets("secret ", o.out.Secrets, other.Secrets)
	o.out.SSH = o.addSecrets("ssh ", o.out.SSH, other.SSH)
}

func (o *outliner) addSecrets(kind string, to, list []OutlineSecret) []OutlineSecret {
	for _, s := range list {
		if !o.seen[kind+s.Name] {
			o.seen[kind+s.Name] = true
			to = append(to, s)
		}
	}
	return to
}

// captureArg notes an ARG of the stage. One that only brings in an argument from before the first FROM is described there.
func (e *expander) captureArg(c *instructions.ArgCommand, a instructions.KeyValuePairOptional, value string, inherited bool) {
	if e.capture == nil {
		return
	}
	if !inherited {
		info := argInfo{arg: outlineArg(a, toRange(c.Location()))}
		info.arg.Value = value
		e.capture.infos[a.Key] = info
	}
	e.capture.used = append(e.capture.used, a.Key)
}

// captureMount notes a secret or an agent.
func (e *expander) captureMount(m Mount) {
	if e.capture == nil {
		return
	}
	s := OutlineSecret{Name: m.ID, Required: m.Required, Location: location(toRange(e.at.cmd.Location()))}
	if m.Type == MountSecret {
		e.capture.secrets = append(e.capture.secrets, s)
	}
	if m.Type == MountSSH {
		e.capture.ssh = append(e.capture.ssh, s)
	}
}
