package dockerfile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
)

// State is a stage's result as far as the language goes: the image configuration so far, and
// the arguments in scope. The zero State is scratch.
type State struct {
	// Config is the image's. History and RootFS.DiffIDs are not filled here: they stay as BaseState was given them.
	Config v1.ConfigFile
	// StartInterval is HEALTHCHECK --start-interval, which v1.HealthConfig has no field for. It belongs into the image's
	// JSON as config.Healthcheck.StartInterval, in nanoseconds, left out when zero. Who reads a base image sets it.
	StartInterval time.Duration
	// Warnings are the lint findings of the stage that this is the state of; not of its base.
	Warnings []Warning

	env        *environ // of a RUN: the image's and the arguments
	args       []buildArg
	workdirSet bool // a stage of this file said WORKDIR
}

// BaseState is the state that an image (or scratch, for a zero config) hands to FROM.
func BaseState(config v1.ConfigFile) State { return State{Config: config} }

// defaultPath is the PATH of an image that sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const historyComment = "buildkit.dockerfile.v0"

// expander goes through the instructions of one stage.
type expander struct {
	g     *Graph
	stage *Stage
	found findings
	state State // the one that is being made
	steps []Step

	// The instruction at hand.
	at   instruction
	lint *linter.Linter

	lexer *shell.Lex // see lex
	vars  *meter     // state.env, for the lexer

	cmdAt, entrypointAt, healthcheckAt []parser.Range // of the latest one in this stage

	capture *capture // nil if nobody wants it
}

// Expand gives the steps of stage s on top of base, ONBUILD triggers of the base first, and the state after them. base is the state
// of the stage that s is built on, or BaseState of its image's or named context's configuration (zero for a context without one). Instructions that leave nothing behind
// but a trigger (ONBUILD) are no steps. It changes neither the graph nor base, and s may be any stage of the file.
func (g *Graph) Expand(s *Stage, base State) ([]Step, State, error) {
	return g.expand(s, base, nil)
}

// expand is Expand. What an outline shows is noted in outline, which may be nil.
func (g *Graph) expand(s *Stage, base State, outline *capture) ([]Step, State, error) {
	if s.Base.Replaces == ReplacesStage {
		return nil, g.replaced(s, base), nil
	}
	e := &expander{g: g, stage: s, found: newFindings(g.lint), capture: outline}
	if err := e.begin(base); err != nil {
		return nil, State{}, g.File.failIn(s.String(), s.from.SourceCode, s.Range, err)
	}
	triggers, err := g.triggers(s, base.Config.Config.OnBuild)
	if err != nil {
		return nil, State{}, err
	}
	for _, i := range slices.Concat(triggers, s.body) {
		if err := e.instruction(i); err != nil {
			return nil, State{}, withFindings(g.failAt(s, i, err), *e.found.warnings)
		}
	}
	e.end()
	return e.steps, e.state, nil
}

// begin makes the state that the first instruction sees.
func (e *expander) begin(base State) error {
	e.state = base
	e.state.Warnings = nil
	c := &e.state.Config
	switch from := e.stage.Base; {
	case from.Image != "":
		e.lintBasePlatform()
	case from.Stage == nil && (from.Context == "" || noImage(base.Config)):
		e.state = State{Config: emptyImage(e.stage.Platform)}
	case from.Stage == nil:
		e.lintBasePlatform()
	}
	if err := unsupportedOS(c.OS); err != nil && !e.g.settings.CheckOnly {
		return err
	}
	cloneConfig(c)
	c.Config.OnBuild = nil // they are run now, and once
	if !slices.ContainsFunc(c.Config.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") || kv == "PATH" }) {
		c.Config.Env = append(c.Config.Env, "PATH="+defaultPath)
	}
	// The image's variables come again over what is left of the base stage's arguments.
	env := e.state.env.clone()
	for _, kv := range c.Config.Env {
		k, v, _ := strings.Cut(kv, "=")
		env.set(k, v)
	}
	e.state.env, e.vars = env, newMeter(env, &e.g.left)
	// A stage lists the variables of the stage below once more: many stages on one another would fill any memory, too.
	if err := e.vars.spend(listedVariable * len(c.Config.Env)); err != nil {
		return err
	}
	e.state.args = slices.Clip(e.state.args)
	if c.Config.WorkingDir != "" {
		c.Config.WorkingDir = joinDir(c.Config.WorkingDir, c.Config.WorkingDir)
	}
	return nil
}

