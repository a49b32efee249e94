package dockerfile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// dep is a stage that an instruction reads from.
type dep struct {
	stage *Stage
	at    instruction
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
	list, err := g.sources(i.cmd)
	if err != nil {
		return err
	}
	if s.Base.Replaces == ReplacesStage {
		return nil // checked, but not run
	}
	for _, src := range list {
		if src.Stage != nil {
			s.deps = append(s.deps, dep{stage: src.Stage, at: i})
		}
	}
	return nil
}

// sources are what COPY --from or the mounts of a RUN name. A mount counts whatever its type: that may be a variable.
func (g *Graph) sources(c instructions.Command) ([]*Source, error) {
	switch c := c.(type) {
	case *instructions.CopyCommand:
		if c.From == "" {
			return nil, nil
		}
		src, err := g.source(c.From)
		return []*Source{src}, err
	case *instructions.RunCommand:
		var list []*Source
		for _, m := range instructions.GetMounts(c) {
			if m.From == "" {
				continue
			}
			src, err := g.sourceNamed(m.From)
			if err != nil {
				return nil, err
			}
			list = append(list, src)
		}
		return list, nil
	}
	return nil, nil
}

// source resolves COPY --from: the number of a stage, or what sourceNamed takes.
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
	return g.sourceNamed(from)
}

// sourceNamed resolves the name of a stage, of a named context or of an image.
func (g *Graph) sourceNamed(from string) (*Source, error) {
	if s, ok := g.byName[strings.ToLower(from)]; ok {
		return &Source{Stage: s}, nil
	}
	if from == scratch {
		return &Source{}, nil
	}
	if err := checkImage(from); err != nil {
		return nil, err
	}
	if c, ok := g.contexts.find(from, g.settings.Platform); ok {
		return &Source{Context: c}, nil
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

// needs are the stages that s needs, each after those that it needs itself, s last.
func (g *Graph) needs(s *Stage) []*Stage {
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
		if err := g.checkForward(s, i.cmd); err != nil {
			return g.failAt(s, i, err)
		}
	}
	return nil
}

// checkForward refuses COPY --from a stage that comes later, or is s itself. Of a mount, whose error names its target,
// that is found when its variables are expanded.
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
