package dockerfile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
)

// Settings are what a build says beside the Dockerfile.
type Settings struct {
	Target    string            // --target; empty is the last stage
	BuildArgs map[string]string // --build-arg, also the predefined proxy arguments
	Platform  v1.Platform       // of the image
	// PlatformGiven: Platform was asked for, so the image is labelled with it whatever its base says.
	PlatformGiven bool
	Build         v1.Platform // of the machine that builds
}

// Graph is what a build of one target needs. It may be used by several goroutines at once.
type Graph struct {
	File   *File
	Target *Stage
	// Stages are those that Target needs as far as the text tells (ONBUILD triggers of an image may
	// add more, see Needs), each after those that it needs.
	Stages []*Stage
	// Warnings are the lint findings of the text under these settings, those of the File included.
	Warnings []Warning

	settings Settings
	lint     linter.Config
	args     *environ // the arguments before the first FROM, which an ARG in a stage brings in
	proxy    []string
	all      []*Stage
	byName   map[string]*Stage // the last one of each name
}

// scratch is the name of the empty image.
const scratch = "scratch"

// dep is a stage that an instruction reads from.
type dep struct {
	stage *Stage
	at    instruction
}

// Graph resolves the target, every base and every COPY --from, and expands FROM. Unknown targets and stages, cycles
// and forward references are errors, and so is what this release leaves out in a stage that the target needs.
func (f *File) Graph(s Settings) (*Graph, error) {
	if syntax, ok := s.BuildArgs["BUILDKIT_SYNTAX"]; ok {
		if err := builtinSyntax(syntax); err != nil {
			return nil, f.fail(Range{}, err)
		}
	}
	config, err := f.lintConfig(s.BuildArgs)
	if err != nil {
		return nil, err
	}
	g := &Graph{File: f, settings: s, lint: config, proxy: proxyEnv(s.BuildArgs), byName: map[string]*Stage{}}
	found := newFindings(config)
	if err := g.resolveArgs(found); err != nil {
		return nil, err
	}
	for _, s := range f.Stages {
		if err := g.addStage(s.clone(), found); err != nil {
			return nil, err
		}
	}
	g.Warnings = slices.Concat(f.Warnings, *found.warnings)
	if _, ok := s.BuildArgs[checkArg]; ok {
		if g.Warnings, err = f.relint(found); err != nil {
			return nil, err
		}
	}
	if err := g.resolveTarget(); err != nil {
		return nil, err
	}
	if err := g.resolveDeps(); err != nil {
		return nil, err
	}
	g.Stages = g.Needs(g.Target)
	for _, s := range g.Stages {
		if err := g.check(s); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// relint finds again what Parse found, under the rules of found, which has already what Graph finds.
func (f *File) relint(found findings) ([]Warning, error) {
	late := slices.Clone(*found.warnings)
	*found.warnings = nil
	if _, _, err := f.instructions(found.linter); err != nil {
		return nil, err
	}
	f.lintText(found)
	return append(found.sorted(), late...), nil
}

// Arg is the value of an argument before the first FROM: a build argument that is declared there, its default, or one that
// is there without being declared (TARGETPLATFORM and its like). A build argument that nothing declares is found too.
func (g *Graph) Arg(key string) (string, bool) {
	if v, ok := g.settings.BuildArgs[key]; ok {
		return v, true
	}
	return g.args.Get(key)
}

// resolveArgs sets the arguments that FROM may use.
func (g *Graph) resolveArgs(found findings) (err error) {
	f, s := g.File, g.settings
	target := s.Target
	if target == "" {
		target = f.Stages[len(f.Stages)-1].Name
	}
	lex := shell.NewLex(f.parsed.EscapeToken)
	platform := platformArgs(s, target)

	// A FROM should be good without any build argument.
	if defaults, err := f.metaArgs(platform, lex, nil); err == nil {
		for _, s := range f.Stages {
			base, _, err := lex.ProcessWord(s.from.BaseName, defaults)
			if err != nil {
				break
			}
			if !validImage(base) {
				rule := &linter.RuleInvalidDefaultArgInFrom
				found.linter.Run(rule, s.from.Location, rule.Format(s.from.BaseName))
			}
		}
	}
	if g.args, err = f.metaArgs(platform, lex, s.BuildArgs); err != nil {
		return err
	}
	return g.checkEpoch()
}

// validImage says whether s can name an image.
func validImage(s string) bool {
	_, err := name.ParseReference(s, name.WeakValidation)
	return err == nil
}

// addStage expands the FROM of s and finds its base among the stages before it.
func (g *Graph) addStage(s *Stage, found findings) error {
	fail := func(err error) error {
		return g.File.failIn(s.String(), s.from.SourceCode, s.Range, err)
	}
	lint := found.with(s.from.Comments)
	lex := shell.NewLex(g.File.parsed.EscapeToken)
	base, err := lex.ProcessWordWithMatches(s.from.BaseName, g.args)
	g.lintUnknownArgs(lint, s, base.Unmatched)
	if err != nil {
		return fail(err)
	}
	if base.Result == "" {
		return fail(fmt.Errorf("base name (%s) should not be blank", s.from.BaseName))
	}
	s.Platform = g.settings.Platform
	if s.from.Platform != "" {
		if err := g.expandPlatform(s, lex, lint); err != nil {
			return fail(err)
		}
	}
	// Stages are looked up in any case of letters. That takes no image away: those are lower-case.
	switch b, ok := g.byName[strings.ToLower(base.Result)]; {
	case ok:
		s.Base.Stage, s.Platform = b, b.Platform
	case base.Result == scratch:
		s.Platform = g.settings.Platform
	case !validImage(base.Result):
		return fail(fmt.Errorf("failed to parse stage name %q: invalid reference format", base.Result))
	default:
		s.Base.Image = base.Result
	}
	g.all = append(g.all, s)
	if s.Name != "" {
		g.byName[s.Name] = s
	}
	return nil
}

func (g *Graph) expandPlatform(s *Stage, lex *shell.Lex, lint *linter.Linter) error {
	given := s.from.Platform
	p, err := lex.ProcessWordWithMatches(given, g.args)
	g.lintUnknownArgs(lint, s, p.Unmatched)
	g.lintPlatform(lint, s, p)
	if err != nil {
		return fmt.Errorf("failed to process arguments for platform %s: %w", p.Result, err)
	}
	if p.Result == "" {
		return suggestAny(fmt.Errorf("empty platform value from expression %s", given), p.Unmatched, g.args.Keys())
	}
	if s.Platform, err = parsePlatform(p.Result); err != nil {
		return suggestAny(fmt.Errorf("failed to parse platform %s: %w", given, err), p.Unmatched, g.args.Keys())
	}
	s.PlatformGiven = true
	return nil
}

// lintUnknownArgs is the rule on variables in FROM that no ARG declares.
func (g *Graph) lintUnknownArgs(lint *linter.Linter, s *Stage, unknown map[string]struct{}) {
	if len(unknown) == 0 {
		return
	}
	known := append(g.File.metaKeys(), g.args.Keys()...)
	for _, k := range slices.Sorted(maps.Keys(unknown)) {
		if slices.Contains(known, k) {
			continue
		}
		match, _ := suggest.Search(k, known, true)
		lint.Run(&linter.RuleUndefinedArgInFrom, s.from.Location, linter.RuleUndefinedArgInFrom.Format(k, match))
	}
}

// lintPlatform is the rules on FROM --platform: one that says what is so anyway, and one that cannot be changed.
func (g *Graph) lintPlatform(lint *linter.Linter, s *Stage, p shell.ProcessWordResult) {
	if len(p.Matched) == 1 && len(p.Unmatched) == 0 {
		if _, ok := p.Matched["TARGETPLATFORM"]; !ok {
			return
		}
		if v, _ := g.args.Get("TARGETPLATFORM"); v == p.Result {
			lint.Run(&linter.RuleRedundantTargetPlatform, s.from.Location, linter.RuleRedundantTargetPlatform.Format(s.from.Platform))
		}
		return
	}
	if len(p.Matched) > 0 || len(p.Unmatched) > 0 {
		return
	}
	v, err := parsePlatform(p.Result)
	if err != nil || strings.Contains(s.Name, v.OS) || strings.Contains(s.Name, v.Architecture) {
		return
	}
	rule := &linter.RuleFromPlatformFlagConstDisallowed
	lint.Run(rule, s.from.Location, rule.Format(p.Result))
}

func (g *Graph) resolveTarget() error {
	g.Target = g.all[len(g.all)-1]
	target := g.settings.Target
	if target == "" {
		return nil
	}
	s, ok := g.byName[strings.ToLower(target)]
	if !ok {
		var names []string
		for _, s := range g.all {
			names = append(names, s.String())
		}
		err := fmt.Errorf("target stage %q could not be found", target)
		return g.File.fail(Range{}, suggest.WrapError(err, target, names, true))
	}
	g.Target = s
	return nil
}

// resolveDeps finds the stages that instructions read from and refuses cycles, in stages that nothing needs too.
func (g *Graph) resolveDeps() error {
	for _, s := range g.all {
		for _, i := range s.body {
			if err := g.addDep(s, i); err != nil {
				return g.failAt(s, i, err)
			}
		}
	}
	if err := g.checkCycles(); err != nil {
		return err
	}
	for _, s := range g.all {
		triggers, err := g.triggers(s, onBuildTexts(s.Base.Stage))
		if err != nil {
			// Of no stage that is needed, this is no error: check finds it otherwise.
			continue
		}
		for _, i := range triggers {
			if err := g.addDep(s, i); err != nil {
				continue
			}
		}
	}
	return nil
}

func (g *Graph) addDep(s *Stage, i instruction) error {
	c, ok := i.cmd.(*instructions.CopyCommand)
	if !ok || c.From == "" {
		return nil
	}
	src, err := g.source(c.From)
	if err != nil {
		return err
	}
	if src.Stage != nil {
		s.deps = append(s.deps, dep{stage: src.Stage, at: i})
	}
	return nil
}

// source resolves COPY --from: the number of a stage, the name of one, or an image.
func (g *Graph) source(from string) (*Source, error) {
	word, _, err := shell.NewLex(g.File.parsed.EscapeToken).ProcessWord(from, newEnviron(nil))
	if err != nil {
		return nil, err
	}
	if word != from {
		return nil, fmt.Errorf("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")
	}
	if n, err := strconv.Atoi(from); err == nil {
		if n < 0 || n >= len(g.all) {
			return nil, fmt.Errorf("invalid stage index %d", n)
		}
		return &Source{Stage: g.all[n]}, nil
	}
	if s, ok := g.byName[strings.ToLower(from)]; ok {
		return &Source{Stage: s}, nil
	}
	if from != scratch && !validImage(from) {
		return nil, fmt.Errorf("failed to parse stage name %q: invalid reference format", from)
	}
	return &Source{Image: from}, nil
}

// checkCycles refuses stages that copy from each other in a ring.
func (g *Graph) checkCycles() error {
	const (
		unseen = iota
		open
		done
	)
	state := make([]int, len(g.all))
	var visit func(s *Stage) *dep
	visit = func(s *Stage) *dep {
		state[s.Index] = open
		for _, d := range s.deps {
			switch state[d.stage.Index] {
			case open:
				return &d
			case unseen:
				if found := visit(d.stage); found != nil {
					return found
				}
			}
		}
		state[s.Index] = done
		return nil
	}
	for _, s := range g.all {
		if state[s.Index] != unseen {
			continue
		}
		if d := visit(s); d != nil {
			return g.failAt(s, d.at, fmt.Errorf("circular dependency detected on stage: %s", s))
		}
	}
	return nil
}

// Needs are the stages that s needs, each after those that it needs itself, s last. It serves ONBUILD triggers of an image, which can
// copy from stages that are not in Stages.
func (g *Graph) Needs(s *Stage) []*Stage {
	needed := make([]bool, len(g.all))
	open := []*Stage{s}
	for len(open) > 0 {
		s := open[len(open)-1]
		open = open[:len(open)-1]
		if needed[s.Index] {
			continue
		}
		needed[s.Index] = true
		if s.Base.Stage != nil {
			open = append(open, s.Base.Stage)
		}
		for _, d := range s.deps {
			open = append(open, d.stage)
		}
	}
	var stages []*Stage
	for i, s := range g.all {
		if needed[i] {
			stages = append(stages, s)
		}
	}
	return stages
}

// check refuses what a stage that is needed may not say, as far as the text tells.
func (g *Graph) check(s *Stage) error {
	triggers, err := g.triggers(s, onBuildTexts(s.Base.Stage))
	if err != nil {
		return err
	}
	for _, i := range slices.Concat(triggers, s.body) {
		if err := unsupported(i.cmd); err != nil {
			return g.failAt(s, i, err)
		}
		if err := g.checkForward(s, i.cmd); err != nil {
			return g.failAt(s, i, err)
		}
	}
	return nil
}

// checkForward refuses COPY --from a stage that comes later, or is s itself.
func (g *Graph) checkForward(s *Stage, c instructions.Command) error {
	cp, ok := c.(*instructions.CopyCommand)
	if !ok || cp.From == "" {
		return nil
	}
	src, err := g.source(cp.From)
	if err != nil {
		return err
	}
	if src.Stage != nil && src.Stage.Index >= s.Index {
		return fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", cp.From, s)
	}
	return nil
}

// onBuildTexts are the triggers that stage s leaves to those built on it. s may be nil.
func onBuildTexts(s *Stage) []string {
	if s == nil {
		return nil
	}
	var texts []string
	for _, i := range s.body {
		if c, ok := i.cmd.(*instructions.OnbuildCommand); ok {
			texts = append(texts, c.Expression)
		}
	}
	return texts
}

// triggers types the ONBUILD triggers of the base of s. They are located where s has its FROM.
func (g *Graph) triggers(s *Stage, texts []string) ([]instruction, error) {
	var list []instruction
	for _, text := range texts {
		i, err := trigger(s, text)
		if err != nil {
			return nil, g.File.failIn(s.String(), "ONBUILD "+text, s.Range, err)
		}
		list = append(list, i)
	}
	return list, nil
}

func trigger(s *Stage, text string) (instruction, error) {
	parsed, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return instruction{}, err
	}
	if len(parsed.AST.Children) != 1 {
		return instruction{}, fmt.Errorf("onbuild trigger should be a single expression")
	}
	node := parsed.AST.Children[0]
	node.StartLine, node.EndLine = s.Range.Start, s.Range.End
	c, err := parseCommand(node)
	if err != nil {
		return instruction{}, err
	}
	return instruction{node: node, cmd: c, onBuild: true}, nil
}

// failAt is err in an instruction of s.
func (g *Graph) failAt(s *Stage, i instruction, err error) error {
	return g.File.failIn(s.String(), i.node.Original, Range{Start: i.node.StartLine, End: i.node.EndLine}, err)
}