// end makes the state what the stage's builder is to see.
func (e *expander) end() {
	c := &e.state.Config
	if e.stage == e.g.Target && e.g.settings.PlatformGiven {
		p := e.g.settings.Platform
		same := p.OS == c.OS && p.Architecture == c.Architecture
		c.OS, c.Architecture = p.OS, p.Architecture
		if p.Variant != "" || !same {
			c.Variant = p.Variant
		}
		if p.OSVersion != "" || !same {
			c.OSVersion = p.OSVersion
		}
		if p.OSFeatures != nil {
			c.OSFeatures = slices.Clone(p.OSFeatures)
		}
	}
	if e.stage == e.g.Target {
		c.Architecture, c.Variant = normalArch(c.Architecture, c.Variant)
		c.OS = strings.ToLower(c.OS)
	}
	e.state.Warnings = *e.found.warnings
}

// noImage says that a named context has no configuration: it is a folder, or a repository.
func noImage(c v1.ConfigFile) bool { return c.OS == "" && c.Architecture == "" }

// replaced is the state of a stage that a named context stands for.
func (g *Graph) replaced(s *Stage, base State) State {
	if noImage(base.Config) {
		return State{Config: emptyImage(s.Platform)}
	}
	c := base.Config
	cloneConfig(&c)
	c.Config.OnBuild = nil
	return State{Config: c, StartInterval: base.StartInterval}
}

// emptyImage is the configuration of scratch.
func emptyImage(p v1.Platform) v1.ConfigFile {
	return v1.ConfigFile{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		OSVersion: p.OSVersion, OSFeatures: slices.Clone(p.OSFeatures),
		RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{WorkingDir: "/", Env: []string{"PATH=" + defaultPath}},
	}
}

// cloneConfig makes c share nothing with another that instructions write to, and drops what an image has
// from the container that it was once committed from: BuildKit's configuration has no such fields.
func cloneConfig(c *v1.ConfigFile) {
	old := c.Config
	*c = v1.ConfigFile{
		Author: c.Author, History: c.History, RootFS: c.RootFS,
		OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, OSVersion: c.OSVersion, OSFeatures: c.OSFeatures,
	}
	c.Config = v1.Config{
		User: old.User, WorkingDir: old.WorkingDir, StopSignal: old.StopSignal, ArgsEscaped: old.ArgsEscaped,
		Env: slices.Clone(old.Env), Entrypoint: slices.Clone(old.Entrypoint), Cmd: slices.Clone(old.Cmd),
		OnBuild: slices.Clone(old.OnBuild), Shell: slices.Clone(old.Shell),
		ExposedPorts: maps.Clone(old.ExposedPorts), Volumes: maps.Clone(old.Volumes), Labels: maps.Clone(old.Labels),
	}
	if h := old.Healthcheck; h != nil {
		copied := *h
		copied.Test = slices.Clone(h.Test)
		c.Config.Healthcheck = &copied
	}
}

// lintBasePlatform is the rule on a base image that is for another platform than was asked for.
func (e *expander) lintBasePlatform() {
	lintPlatform(e.found.with(e.stage.from.Comments), cmp.Or(e.stage.Base.Image, e.stage.Base.Context), e.stage.Platform, e.state.Config, e.stage.from.Location)
}

// instruction expands one and applies it to the state.
func (e *expander) instruction(i instruction) error {
	c, err := i.fresh()
	if err != nil {
		return err
	}
	e.at, e.lint = i, e.found.with(c.Comments())
	if err := e.expandWords(c); err != nil {
		return err
	}
	switch c := c.(type) {
	case *instructions.RunCommand:
		return e.run(c)
	case *instructions.CopyCommand:
		return e.copy(c)
	case *instructions.AddCommand:
		return e.add(c)
	case *instructions.WorkdirCommand:
		return e.workdir(c)
	case *instructions.EnvCommand:
		return e.env(c)
	case *instructions.ArgCommand:
		return e.arg(c)
	case *instructions.ExposeCommand:
		return e.expose(c)
	case *instructions.VolumeCommand:
		return e.volume(c)
	case *instructions.StopSignalCommand:
		return e.stopSignal(c)
	case *instructions.LabelCommand:
		e.label(c)
	case *instructions.CmdCommand:
		e.cmd(c)
	case *instructions.EntrypointCommand:
		e.entrypoint(c)
	case *instructions.HealthCheckCommand:
		e.healthcheck(c)
	case *instructions.ShellCommand:
		e.state.Config.Config.Shell = c.Shell
		e.metadata(fmt.Sprintf("SHELL %v", c.Shell))
	case *instructions.UserCommand:
		e.state.Config.Config.User = c.User
		e.metadata("USER " + c.User)
	case *instructions.MaintainerCommand:
		e.state.Config.Author = c.Maintainer
		e.metadata("MAINTAINER " + c.Maintainer)
	case *instructions.OnbuildCommand:
		e.state.Config.Config.OnBuild = append(e.state.Config.Config.OnBuild, c.Expression)
	default:
		return refuse(strings.ToUpper(c.Name()))
	}
	return nil
}

