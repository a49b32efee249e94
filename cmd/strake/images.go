package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/layer/image"
)

// none is what docker's tables show for what is missing.
const none = "<none>"

// formatHelp says what --format of a list takes.
const formatHelp = "`table`, \"table TEMPLATE\", json, or a Go template"

// imagesOptions are the decided values of strake images.
type imagesOptions struct {
	filter                  imageFilter
	quiet, noTrunc, digests bool
	format                  string
}

// imageRow is a row of strake images; its names are docker's.
type imageRow struct {
	CreatedAt    string
	CreatedSince string
	Digest       string
	ID           string
	Repository   string
	Size         string
	Tag          string
}

func newImagesCommand(env *environment) *cobra.Command {
	var opts imagesOptions
	var filters []string
	var all bool
	cmd := &cobra.Command{
		Use:   "images [OPTIONS] [REPOSITORY[:TAG]]",
		Short: "List images",
		Example: `  strake images 'registry.example.org/*'
  strake images --filter label=org.example.team=web --format '{{.Repository}}:{{.Tag}}'`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			for _, a := range args {
				filters = append(filters, "reference="+a)
			}
			if opts.filter, err = parseImageFilter(filters); err != nil {
				return err
			}
			return runImages(cmd.Context(), env, opts)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "show all images (always so: there are no intermediate ones)")
	f.StringArrayVarP(&filters, "filter", "f", nil, "show only what matches: `reference=PATTERN`, label=K[=V], dangling=true|false, before=IMAGE, since=IMAGE (repeatable)")
	f.BoolVarP(&opts.quiet, "quiet", "q", false, "print IDs only")
	f.BoolVar(&opts.noTrunc, "no-trunc", false, "print whole IDs")
	f.BoolVar(&opts.digests, "digests", false, "show the digests of manifests")
	f.StringVar(&opts.format, "format", "table", formatHelp)
	return cmd
}

func runImages(ctx context.Context, env *environment, opts imagesOptions) error {
	s, err := env.openSizes(ctx)
	if err != nil {
		return err
	}
	shown, err := opts.filter.images(s)
	if err != nil {
		return err
	}
	list, unreadable := s.Images.List() // the others are shown
	var rows []imageRow
	for _, n := range list {
		if !shown(n) {
			continue
		}
		matching := slices.DeleteFunc(nameRows(n, opts.digests), func(r imageRow) bool { return !opts.filter.name(r) })
		if len(matching) > 0 && !opts.quiet {
			s.describe(ctx, n.Image, matching)
		}
		for _, row := range matching {
			row.ID = n.Image.ID.String()
			if !opts.noTrunc {
				row.ID = shortID(n.Image.ID)
			}
			rows = append(rows, row)
		}
	}
	return errors.Join(writeImages(env.stdout, rows, opts), unreadable)
}

// nameRows makes a row for each name of an image, or one for an image without any.
func nameRows(n image.Named, digests bool) []imageRow {
	var rows []imageRow
	byDigest := make(map[string]string)
	for _, name := range repoDigests(n.Image, n.Names) {
		repo, _, digest := splitName(name)
		byDigest[repo] = digest
	}
	for _, name := range repoTags(n.Names) {
		repo, tag, _ := splitName(name)
		row := imageRow{Repository: repo, Tag: tag, Digest: none}
		if d := byDigest[repo]; d != "" {
			row.Digest = d
		}
		rows = append(rows, row)
	}
	if len(rows) > 0 {
		return rows
	}
	for repo, digest := range byDigest {
		rows = append(rows, imageRow{Repository: repo, Tag: none, Digest: digest})
	}
	if len(rows) == 0 || !digests && len(rows) > 1 {
		rows = []imageRow{{Repository: none, Tag: none, Digest: none}}
	}
	return rows
}

// describe fills in what all rows of an image share.
func (s *session) describe(ctx context.Context, img *image.Image, rows []imageRow) {
	size, _ := s.sizes(ctx, img)
	for i := range rows {
		rows[i].Size = ui.Size(size)
		rows[i].CreatedSince = ago(s.env.now(), img.Config.Created.Time)
		rows[i].CreatedAt = img.Config.Created.Local().Format("2006-01-02 15:04:05 -0700 MST")
	}
}

// tarEnd is the size in bytes of what ends every tar: one with nothing in it holds nothing.
const tarEnd = 1024

// sizes returns the unpacked size of an image in bytes, and of each of its layers. A layer that is not
// unpacked counts with its compressed size.
func (s *session) sizes(ctx context.Context, img *image.Image) (sum int64, layers []int64) {
	for _, l := range img.Layers {
		var size int64
		if l.Blob != nil {
			size = l.Blob.Size
		}
		if s.Snapshots != nil {
			if id, err := s.Snapshots.ByDiffID(l.DiffID); err == nil {
				if _, n, err := s.Snapshots.DiffID(ctx, id); err == nil {
					size = max(n-tarEnd, 0)
				}
			}
		}
		sum += size
		layers = append(layers, size)
	}
	return sum, layers
}

func writeImages(w io.Writer, rows []imageRow, opts imagesOptions) error {
	format := opts.format
	switch {
	case opts.quiet:
		format = "{{.ID}}"
	case format == "table" && opts.digests:
		format = "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
	case format == "table":
		format = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
	}
	titles := imageRow{
		Repository: "REPOSITORY", Tag: "TAG", Digest: "DIGEST", ID: "IMAGE ID", CreatedSince: "CREATED", CreatedAt: "CREATED AT", Size: "SIZE",
	}
	return writeRows(w, format, titles, rows)
}

// rfc3339 is a time in docker's JSON.
func rfc3339(t time.Time) string { return t.Format(time.RFC3339Nano) }
