package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/layer/lease"
)

// pruneFlags are the flags of strake prune as they were typed.
type pruneFlags struct {
	filters                              []string
	keepStorage, reserved, maxUsed, free string
	all, force                           bool
}

// pruneOptions are the decided values of strake prune.
type pruneOptions struct {
	all   bool // images without a name too
	force bool
	limit pruneLimit
	until time.Duration // only what was not used for so long
	ids   []string      // only these, by the beginning of their IDs
	types []string      // only these
}

// pruneLimit says how much of what no image needs stays, in bytes; with zero values nothing does.
type pruneLimit struct {
	maxUsed  int64 // not more than this
	minFree  int64 // so much less that the disk has this free
	reserved int64 // in any case this much
}

// typeNames are BuildKit's names of kinds.
var typeNames = map[string]string{
	"regular": kindLayer, "exec.cachemount": kindMount, "source.local": kindContext, "source.git.checkout": kindSource,
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

func (f *pruneFlags) decide() (opts pruneOptions, err error) {
	opts.all, opts.force = f.all, f.force
	if f.keepStorage != "" && f.maxUsed != "" {
		return opts, usagef("--keep-storage and --max-used-space mean the same: use one")
	}
	for _, size := range []struct {
		flag, value string
		to          *int64
	}{
		{"keep-storage", f.keepStorage, &opts.limit.maxUsed},
		{"max-used-space", f.maxUsed, &opts.limit.maxUsed},
		{"reserved-space", f.reserved, &opts.limit.reserved},
		{"min-free-space", f.free, &opts.limit.minFree},
	} {
		if size.value == "" || size.value == "0" {
			continue
		}
		if *size.to, err = parseSize(size.flag, size.value); err != nil {
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

// filter adds a --filter.
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
		o.until = d
	case key == "id":
		o.ids = append(o.ids, strings.TrimPrefix(value, "sha256:"))
	case key == "type":
		if k, ok := typeNames[value]; ok {
			value = k
		}
		if !slices.Contains(kinds[:], value) {
			return usagef("invalid --filter %q: the types are %s", filter, strings.Join(kinds[:], ", "))
		}
		o.types = append(o.types, value)
	default:
		return usagef("invalid --filter %q: it is until=DURATION, id=ID or type=TYPE", filter)
	}
	return nil
}

// matches says whether h may go.
func (o *pruneOptions) matches(h *holding, now time.Time) bool {
	return o.counts(h) && now.Sub(h.LastUsed) >= o.until
}

// counts says whether the limit is about h: it is one of what the filters name, however young.
func (o *pruneOptions) counts(h *holding) bool {
	return h.Reclaimable && (len(o.types) == 0 || slices.Contains(o.types, h.Kind)) &&
		(len(o.ids) == 0 || slices.ContainsFunc(o.ids, func(id string) bool {
			return strings.HasPrefix(strings.TrimPrefix(h.ID, "sha256:"), id)
		}))
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
	c, err := s.collection(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if opts.all {
		if err := s.forgetNameless(c); err != nil {
			return err
		}
	}
	h, err := s.holdings(ctx, c)
	if err != nil {
		return err
	}
	if opts.limit.minFree > 0 {
		if opts.limit.maxUsed, err = s.atMost(opts.limit, h.size(opts.counts)); err != nil {
			return err
		}
	}
	removed, err := h.prune(ctx, opts, env.now())
	for _, r := range removed {
		fmt.Fprintf(env.stdout, "%s\t%s\t%s\t%s\n", r.Kind, ui.Printable([]byte(r.ID)), ui.Size(r.Size), ui.Printable([]byte(r.whom())))
	}
	var sum int64
	for _, r := range removed {
		sum += r.Size
	}
	fmt.Fprintf(env.stdout, "Total reclaimed space: %s\n", ui.Size(sum))
	return err
}

// confirm asks whether to go on.
func (e *environment) confirm(ctx context.Context, opts pruneOptions) (bool, error) {
	what := "This will remove the build cache, cache mounts and downloads that no image needs"
	if opts.all {
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

// collectAgain is how long one waits before asking again for the right to remove things.
const collectAgain = 20 * time.Millisecond

// collection lets go of what this command used, and waits for the right to remove what nobody uses.
func (s *store) collection(ctx context.Context) (*lease.Collection, error) {
	s.lease.Release()
	for {
		c, err := s.lease.Collect()
		if !errors.Is(err, lease.ErrBusy) {
			return c, err
		}
		select {
		case <-time.After(collectAgain):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// forgetNameless removes images that have no name and that nobody uses.
func (s *store) forgetNameless(c *lease.Collection) error {
	list, err := s.images.List()
	if err != nil {
		return &hintError{err, "\"strake fsck --repair\" drops what is damaged"}
	}
	for _, n := range list {
		if len(n.Names) > 0 {
			continue
		}
		gone, err := s.images.ForgetNameless(c, n.Image.ID)
		if err != nil {
			return err
		}
		if gone {
			fmt.Fprintf(s.env.stdout, "Deleted: %s\n", n.Image.ID)
		}
	}
	return nil
}

// prune removes what opts say, what was not used for longest first, and returns what it removed. What somebody uses stays.
func (h *holdings) prune(ctx context.Context, opts pruneOptions, now time.Time) (removed []*holding, err error) {
	left := h.size(opts.counts)
	limit := max(opts.limit.maxUsed, opts.limit.reserved)
	for _, i := range h.oldest() {
		if left <= limit && limit > 0 {
			break
		}
		if !opts.matches(i, now) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return removed, context.Cause(ctx)
		}
		gone, err := i.remove()
		if err != nil {
			return removed, fmt.Errorf("removing %s %s: %w", i.Kind, i.ID, err)
		}
		if !gone {
			continue
		}
		left -= i.Size
		removed = append(removed, i)
	}
	return removed, nil
}

// oldest returns everything, what was not used for longest first; of what was used at the same time what was made last,
// for layers are of no use without those that they were made on.
func (h *holdings) oldest() []*holding {
	return slices.SortedStableFunc(slices.Values(h.Items), func(a, b *holding) int {
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), b.created.Compare(a.created))
	})
}