// expandWords expands variables in the words that the language expands them in. The words of ARG are left: a default
// may never be needed.
func (e *expander) expandWords(c instructions.Command) error {
	if _, ok := c.(*instructions.ArgCommand); ok {
		return nil
	}
	if x, ok := c.(instructions.SupportsSingleWordExpansion); ok {
		lex := e.lex()
		if err := x.Expand(func(word string) (string, error) { return e.word(c, lex, word) }); err != nil {
			return err
		}
	}
	if x, ok := c.(instructions.SupportsSingleWordExpansionRaw); ok {
		lex := shell.NewLex('\\')
		lex.SkipProcessQuotes = true
		return x.ExpandRaw(func(word string) (string, error) { return e.word(c, lex, word) })
	}
	return nil
}

// lex is a lexer with the file's escape sign. A new one for each instruction costs more than what it does.
func (e *expander) lex() *shell.Lex {
	if e.lexer == nil {
		e.lexer = shell.NewLex(e.g.File.parsed.EscapeToken)
	}
	return e.lexer
}

// plainWord says whether no lexer would change a word: it has nothing but letters, digits and harmless signs.
func plainWord(word string) bool {
	for i := range len(word) {
		switch c := word[i]; {
		case c < ' ' || c > '~', c == '$', c == '\'', c == '"', c == '\\', c == '`', c == '<':
			return false
		}
	}
	return true
}

// word expands one word; variables that are not there are empty, and warned of.
func (e *expander) word(c instructions.Command, lex *shell.Lex, word string) (string, error) {
	if plainWord(word) {
		return word, nil
	}
	expanded, unknown, err := lex.ProcessWord(word, e.vars)
	if err = cmp.Or(err, e.vars.err()); len(unknown) == 0 {
		return expanded, err
	}
	for _, k := range slices.Sorted(maps.Keys(unknown)) {
		declared := slices.ContainsFunc(e.state.args, func(a buildArg) bool { return a.key == k })
		if declared || notInEnv(k) {
			continue
		}
		match, _ := suggest.Search(k, e.state.env.Keys(), true)
		e.lint.Run(&linter.RuleUndefinedVar, c.Location(), linter.RuleUndefinedVar.Format(k, match))
	}
	return expanded, err
}

// metadata adds a step that only changes the configuration.
func (e *expander) metadata(history string) {
	e.step(nil, upperFirst(strings.TrimSpace(e.at.node.Original)), v1.History{CreatedBy: history, EmptyLayer: true})
}

func (e *expander) step(op Op, name string, h v1.History) {
	h.Comment = historyComment
	e.steps = append(e.steps, Step{
		Op: op, Range: Range{Start: e.at.node.StartLine, End: e.at.node.EndLine}, Name: name,
		Text: strings.TrimSpace(e.at.node.Original), OnBuild: e.at.onBuild, History: h,
	})
}

// title is an instruction's text with its variables expanded, for people; as it is where that fails.
func title(lex *shell.Lex, text string, vars *meter) string {
	if plainWord(text) {
		return upperFirst(text)
	}
	if expanded, _, err := lex.ProcessWord(text, vars); err == nil {
		text = expanded
	}
	return upperFirst(text)
}

// upperFirst writes the first word, the instruction's name, in capitals.
func upperFirst(text string) string {
	word, rest, found := strings.Cut(text, " ")
	if !found {
		return strings.ToUpper(word)
	}
	return strings.ToUpper(word) + " " + rest
}
