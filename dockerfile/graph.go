package dockerfile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
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
	// Contexts are the names of --build-context, "NAME" or "NAME::PLATFORM". They stand for a stage of the name or an image.
	Contexts []string
	// AllStages: Graph.Stages are all, whether Target needs them or not. A check without a target wants them linted.
	AllStages bool
	// CheckOnly: nothing will be built, so what this release can describe but not build is not refused. For checks and outlines.
	CheckOnly bool
	// Ignored says whether a file of the context (slash-separated, relative, "." for all of it) is left out by .dockerignore.
	// It is for a lint rule; nil where there is no .dockerignore, or where it has exceptions ("!"), which the rule cannot judge.
	Ignored func(path string) bool
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
	contexts contexts
	epoch    Epoch
	lint     linter.Config
	args     *environ // the arguments before the first FROM, which an ARG in a stage brings in
	proxy    []string
	all      []*Stage
	byName   map[string]*Stage // the last one of each name
	left     atomic.Int64      // of graphLimit
}

// scratch is the name of the empty image.
const scratch = "scratch"

// Graph resolves the target, every base and every COPY --from, and expands FROM. Unknown targets and stages, cycles
// and forward references are errors, and so is what this release leaves out in a stage that the target needs.
func (f *File) Graph(s Settings) (*Graph, error) {
	if syntax, ok := s.BuildArgs[syntaxArg]; ok {
		if err := builtinSyntax(syntax); err != nil {
			return nil, f.fail(Range{}, err)
		}
	}
	config, err := f.lintConfig(s.BuildArgs)
	if err != nil {
		return nil, err
	}
	g := &Graph{
		File: f, settings: s, contexts: newContexts(s.Contexts), lint: config,
		proxy: proxyEnv(s.BuildArgs), byName: map[string]*Stage{},
	}
	g.left.Store(graphLimit)
	found := newFindings(config)
	if err := g.resolve(found); err != nil {
		return nil, withFindings(err, slices.Concat(f.Warnings, *found.warnings))
	}
	g.Warnings = slices.Concat(f.Warnings, *found.warnings)
	if _, ok := s.BuildArgs[checkArg]; ok {
		if g.Warnings, err = f.relint(found); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// resolve finds the target, its stages, and what they are built on and read from.
func (g *Graph) resolve(found findings) error {
	if err := g.resolveArgs(found); err != nil {
		return err
	}
	for _, s := range g.File.Stages {
		if err := g.addStage(s.clone(), found); err != nil {
			return err
		}
	}
	if err := g.resolveTarget(); err != nil {
		return err
	}
	if err := g.resolveDeps(); err != nil {
		return err
	}
	g.Stages = g.all
	if !g.settings.AllStages {
		g.Stages = g.needs(g.Target)
	}
	for _, s := range g.Stages {
		if err := g.check(s); err != nil {
			return err
		}
	}
	return nil
}

// relint finds again what Parse found, under the rules of found, which has already what Graph finds.
func (f *File) relint(found findings) ([]Warning, error) {
	late := slices.Clone(*found.warnings)
	*found.warnings = nil
	f.lintContinuations(found)
	if _, _, err := f.instructions(found.linter); err != nil {
		return nil, err
	}
	f.lintText(found)
	return append(found.sorted(), late...), nil
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
			base, _, err := lex.ProcessWord(s.from.BaseName, newMeter(defaults, &g.left))
			if err != nil {
				break
			}
			if checkImage(base) != nil {
				rule := &linter.RuleInvalidDefaultArgInFrom
				found.linter.Run(rule, s.from.Location, rule.Format(s.from.BaseName))
			}
		}
	}
	if g.args, err = f.metaArgs(platform, lex, s.BuildArgs); err != nil {
		return err
	}
	return g.resolveEpoch()
}

// checkImage says why s can name no image, in the words of BuildKit's library for references.
func checkImage(s string) error {
	bad := func(why string) error {
		return fmt.Errorf("failed to parse stage name %q: invalid reference format%s", s, why)
	}
	host, rest, ok := strings.Cut(s, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" && strings.ToLower(host) == host {
		rest = s
		if !ok {
			rest = "library/" + s
		}
	}
	if repository, _, _ := strings.Cut(rest, ":"); strings.ToLower(repository) != repository {
		return bad(": repository name (" + repository + ") must be lowercase")
	}
	if !referenceForm().MatchString(s) {
		return bad("")
	}
	_, digest, _ := strings.Cut(s, "@")
	algorithm, hex, ok := strings.Cut(digest, ":")
	switch length, known := map[string]int{"sha256": 64, "sha384": 96, "sha512": 128}[algorithm]; {
	case ok && !known:
		return fmt.Errorf("failed to parse stage name %q: unsupported digest algorithm", s)
	case ok && len(hex) != length:
		return fmt.Errorf("failed to parse stage name %q: invalid checksum digest length", s)
	}
	return nil
}

// addStage expands the FROM of s and finds its base among the stages before it.
func (g *Graph) addStage(s *Stage, found findings) error {
	fail := func(err error) error {
		return g.File.failIn(s.String(), s.from.SourceCode, s.Range, err)
	}
	lint := found.with(s.from.Comments)
	lex := shell.NewLex(g.File.parsed.EscapeToken)
	vars := newMeter(g.args, &g.left)
	base, err := lex.ProcessWordWithMatches(s.from.BaseName, vars)
	g.lintUnknownArgs(lint, s, base.Unmatched)
	if err = cmp.Or(err, vars.err()); err != nil {
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
	if s.Name != "" {
		if _, ok := familiar(s.Name); !ok {
			return fail(fmt.Errorf("invalid context name %s: invalid reference format", s.Name))
		}
		s.Base.Context, _ = g.contexts.find(s.Name, s.Platform)
	}
	// Names of stages are lower-case, however they were written, and here alone they are looked up as they are written.
	switch b, ok := g.byName[base.Result]; {
	case s.Base.Context != "":
		if base.Result != scratch {
			if err := checkImage(base.Result); err != nil {
				return fail(err)
			}
		}
		s.Base.Replaces = ReplacesStage
	case ok:
		s.Base.Stage, s.Platform = b, b.Platform
	case base.Result == scratch:
		s.Platform = g.settings.Platform
	default:
		if err := checkImage(base.Result); err != nil {
			return fail(err)
		}
		s.Base.Image = base.Result
		if c, ok := g.contexts.find(base.Result, s.Platform); ok {
			s.Base = Base{Context: c, Replaces: ReplacesImage}
		}
	}
	g.all = append(g.all, s)
	if s.Name != "" {
		g.byName[s.Name] = s
	}
	return nil
}

func (g *Graph) expandPlatform(s *Stage, lex *shell.Lex, lint *linter.Linter) error {
	given := s.from.Platform
	vars := newMeter(g.args, &g.left)
	p, err := lex.ProcessWordWithMatches(given, vars)
	g.lintUnknownArgs(lint, s, p.Unmatched)
	g.lintPlatform(lint, s, p)
	if err = cmp.Or(err, vars.err()); err != nil {
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
