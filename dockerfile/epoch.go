package dockerfile

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Epoch is SOURCE_DATE_EPOCH: a number of seconds, or where it is to be taken from. Of Context and Remote at most one is set; the builder
// finds their time and goes on with Graph.WithEpoch.
type Epoch struct {
	// Known: Seconds is since 1970, in UTC.
	Known   bool
	Seconds int64
	// Context is "context", the build context, or one of Settings.Contexts: the time of its commit, or of the file that it was.
	Context string
	// Remote is what a stage of that name adds: the time of its commit, or of the file.
	Remote   *Remote
	Checksum string // of an HTTP Remote; may be empty
}

// Epoch is the build's SOURCE_DATE_EPOCH, from a build argument or the default of an ARG before the first FROM. The zero Epoch is none.
func (g *Graph) Epoch() Epoch { return g.epoch }

// WithEpoch is the graph of the same file and settings with an epoch that is known now. nil is none: a local folder has no time.
func (g *Graph) WithEpoch(seconds *int64) (*Graph, error) {
	s := g.settings
	s.BuildArgs = maps.Clone(s.BuildArgs)
	if s.BuildArgs == nil {
		s.BuildArgs = map[string]string{}
	}
	s.BuildArgs[epochArg] = ""
	if seconds != nil {
		s.BuildArgs[epochArg] = strconv.FormatInt(*seconds, 10)
	}
	return g.File.Graph(s)
}

// resolveEpoch reads SOURCE_DATE_EPOCH, and makes a number of it what ARG sees. The arguments before the first FROM are known.
func (g *Graph) resolveEpoch() error {
	v, given := g.settings.BuildArgs[epochArg]
	if !given {
		if v, _ = g.args.Get(epochArg); v == "" {
			return nil
		}
	}
	n, err := strconv.ParseInt(v, 10, 64)
	switch {
	case v == "":
		g.setEpoch("")
	case err == nil:
		g.epoch = Epoch{Known: true, Seconds: n}
		g.setEpoch(strconv.FormatInt(n, 10))
	default:
		if err := g.namedEpoch(v); err != nil {
			return err
		}
	}
	if g.settings.CheckOnly {
		return nil
	}
	return nil
}

// setEpoch replaces the argument where it is given; an empty value takes it away.
func (g *Graph) setEpoch(v string) {
	if _, ok := g.settings.BuildArgs[epochArg]; ok {
		args := maps.Clone(g.settings.BuildArgs)
		delete(args, epochArg)
		if v != "" {
			args[epochArg] = v
		}
		g.settings.BuildArgs = args
	}
	if _, ok := g.args.Get(epochArg); !ok {
		return
	}
	if v != "" {
		g.args.set(epochArg, v)
		return
	}
	g.args = g.args.without(epochArg)
}

// namedEpoch finds the context or the stage that is meant.
func (g *Graph) namedEpoch(v string) error {
	if v == "context" {
		g.epoch.Context = v
		return nil
	}
	name, ok := familiar(v)
	if !ok {
		return g.File.fail(Range{}, fmt.Errorf("invalid context name %s: invalid reference format", v))
	}
	if c, ok := g.contexts.find(name, g.settings.Build); ok {
		g.epoch.Context = c
		return nil
	}
	for _, s := range g.File.Stages {
		if !strings.EqualFold(s.Name, v) {
			continue
		}
		var err error
		g.epoch, err = g.epochStage(s)
		return g.File.failIn(s.String(), s.from.SourceCode, s.Range, err)
	}
	return g.File.fail(Range{}, fmt.Errorf("invalid SOURCE_DATE_EPOCH: %s", v))
}

// epochStage is the one thing that a stage whose time is meant adds.
func (g *Graph) epochStage(s *Stage) (Epoch, error) {
	lex := shell.NewLex(g.File.parsed.EscapeToken)
	args := g.args.without(epochArg)
	vars := newMeter(args, nil)
	base, _, err := lex.ProcessWord(s.from.BaseName, vars)
	if err != nil {
		return Epoch{}, fmt.Errorf("failed to process source stage base name %q: %w", s.from.BaseName, err)
	}
	if base != scratch {
		return Epoch{}, errors.New("SOURCE_DATE_EPOCH stage must use FROM scratch")
	}
	var found *Epoch
	for _, i := range s.body {
		switch c := i.cmd.(type) {
		case *instructions.ArgCommand:
			for _, a := range c.Args {
				v, ok := g.settings.BuildArgs[a.Key]
				if !ok && a.Value == nil {
					continue
				}
				if !ok {
					if v, _, err = lex.ProcessWord(*a.Value, vars); err != nil {
						return Epoch{}, err
					}
				}
				args.set(a.Key, v)
			}
		case *instructions.AddCommand:
			if found != nil {
				return Epoch{}, errOneRemote
			}
			if found, err = epochSource(c, lex, vars); err != nil {
				return Epoch{}, err
			}
		default:
			return Epoch{}, fmt.Errorf("SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported %s instruction", c.Name())
		}
	}
	if found == nil {
		return Epoch{}, errOneRemote
	}
	return *found, vars.err()
}

var errOneRemote = errors.New("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")

func epochSource(c *instructions.AddCommand, lex *shell.Lex, vars *meter) (*Epoch, error) {
	if len(c.SourceContents) > 0 || len(c.SourcePaths) != 1 {
		return nil, errors.New("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source")
	}
	src, _, err := lex.ProcessWord(c.SourcePaths[0], vars)
	if err != nil {
		return nil, err
	}
	checksum, _, err := lex.ProcessWord(c.Checksum, vars)
	if err != nil {
		return nil, err
	}
	list, err := remotes(&Copy{Sources: []string{src}, Checksum: checksum, KeepGitDir: c.KeepGitDir})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")
	}
	return &Epoch{Remote: &list[0], Checksum: checksum}, nil
}
