package dockerfile

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Warning is a lint finding: BuildKit's rule of that name, described at URL.
type Warning struct {
	Rule, Message, URL string
	Description        string // of the rule, on one line
	Range              Range
}

// findings runs lint rules and keeps what they find.
type findings struct {
	linter   *linter.Linter
	warnings *[]Warning
}

func newFindings(config linter.Config) findings {
	var found []Warning
	config.Warn = func(rule, description, url, message string, at []parser.Range) {
		found = append(found, Warning{Rule: rule, Message: message, URL: url, Description: description, Range: toRange(at)})
	}
	return findings{linter: linter.New(&config), warnings: &found}
}

// with is the same for an instruction that has a "# check=" comment above it.
func (f findings) with(comments []string) *linter.Linter {
	return f.linter.WithMergedConfigFromComments(comments)
}

func (f findings) sorted() []Warning {
	slices.SortStableFunc(*f.warnings, func(a, b Warning) int { return cmp.Compare(a.Range.Start, b.Range.Start) })
	return *f.warnings
}

// checkArg is the build argument that replaces the text's "# check" line.
const checkArg = "BUILDKIT_DOCKERFILE_CHECK"

// lintConfig is what the text, or the build argument that overrules it, says about lint rules.
func (f *File) lintConfig(args map[string]string) (linter.Config, error) {
	options, given := args[checkArg]
	var at []parser.Range
	if !given {
		options, _, at, _ = parser.ParseDirective("check", f.Source) // to the first space
	}
	config, err := linter.ParseLintOptions(options)
	if err != nil {
		return linter.Config{}, f.fail(toRange(at), fmt.Errorf("failed to parse check options: %w", err))
	}
	return *config, nil
}

// lintContinuations is the rule on empty lines in the middle of an instruction.
func (f *File) lintContinuations(found findings) {
	for _, w := range f.parsed.Warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL && w.Location != nil {
			found.linter.Run(&linter.RuleNoEmptyContinuation, []parser.Range{*w.Location}, linter.RuleNoEmptyContinuation.Format())
		}
	}
}

// lintText runs the rules that look at all stages.
func (f *File) lintText(found findings) {
	seen := map[string]bool{}
	for _, s := range f.Stages {
		if s.Name == "" {
			continue
		}
		if s.Name == "context" || s.Name == "scratch" {
			found.linter.Run(&linter.RuleReservedStageName, s.from.Location, linter.RuleReservedStageName.Format(s.Name))
		}
		if seen[s.Name] {
			found.linter.Run(&linter.RuleDuplicateStageName, s.from.Location, linter.RuleDuplicateStageName.Format(s.Name))
		}
		seen[s.Name] = true
	}
	for _, s := range f.Stages {
		f.majority.check(found.linter, s.from.OrigCmd, s.from.Location)
		for _, i := range s.body {
			f.majority.check(found.linter, i.cmd.Name(), i.cmd.Location())
		}
	}
}

// casing is how instructions are to be written: "lowercase" or "uppercase".
type casing string

// majorityCasing counts how instructions are written; uppercase wins a tie.
func majorityCasing(stages []*Stage) casing {
	var lower, upper int
	count := func(name string) {
		switch name {
		case strings.ToLower(name):
			lower++
		case strings.ToUpper(name):
			upper++
		}
	}
	for _, s := range stages {
		count(s.from.OrigCmd)
		for _, i := range s.body {
			count(i.cmd.Name())
		}
	}
	if lower > upper {
		return "lowercase"
	}
	return "uppercase"
}

func (c casing) check(lint *linter.Linter, name string, at []parser.Range) {
	right := strings.ToUpper(name)
	if c == "lowercase" {
		right = strings.ToLower(name)
	}
	if name != right {
		lint.Run(&linter.RuleConsistentInstructionCasing, at, linter.RuleConsistentInstructionCasing.Format(name, string(c)))
	}
}

// Names that tell of a secret: one of the words whole, first, last or between underscores, in any case.
var (
	secretWords = regexp.MustCompile(`(?i)(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)`)
	publicWords = regexp.MustCompile(`(?i)(?:_|^)(?:public|file|version)(?:_|$)`)
)

func lintSecretName(lint *linter.Linter, c instructions.Command, keyword, key string) {
	if secretWords.MatchString(key) && !publicWords.MatchString(key) {
		lint.Run(&linter.RuleSecretsUsedInArgOrEnv, c.Location(), linter.RuleSecretsUsedInArgOrEnv.Format(keyword, key))
	}
}

// Violation is the error that the text asks for with "# check=error=true" when there are warnings, and nil otherwise.
// found is everything that Graph and Expand have found. The error names no line; the warnings do.
func (g *Graph) Violation(found []Warning) error {
	if !g.lint.ReturnAsError || len(found) == 0 {
		return nil
	}
	var rules []string
	for _, w := range found {
		rules = append(rules, w.Rule)
	}
	slices.Sort(rules)
	return g.File.fail(Range{}, errors.New("lint violation found for rules: "+strings.Join(slices.Compact(rules), ", ")))
}

// lintIgnored is the rule on sources that .dockerignore keeps out of the context.
func (e *expander) lintIgnored(op *Copy, sources []string) {
	if e.g.settings.Ignored == nil || op.From != nil {
		return
	}
	name := "Copy"
	if op.Add {
		name = "Add"
	}
	for _, src := range sources {
		if isHTTP(src) || isGit(src) {
			continue
		}
		if src = path.Clean(src); src == "/" {
			src = "."
		}
		if e.g.settings.Ignored(src) {
			e.lint.Run(&linter.RuleCopyIgnoredFile, e.at.cmd.Location(), linter.RuleCopyIgnoredFile.Format(name, src))
		}
	}
}
