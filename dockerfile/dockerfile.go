// Package dockerfile turns the text of a Dockerfile into stages and, given the
// configuration of a base image, into expanded, typed steps. It does no input or
// output and knows no file system; its nouns are those of the Dockerfile
// reference.
//
//	Parse  text → File (stages with their instructions, located)
//	Graph  File + target + build arguments → the stages and their bases
//	Expand Stage + the state of its base → Steps and the state after them
//
// What an instruction means, and what errors and lint findings say, is what
// BuildKit's Dockerfile frontend makes of it. What this release leaves out is
// refused in unsupported.go.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// File is a parsed Dockerfile. It is not changed by anything after Parse, so it may serve many graphs at once.
type File struct {
	Name   string
	Source []byte
	Stages []*Stage
	// Warnings are the lint findings that need no more than the text, in the order of its lines.
	Warnings []Warning

	parsed   *parser.Result
	meta     []instructions.ArgCommand // ARG before the first FROM
	majority casing                    // how most instructions are written
}

// Parse parses a Dockerfile. name is what errors call it. An error is an *Error: the text is not a Dockerfile,
// or a "# syntax" line asks for a language that is not built in.
func Parse(name string, source []byte) (*File, error) {
	f := &File{Name: name, Source: source}
	if len(source) == 0 {
		return nil, f.fail(Range{}, fmt.Errorf("the Dockerfile cannot be empty"))
	}
	if syntax, _, at, ok := parser.DetectSyntax(source); ok {
		if err := builtinSyntax(syntax); err != nil {
			return nil, f.fail(toRange(at), err)
		}
	}
	config, err := f.lintConfig(nil)
	if err != nil {
		return nil, err
	}
	f.parsed, err = parser.Parse(bytes.NewReader(source))
	if err != nil {
		return nil, f.fail(f.tooLong(err), err)
	}
	found := newFindings(config)
	f.lintContinuations(found)
	f.Stages, f.meta, err = f.instructions(found.linter)
	if err == nil && len(f.Stages) == 0 {
		err = f.fail(Range{}, fmt.Errorf("dockerfile contains no stages to build"))
	}
	if err != nil {
		return nil, withFindings(err, found.sorted())
	}
	f.majority = majorityCasing(f.Stages)
	f.lintText(found)
	f.Warnings = found.sorted()
	return f, nil
}

// instructions types the parsed nodes and sorts them into stages. It is run again when a build argument
// replaces the "# check" line, for its findings.
func (f *File) instructions(lint *linter.Linter) ([]*Stage, []instructions.ArgCommand, error) {
	var stages []*Stage
	var meta []instructions.ArgCommand
	for _, node := range f.parsed.AST.Children {
		at := Range{Start: node.StartLine, End: node.EndLine}
		typed, err := instructions.ParseInstructionWithLinter(node, lint)
		if err != nil {
			err = f.failIn("", node.Original, at, err)
			if e, ok := errors.AsType[*Error](err); ok {
				e.syntax = true
			}
			return nil, nil, err
		}
		switch c := typed.(type) {
		case *instructions.Stage:
			s := &Stage{Index: len(stages), Name: c.Name, Range: at, from: c}
			stages = append(stages, s)
		case instructions.Command:
			if len(stages) > 0 {
				s := stages[len(stages)-1]
				s.body = append(s.body, instruction{node: node, cmd: c})
				break
			}
			arg, ok := c.(*instructions.ArgCommand)
			if !ok {
				return nil, nil, f.failIn("", node.Original, at, fmt.Errorf("no build stage in current context"))
			}
			meta = append(meta, *arg)
		default:
			return nil, nil, f.failIn("", node.Original, at, fmt.Errorf("%T is not a command type", typed))
		}
	}
	return stages, meta, nil
}

// instruction is one line of a stage. cmd is only looked at: expanding happens on a fresh one, because
// expansion writes into it.
type instruction struct {
	node    *parser.Node
	cmd     instructions.Command
	onBuild bool
}

// fresh is the instruction typed again, to be expanded in place.
func (i instruction) fresh() (instructions.Command, error) {
	return parseCommand(i.node)
}

// parseCommand is instructions.ParseCommand, which must not be used: it dies of a "check" comment.
func parseCommand(node *parser.Node) (instructions.Command, error) {
	typed, err := instructions.ParseInstructionWithLinter(node, linter.New(&linter.Config{}))
	if err != nil {
		return nil, err
	}
	c, ok := typed.(instructions.Command)
	if !ok {
		return nil, fmt.Errorf("%T is not a command type", typed)
	}
	return c, nil
}

// Stage is FROM to the next FROM. The stages of a File are not changed by Graph; a Graph has its own.
type Stage struct {
	Index int
	Name  string // lower-case; empty if it has none
	Range Range  // of its FROM
	Base  Base   // set by Graph
	// Platform is that of the base: what FROM --platform says, else that of the base stage, else that of the build. Set by Graph.
	Platform v1.Platform
	// PlatformGiven: FROM has --platform.
	PlatformGiven bool

	from *instructions.Stage // its Commands are empty, see body
	body []instruction
	deps []dep // stages that COPY --from names; set by Graph
}

// String is what people call the stage: its name, or "stage-2" for the third.
func (s *Stage) String() string {
	if s.Name != "" {
		return s.Name
	}
	return fmt.Sprintf("stage-%d", s.Index)
}

// clone is a stage that Graph may fill in.
func (s *Stage) clone() *Stage {
	c := *s
	c.body = slices.Clip(s.body)
	return &c
}

// Base is what a stage starts from: another stage, an image, a named context, or none of them (scratch).
type Base struct {
	Stage *Stage
	Image string // as written, expanded
	// Context is one of Settings.Contexts. Replaces says what it stands for: the image that FROM names, or the whole stage, whose
	// instructions are not run then.
	Context  string
	Replaces Replaced
}

// Replaced is what a named context stands for.
type Replaced int

// What a named context stands for.
const (
	ReplacesNothing Replaced = iota
	ReplacesImage            // the stage's instructions are run on top of the context
	ReplacesStage            // the context is the stage: Expand gives no steps
)
