// Package dockerfile turns the text of a Dockerfile into stages and, given the
// configuration of a base image, into expanded, typed steps. It does no input or
// output and knows no file system; its nouns are those of the Dockerfile
// reference.
//
//	Parse  text → File (stages with their instructions, located)
//	Graph  File + target + build arguments → the stages and their bases
//	Expand Stage + the state of its base → Steps and the state after them
package dockerfile

import (
	"errors"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

var errTodo = errors.New("not written yet")

// Range is a span of lines, counted from 1, both ends included.
type Range struct{ Start, End int }

// Error is the only error this package returns: something in a Dockerfile that the person who wrote it can mend.
type Error struct {
	File        string // as given to Parse
	Source      []byte // the whole text, for the excerpt
	Range       Range  // zero when no line is at fault
	Stage       string // name or index of the stage, may be empty
	Instruction string // the instruction's text, may be empty
	Hint        string // such as `did you mean "COPY"?`, may be empty
	Err         error
}

// Error is "FILE:LINE: message (hint)", on one line.
func (e *Error) Error() string { return "" }

func (e *Error) Unwrap() error { return e.Err }

// Excerpt shows the lines at fault, marked with ">>>", and two lines on each side.
func (e *Error) Excerpt() string { return "" }

// File is a parsed Dockerfile.
type File struct {
	Name   string
	Source []byte
	Stages []*Stage
	// Warnings are the lint findings that need no more than the text.
	Warnings []Warning
}

// Warning is a lint finding.
type Warning struct {
	Rule, Message, URL string
	Range              Range
}

// Parse parses a Dockerfile. name is what errors call it.
func Parse(name string, source []byte) (*File, error) { return nil, errTodo }

// Settings are what a build says beside the Dockerfile.
type Settings struct {
	Target    string            // --target; empty is the last stage
	BuildArgs map[string]string // --build-arg, also the predefined proxy arguments
	Platform  v1.Platform       // of the image
	Build     v1.Platform       // of the machine that builds
}

// Graph is what a build of one target needs.
type Graph struct {
	File   *File
	Target *Stage
	// Stages are those that Target needs as far as the text tells (ONBUILD triggers of an image may
	// add more), each after those that it needs.
	Stages []*Stage
}

// Graph resolves the target, every base and every COPY --from, and expands FROM. Unknown targets and stages, cycles
// and forward references are errors.
func (f *File) Graph(s Settings) (*Graph, error) { return nil, errTodo }

// Stage is FROM to the next FROM.
type Stage struct {
	Index    int
	Name     string // lower-case; empty if it has none
	Range    Range  // of its FROM
	Base     Base   // set by Graph
	Platform v1.Platform
	// PlatformGiven: FROM has --platform.
	PlatformGiven bool
}

// Base is what a stage starts from: another stage, an image, or neither (scratch).
type Base struct {
	Stage *Stage
	Image string // as written, expanded
}

// State is a stage's result as far as the language goes: the image configuration so far, and
// the arguments in scope. The zero State is scratch.
type State struct {
	Config v1.ConfigFile // History and RootFS.DiffIDs are not filled here
	// unexported: args in scope, shell, …
}

// BaseState is the state that an image (or scratch, for a zero config) hands to FROM.
func BaseState(config v1.ConfigFile) State { return State{Config: config} }

// Step is one instruction, expanded.
type Step struct {
	// Op is what it does to the file system: *Run, *Copy or *Workdir; nil for one that only changes the configuration.
	Op    Op
	Range Range
	// Name is for people: `RUN go build ./...`, variables expanded as BuildKit shows them, without the "[stage i/n] ".
	Name string
	// Text is the instruction as written, for errors.
	Text string
	// OnBuild: the step comes from a trigger of the base image.
	OnBuild bool
	// History is the entry for the image, without its time (OCI image specification, config.md, "history").
	History v1.History
}

// Op is *Run, *Copy or *Workdir.
type Op interface{ op() }

// Run is a RUN.
type Run struct {
	Args []string // argv: the shell's words and the command, or the exec form
	// Env is the whole environment: the image's, then the arguments in scope.
	Env []string
	// Proxy are predefined proxy arguments that no ARG declared: given to the process, kept out of cache keys and history.
	Proxy     []string
	User, Dir string
	// Script, for a heredoc that starts with "#!": mounted read-only and executable at Args[0] (/dev/pipes/NAME).
	Script *Inline
}

// Copy is a COPY or an ADD.
type Copy struct {
	Add     bool
	From    *Source  // nil is the build context
	Sources []string // as in the Dockerfile, expanded; relative to the source's root
	Inline  []Inline // heredocs, in order, after Sources
	Dest    string   // absolute; ends in "/" if written so (or if it is a working directory, ".")
	Chown   string   // user[:group], not looked up; empty is the default
	Chmod   string   // octal; empty is the default
	Dir     string   // the working directory at this point
}

// Inline is a file whose content stands in the Dockerfile.
type Inline struct {
	Name string
	Data []byte
}

// Source is what COPY --from names.
type Source struct {
	Stage *Stage
	Image string // if Stage is nil
}

// Workdir makes a working directory. Root "/" needs none and has no Op.
type Workdir struct {
	Dir  string
	User string // who owns it when it is made
}

func (*Run) op()     {}
func (*Copy) op()    {}
func (*Workdir) op() {}

// Expand gives the steps of stage s on top of base, ONBUILD triggers of the base first, and the state after them.
func (g *Graph) Expand(s *Stage, base State) ([]Step, State, error) { return nil, State{}, errTodo }
