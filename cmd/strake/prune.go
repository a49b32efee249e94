package main

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/builder/store"
	"github.com/strake-build/strake/cmd/ui"
)

// pruneFlags are the flags of strake prune as they were typed.
type pruneFlags struct {
	filters                              []string
	keepStorage, reserved, maxUsed, free string
	all, force                           bool
}

// pruneOptions are the decided values of strake prune.
type pruneOptions struct {
	store.PruneOptions
	force bool
}

// typeNames are BuildKit's names of kinds.
var typeNames = map[string]store.Kind{
	"regular": store.Layer, "exec.cachemount": store.Mount, "source.local": store.Context, "source.git.checkout": store.Source,
}

func newPruneCommand(env *environment) *cobra.Command {
	var flags pruneFlags
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove what no image needs: the build cache, cache mounts, downloads",
		Long: `Remove what no image needs: layers that only the build cache has, copies of file systems for steps without overlayfs, cache mounts, stat indexes of contexts,
fetched files and repositories, blobs. What was not used for longest goes first.

Images stay, with all that they consist of; with --all only those that have a name do.`,
		Example: `  strake prune --keep-storage 10GB
  strake prune -f --filter until=168h
  strake prune --filter type=mount --filter id=/root/.cache`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts, err := flags.decide()
			if err != nil {
				return err
			}
			return runPrune(cmd.Context(), env, opts)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&flags.all, "all", "a", false, "remove images without a name too")
	f.BoolVarP(&flags.force, "force", "f", false, "do not ask")
	f.StringArrayVar(&flags.filters, "filter", nil, "remove only what matches: `until=DURATION` (not used for so long), id=ID, type=layer|copy|mount|context|source|blob|compressed|record|note (repeatable)")
	f.StringVar(&flags.keepStorage, "keep-storage", "", "keep `SIZE` of what no image needs and the filters type and id name (such as 10GB)")
	f.StringVar(&flags.maxUsed, "max-used-space", "", "keep at most `SIZE`, as --keep-storage")
	f.StringVar(&flags.reserved, "reserved-space", "", "keep `SIZE` in any case")
	f.StringVar(&flags.free, "min-free-space", "", "remove until `SIZE` of the disk is free")
	addIsolationFlag(cmd, env)
	return cmd
}

// decide turns the flags into values.
func (f *pruneFlags) decide() (opts pruneOptions, err error) {
	opts.Nameless, opts.force = f.all, f.force
	if f.keepStorage != "" && f.maxUsed != "" {
		return opts, usagef("--keep-storage and --max-used-space mean the same: use one")
	}
	for _, size := range []struct {
		what, value string
		to          *int64
	}{
		{"--keep-storage", f.keepStorage, &opts.Limit.MaxUsed},
		{"--max-used-space", f.maxUsed, &opts.Limit.MaxUsed},
		{"--reserved-space", f.reserved, &opts.Limit.Reserved},
		{"--min-free-space", f.free, &opts.Limit.MinFree},
	} {
		if size.value == "" || size.value == "0" {
			continue
		}
		if *size.to, err = parseSize(size.what, size.value); err != nil {
			return opts, err
		}
	}
	for _, filter := range f.filters {
		if err := opts.filter(filter); err != nil {
			return opts, err
		}
	}
	return opts, nil
}

// filter adds what a value of --filter says to the options.
func (o *pruneOptions) filter(filter string) error {
	key, value, ok := strings.Cut(filter, "=")
	switch {
	case !ok || value == "":
		return usagef("invalid --filter %q: it is until=DURATION, id=ID or type=TYPE", filter)
	case key == "until" || key == "unused-for":
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return usagef("invalid --filter %q: until takes a duration such as 24h", filter)
		}
		o.UnusedFor = d
	case key == "id":
		o.IDs = append(o.IDs, strings.TrimPrefix(value, "sha256:"))
	case key == "type":
		kind, ok := typeNames[value]
		if !ok {
			kind = store.Kind(value)
		}
		if !slices.Contains(store.Kinds(), kind) {
			return usagef("invalid --filter %q: the types are %s", filter, joined(store.Kinds()))
		}
		o.Kinds = append(o.Kinds, kind)
	default:
		return usagef("invalid --filter %q: it is until=DURATION, id=ID or type=TYPE", filter)
	}
	return nil
}

// joined lists kinds for people.
func joined(kinds []store.Kind) string {
	var names []string
	for _, k := range kinds {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

func runPrune(ctx context.Context, env *environment, opts pruneOptions) error {
	if !opts.force {
		if ok, err := env.confirm(ctx, opts); !ok {
			return err
		}
	}
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	pruned, err := s.Prune(ctx, opts.PruneOptions)
	for _, id := range pruned.Images {
		fmt.Fprintf(env.stdout, "Deleted: %s\n", id)
	}
	for _, h := range pruned.Holdings {
		fmt.Fprintf(env.stdout, "%s\t%s\t%s\t%s\n", h.Kind, ui.Printable([]byte(h.ID)), ui.Size(h.Size), ui.Printable([]byte(whom(h))))
	}
	if err == nil || len(pruned.Holdings) > 0 {
		fmt.Fprintf(env.stdout, "Total reclaimed space: %s\n", ui.Size(pruned.Holdings.Size()))
	}
	return err
}

// confirm asks whether to go on.
func (e *environment) confirm(ctx context.Context, opts pruneOptions) (bool, error) {
	what := "This will remove the build cache, cache mounts and downloads that no image needs"
	if opts.Nameless {
		what += ", and all images without a name"
	}
	fmt.Fprintf(e.stderr, "WARNING! %s.\nAre you sure you want to continue? [y/N] ", what)
	answer, err := bufio.NewReader(e.input(ctx)).ReadString('\n')
	if err != nil && answer == "" {
		return false, &hintError{fmt.Errorf("nobody answered: %w", err), "use -f to be not asked"}
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}
