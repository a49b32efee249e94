package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/builder/store"
	"github.com/strake-build/strake/cmd/ui"
)

// duOptions are the decided values of strake du.
type duOptions struct {
	verbose bool
	format  string // table or json
}

// duKind is a row of strake du.
type duKind struct {
	Kind        string `json:"type"`
	Count       int    `json:"count"`
	Size        int64  `json:"size"`
	Shared      int64  `json:"shared"`      // by several images or steps
	Reclaimable int64  `json:"reclaimable"` // no image needs it
}

func newDuCommand(env *environment) *cobra.Command {
	var opts duOptions
	cmd := &cobra.Command{
		Use:   "du [OPTIONS]",
		Short: "Show what the store holds, and how much of the disk it takes",
		Long: `Show what the store holds, and how much of the disk it takes.

RECLAIMABLE is what no image needs: "strake prune" removes it.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.format != "table" && opts.format != "json" {
				return usagef("invalid --format %q: it is table or json", opts.format)
			}
			return runDu(cmd.Context(), env, opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.verbose, "verbose", "v", false, "list everything one by one, with its last use and who needs it")
	cmd.Flags().StringVar(&opts.format, "format", "table", "`table` or json")
	addIsolationFlag(cmd, env)
	return cmd
}

func runDu(ctx context.Context, env *environment, opts duOptions) error {
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	u, err := s.Usage(ctx)
	if err != nil {
		return err
	}
	kinds := store.Kinds()
	slices.SortStableFunc(u.Holdings, func(a, b *store.Holding) int {
		return cmp.Or(slices.Index(kinds, a.Kind)-slices.Index(kinds, b.Kind), b.LastUsed.Compare(a.LastUsed))
	})
	if opts.format == "json" {
		return writeUsageJSON(env.stdout, s.Root, u, opts.verbose)
	}
	if opts.verbose {
		if err := writeHoldings(env.stdout, u.Holdings, env.now()); err != nil {
			return err
		}
	}
	return writeKinds(env.stdout, usageByKind(u))
}

// usageByKind sums up the kinds; layers of images and of the build cache alone are two.
func usageByKind(u *store.Usage) []duKind {
	var rows []duKind
	row := func(kind string, which func(*store.Holding) bool) {
		r := duKind{Kind: kind}
		for _, i := range u.Holdings {
			if !which(i) {
				continue
			}
			r.Count++
			r.Size += i.Size
			if len(i.Images) > 1 || len(i.Images) == 0 && len(i.Steps) > 1 {
				r.Shared += i.Size
			}
			if i.Reclaimable {
				r.Reclaimable += i.Size
			}
		}
		rows = append(rows, r)
	}
	row("image layers", func(i *store.Holding) bool { return i.Kind == store.Layer && len(i.Images) > 0 })
	row("cache layers", func(i *store.Holding) bool { return i.Kind == store.Layer && len(i.Images) == 0 })
	for _, k := range store.Kinds()[1:] {
		row(plural(k), func(i *store.Holding) bool { return i.Kind == k })
	}
	return append(rows, duKind{Kind: "other", Size: u.Other})
}

// plural is how people see a kind.
func plural(kind store.Kind) string {
	switch kind {
	case store.Compressed:
		return "compressed index"
	case store.Copy:
		return "copies"
	case store.Mount:
		return "cache mounts"
	case store.Record:
		return "stale records"
	default:
		return string(kind) + "s"
	}
}

func writeKinds(w io.Writer, rows []duKind) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "TYPE\tCOUNT\tSIZE\tSHARED\tRECLAIMABLE")
	var total duKind
	for _, r := range rows {
		total.Size += r.Size
		total.Shared += r.Shared
		total.Reclaimable += r.Reclaimable
		if r.Size > 0 {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Kind, countText(r.Count), ui.Size(r.Size), ui.Size(r.Shared), ui.Size(r.Reclaimable))
		}
	}
	fmt.Fprintf(t, "total\t\t%s\t%s\t%s\n", ui.Size(total.Size), ui.Size(total.Shared), ui.Size(total.Reclaimable))
	return t.Flush()
}

func countText(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func writeHoldings(w io.Writer, list store.Holdings, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "TYPE\tID\tSIZE\tLAST USED\tRECLAIMABLE\tFOR")
	for _, i := range list {
		id := i.ID
		if i.Kind != store.Mount && i.Kind != store.Layer {
			id = shortText(strings.TrimPrefix(id, "sha256:"), 20)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%t\t%s\n", i.Kind, ui.Printable([]byte(id)), ui.Size(i.Size), ago(now, i.LastUsed), i.Reclaimable, ui.Printable([]byte(whom(i))))
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// whom says who needs a thing.
func whom(h *store.Holding) string {
	names := h.Images
	if len(names) == 0 {
		names = h.Steps
	}
	text := shortText(strings.Join(names[:min(3, len(names))], ", "), 60)
	if more := len(names) - 3; more > 0 {
		text += fmt.Sprintf(" (+%d more)", more)
	}
	return text
}

// shortText cuts a text to n characters.
func shortText(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// duItem is a thing in the JSON of strake du.
type duItem struct {
	Kind        store.Kind `json:"type"`
	ID          string     `json:"id"`
	Size        int64      `json:"size"`
	LastUsed    time.Time  `json:"lastUsed"`
	Images      []string   `json:"images,omitempty"`
	Steps       []string   `json:"steps,omitempty"`
	InUse       bool       `json:"inUse,omitempty"`
	Reclaimable bool       `json:"reclaimable"`
}

func writeUsageJSON(w io.Writer, root string, u *store.Usage, verbose bool) error {
	kinds := usageByKind(u)
	out := struct {
		Root        string   `json:"root"`
		Size        int64    `json:"size"`
		Reclaimable int64    `json:"reclaimable"`
		Types       []duKind `json:"types"`
		Items       []duItem `json:"items,omitempty"`
	}{Root: root, Types: kinds}
	for _, k := range kinds {
		out.Size += k.Size
		out.Reclaimable += k.Reclaimable
	}
	if verbose {
		for _, h := range u.Holdings {
			out.Items = append(out.Items, duItem{h.Kind, h.ID, h.Size, h.LastUsed, h.Images, h.Steps, h.InUse, h.Reclaimable})
		}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(out)
}
