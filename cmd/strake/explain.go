package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/builder/solver"
	"github.com/strake-build/strake/cmd/ui"
)

func newExplainCommand(env *environment) *cobra.Command {
	flags := buildFlags{progress: "quiet", call: callBuild}
	var format string
	cmd := &cobra.Command{
		Use:   "explain [OPTIONS] [CONTEXT]",
		Short: "Say which steps of a build are cached, and why the others are not",
		Long: `Say which steps of a build are in the cache, and why the others are not.

The options are those of "strake build" that decide what its steps are, and CONTEXT is that of the
build (default "."). Nothing is run and no layer is fetched; base images are looked up as a build
does, and the caches of --cache-from are asked for their entries. A step that follows one that runs
is "unknown" if nothing else of it changed: it is found in the cache after all if what it follows
comes out as before.

--format json prints {"version":1,"steps":[{"id","name","state","reason","after"}]}, where state is
"hit", "miss" or "unknown", reason is missing in a hit, and after is the id of the step that an
unknown one waits for.`,
		Example: `  strake explain .
  strake explain --build-arg GIT_SHA=1234 --format json .`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "text" && format != "json" {
				return usagef("invalid --format %q: it is text or json", format)
			}
			contextArg := "."
			if len(args) > 0 {
				contextArg = args[0]
			}
			opts, err := flags.decide(env, contextArg)
			if err != nil {
				return err
			}
			opts.dry = true
			return withJob(cmd.Context(), env, opts, func(j *job) error { return j.explain(cmd.Context(), format) })
		},
	}
	flags.addKeys(cmd.Flags())
	cmd.Flags().StringVar(&format, "format", "text", "`text`, or json for programs")
	addIsolationFlag(cmd, env)
	return cmd
}

// explained is a step in the JSON of strake explain.
type explained struct {
	ID     string       `json:"id"`
	Name   string       `json:"name"`
	State  solver.State `json:"state"`
	Reason string       `json:"reason,omitempty"`
	After  string       `json:"after,omitempty"`
}

// explain prints what a build would do.
func (j *job) explain(ctx context.Context, format string) error {
	file, err := j.in.parse()
	if err != nil {
		return err
	}
	if len(j.opts.cacheFrom) > 0 && !j.opts.noCache {
		j.openImports(func(text string) { fmt.Fprintf(j.env.stderr, "warning: %s\n", ui.Printable([]byte(text))) })
	}
	var steps []solver.Forecast
	err = j.withBuilder(file, progress.Discard, func(b *builder.Builder, opt builder.Options) error {
		steps, err = b.Explain(ctx, opt, j.opts.platforms)
		return err
	})
	if err != nil {
		return err
	}
	if format == "json" {
		answer := struct {
			Version int         `json:"version"`
			Steps   []explained `json:"steps"`
		}{1, []explained{}}
		for _, s := range steps {
			answer.Steps = append(answer.Steps, explained(s))
		}
		raw, err := json.MarshalIndent(answer, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(j.env.stdout, "%s\n", raw)
		return err
	}
	var text strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&text, "%-7s  %s\n", s.State, ui.Printable([]byte(s.Name)))
		if s.Reason != "" {
			fmt.Fprintf(&text, "%9s%s\n", "", ui.Printable([]byte(s.Reason)))
		}
	}
	_, err = fmt.Fprint(j.env.stdout, text.String())
	return err
}
