package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/layer/image"
)

// historyOptions are the decided values of strake history.
type historyOptions struct {
	image                 string
	quiet, noTrunc, human bool
	format                string
}

// historyRow is a row of strake history; its names are docker's.
type historyRow struct {
	Comment      string
	CreatedAt    string
	CreatedBy    string
	CreatedSince string
	ID           string
	Size         string
}

func newHistoryCommand(env *environment) *cobra.Command {
	var opts historyOptions
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show how an image was made",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.image = args[0]
			return runHistory(cmd.Context(), env, opts)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.quiet, "quiet", "q", false, "print IDs only")
	f.BoolVar(&opts.noTrunc, "no-trunc", false, "print whole IDs and commands")
	f.BoolVarP(&opts.human, "human", "H", true, "print sizes and times for people")
	f.StringVar(&opts.format, "format", "table", formatHelp)
	return cmd
}

func runHistory(ctx context.Context, env *environment, opts historyOptions) error {
	s, err := env.openSizes(ctx)
	if err != nil {
		return err
	}
	img, err := s.find(opts.image)
	if err != nil {
		return err
	}
	format := opts.format
	switch {
	case opts.quiet:
		format = "{{.ID}}"
	case format == "table" && opts.human:
		format = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
	case format == "table":
		format = "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
	}
	titles := historyRow{
		ID: "IMAGE", CreatedSince: "CREATED", CreatedAt: "CREATED AT", CreatedBy: "CREATED BY", Size: "SIZE", Comment: "COMMENT",
	}
	return writeRows(env.stdout, format, titles, s.history(ctx, img, opts))
}

// history makes the rows, newest first. Only the last entry is an image that exists: the image itself.
func (s *session) history(ctx context.Context, img *image.Image, opts historyOptions) []historyRow {
	_, sizes := s.sizes(ctx, img)
	rows := make([]historyRow, len(img.Config.History))
	for i, h := range img.Config.History {
		var size int64
		if !h.EmptyLayer && len(sizes) > 0 {
			size, sizes = sizes[0], sizes[1:]
		}
		row := historyRow{
			Comment: h.Comment, CreatedAt: h.Created.Local().Format(time.RFC3339), CreatedSince: ago(s.env.now(), h.Created.Time),
			CreatedBy: string(ui.Printable([]byte(strings.ReplaceAll(h.CreatedBy, "\t", " ")))), ID: "<missing>", Size: strconv.FormatInt(size, 10),
		}
		if opts.human {
			row.Size = ui.Size(size)
		}
		if !opts.noTrunc {
			row.CreatedBy = ellipsis(row.CreatedBy, 45)
		}
		if i == len(rows)-1 {
			row.ID = img.ID.String()
			if !opts.noTrunc {
				row.ID = shortID(img.ID)
			}
		}
		rows[len(rows)-1-i] = row
	}
	return rows
}

// ellipsis shortens a text to n characters.
func ellipsis(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
