package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/layer/image"
)

// none is what docker's tables show for what is missing.
const none = "<none>"

// imagesOptions are the decided values of strake images.
type imagesOptions struct {
	only                    string // a repository, or repository:tag; empty shows all
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
	cmd := &cobra.Command{
		Use:   "images [OPTIONS] [REPOSITORY[:TAG]]",
		Short: "List images",
		Args:  rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				opts.only = args[0]
			}
			return runImages(cmd.Context(), env, opts)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.quiet, "quiet", "q", false, "print IDs only")
	f.BoolVar(&opts.noTrunc, "no-trunc", false, "print whole IDs")
	f.BoolVar(&opts.digests, "digests", false, "show the digests of manifests")
	f.StringVar(&opts.format, "format", "table", "`table`, json, or a Go template")
	return cmd
}

func runImages(ctx context.Context, env *environment, opts imagesOptions) error {
	if strings.HasPrefix(opts.format, "table ") {
		return usagef("invalid --format %q: it is table, json or a Go template", opts.format)
	}
	s, err := env.openSizes(ctx)
	if err != nil {
		return err
	}
	var repository, tag, digest string
	if opts.only != "" {
		ref, err := s.parseReference(opts.only)
		if err != nil {
			return err
		}
		repository, tag, digest = splitName(familiarName(ref))
		if !strings.HasSuffix(opts.only, ":"+tag) {
			tag = "" // it was not given
		}
	}
	list, unreadable := s.images.List() // the others are shown
	var rows []imageRow
	for _, n := range list {
		var matching []imageRow
		for _, row := range nameRows(n, opts.digests) {
			if opts.only == "" || row.Repository == repository && (tag == "" || row.Tag == tag) && (digest == "" || row.Digest == digest) {
				matching = append(matching, row)
			}
		}
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
func (s *store) describe(ctx context.Context, img *image.Image, rows []imageRow) {
	size, _ := s.sizes(ctx, img)
	for i := range rows {
		rows[i].Size = ui.Size(size)
		rows[i].CreatedSince = ago(s.env.now(), img.Config.Created.Time)
		rows[i].CreatedAt = img.Config.Created.Format("2006-01-02 15:04:05 -0700 MST")
	}
}

// sizes returns the unpacked size of an image in bytes, and of each of its layers. A layer that is not
// unpacked counts with its compressed size.
func (s *store) sizes(ctx context.Context, img *image.Image) (sum int64, layers []int64) {
	for _, l := range img.Layers {
		var size int64
		if l.Blob != nil {
			size = l.Blob.Size
		}
		if s.snapshots != nil {
			if id, err := s.snapshots.ByDiffID(l.DiffID); err == nil {
				if _, n, err := s.snapshots.DiffID(ctx, id); err == nil {
					size = n
				}
			}
		}
		sum += size
		layers = append(layers, size)
	}
	return sum, layers
}

func writeImages(w io.Writer, rows []imageRow, opts imagesOptions) error {
	switch {
	case opts.quiet:
		for _, r := range rows {
			fmt.Fprintln(w, r.ID)
		}
		return nil
	case opts.format != "table":
		for _, r := range rows {
			if err := writeFormatted(w, opts.format, r); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable(w)
	columns := []string{"REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"}
	write := func(cells ...string) {
		if !opts.digests {
			cells = append(cells[:2:2], cells[3:]...)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	write(columns...)
	for _, r := range rows {
		write(r.Repository, r.Tag, r.Digest, r.ID, r.CreatedSince, r.Size)
	}
	return t.Flush()
}

// newTable aligns columns as docker does.
func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 10, 1, 3, ' ', 0) }

// rfc3339 is a time in docker's JSON.
func rfc3339(t time.Time) string { return t.Format(time.RFC3339Nano) }
