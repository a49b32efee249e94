package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/dockerfile"
)

// The kinds of --call.
const (
	callBuild   = "build"
	callCheck   = "check"
	callOutline = "outline"
	callTargets = "targets"
)

// callOptions are the decided values of --call and --check.
type callOptions struct {
	kind         string
	json         bool
	ignoreStatus bool // a check that finds something is no failure
}

// parseCall parses KIND[,format=json|text][,ignorestatus[=true]].
func parseCall(value string, check bool) (callOptions, error) {
	fields := strings.Split(value, ",")
	c := callOptions{kind: fields[0]}
	switch c.kind {
	case "lint":
		c.kind = callCheck
	case callBuild, callCheck, callOutline, callTargets:
	default:
		return c, usagef("invalid --call %q: it is build, check, outline or targets", value)
	}
	if check {
		if c.kind != callBuild && c.kind != callCheck {
			return c, usagef("--check and --call=%s exclude each other", c.kind)
		}
		c.kind = callCheck
	}
	for _, field := range fields[1:] {
		switch k, v, _ := strings.Cut(field, "="); {
		case k == "format" && (v == "json" || v == "text"):
			c.json = v == "json"
		case k == "ignorestatus" && (v == "" || v == "true" || v == "false"):
			c.ignoreStatus = v != "false"
		default:
			return c, usagef("invalid --call %q: %q is neither format=json nor ignorestatus", value, field)
		}
	}
	return c, nil
}

// call answers a --call: it looks at the Dockerfile, and at configurations of base images, and builds nothing.
func (j *job) call(ctx context.Context) error {
	c := j.opts.call
	if c.kind == callCheck {
		return j.check(ctx)
	}
	file, err := j.in.parse()
	if err != nil {
		return err
	}
	if c.kind == callTargets {
		list := file.Targets()
		return j.answer(list, list.Text())
	}
	settings := j.settings(j.opts.platforms[0])
	settings.CheckOnly = true
	graph, err := file.Graph(settings)
	if err != nil {
		return err
	}
	outline, err := graph.Outline(j.bases(ctx))
	if err != nil {
		return err
	}
	return j.answer(outline, outline.Text())
}

// answer prints the answer to a --call, to people or to programs.
func (j *job) answer(v any, text string) error {
	if !j.opts.call.json {
		return printText(j.env.stdout, text)
	}
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(j.env.stdout, "%s\n", raw)
	return err
}

// printText prints lines that may come from the Dockerfile.
func printText(w io.Writer, text string) error {
	for line := range strings.Lines(text) {
		if _, err := fmt.Fprintf(w, "%s\n", ui.Printable([]byte(strings.TrimRight(line, "\r\n")))); err != nil {
			return err
		}
	}
	return nil
}

// check runs the lint rules over all stages, or those that the target needs.
func (j *job) check(ctx context.Context) error {
	found, err := j.lint(ctx)
	var at *dockerfile.Error
	if err != nil && !errors.As(err, &at) {
		return err // nothing that the Dockerfile is to blame for
	}
	results := dockerfile.Lint(j.in.name, j.in.text, found, err)
	if err := j.answer(results, results.Text()); err != nil {
		return err
	}
	if !j.opts.call.json {
		if err := printText(j.env.stderr, results.ErrorText()); err != nil {
			return err
		}
	}
	if results.Failed() && !j.opts.call.ignoreStatus {
		return &codeError{codeFailed, nil}
	}
	return nil
}

// lint returns what the rules find. An error may carry further findings.
func (j *job) lint(ctx context.Context) ([]dockerfile.Warning, error) {
	file, err := j.in.parse()
	if err != nil {
		return nil, err
	}
	settings := j.settings(j.opts.platforms[0])
	settings.CheckOnly, settings.AllStages = true, j.opts.target == ""
	graph, err := file.Graph(settings)
	if err != nil {
		return nil, err
	}
	found := slices.Clone(graph.Warnings)
	base, states := j.bases(ctx), make(map[*dockerfile.Stage]dockerfile.State)
	for _, s := range graph.Stages {
		var state dockerfile.State
		switch {
		case s.Base.Stage != nil:
			state = states[s.Base.Stage]
			state.Warnings = nil // its own were added
		case s.Base.Image != "" || s.Base.Context != "":
			if state, err = base(s); err != nil {
				return found, err
			}
		}
		_, after, err := graph.Expand(s, state)
		found = append(found, after.Warnings...)
		if err != nil {
			return found, err
		}
		states[s] = after
	}
	return found, graph.Violation(found)
}

// bases returns the function that finds the configuration that a stage starts from.
func (j *job) bases(ctx context.Context) func(*dockerfile.Stage) (dockerfile.State, error) {
	resolver := j.resolver(j.opts.pull)
	return func(s *dockerfile.Stage) (dockerfile.State, error) {
		var config v1.ConfigFile
		if s.Base.Context != "" {
			open := j.named[s.Base.Context]
			if open == nil {
				return dockerfile.State{}, nil // a stage: only a build tells what it has
			}
			c, err := open(ctx, s.Platform)
			if err != nil {
				return dockerfile.State{}, err
			}
			if c.Image == nil {
				return dockerfile.State{}, nil
			}
			config = c.Image.Config
		} else {
			img, err := resolver.Resolve(ctx, s.Base.Image, s.Platform)
			if other := (*builder.PlatformError)(nil); errors.As(err, &other) && ctx.Err() == nil {
				img, err = other.Image, nil // as good as any for a check, and a rule finds it
			}
			if err != nil {
				return dockerfile.State{}, err
			}
			config = img.Config
		}
		return dockerfile.BaseState(config), nil
	}
}
