package main

import (
	"context"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// saveOptions are the decided values of strake save.
type saveOptions struct {
	images []string
	output string // a file; empty is standard output
	format string // docker or oci
}

func newSaveCommand(env *environment) *cobra.Command {
	var opts saveOptions
	cmd := &cobra.Command{
		Use:   "save [OPTIONS] IMAGE...",
		Short: "Write an image to a tar archive",
		Long: `Write an image to a tar archive that "docker load" and "strake load" read: an OCI image layout,
with format docker also docker's manifest.json. Several arguments are names of one image.`,
		Args: rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.images = args
			return runSave(cmd.Context(), env, opts)
		},
	}
	cmd.Flags().StringVarP(&opts.output, "output", "o", "", "`file` to write instead of standard output")
	cmd.Flags().StringVar(&opts.format, "format", "docker", "format of the archive: `docker` or oci")
	addIsolationFlag(cmd, env)
	return cmd
}

func runSave(ctx context.Context, env *environment, opts saveOptions) error {
	if opts.format != "docker" && opts.format != "oci" {
		return usagef("invalid --format %q: it is docker or oci", opts.format)
	}
	if opts.output == "" && isTerminal(env.stdout) {
		return usagef("cowardly refusing to save to a terminal. Use the -o flag or redirect")
	}
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	var img *image.Image
	layout := export.Layout{Codec: compress.Gzip, Docker: opts.format == "docker"}
	for _, arg := range opts.images {
		found, err := s.find(arg)
		if err != nil {
			return err
		}
		if img != nil && found.ID != img.ID {
			return usagef("%s and %s are different images: save one at a time", opts.images[0], arg)
		}
		img = found
		// An argument that is a name, and not an ID, is what the image is called in the archive.
		if ref, err := s.registry.ParseReference(arg); err == nil {
			if tag, ok := ref.(name.Tag); ok {
				if named, err := s.images.Resolve(tag); err == nil && named.ID == img.ID {
					layout.Names = append(layout.Names, tag)
				}
			}
		}
	}
	exporter, err := s.exporter()
	if err != nil {
		return err
	}
	write := func(w io.Writer) error {
		_, err := exporter.LayoutTar(ctx, w, img, layout)
		return err
	}
	if opts.output == "" {
		return write(env.stdout)
	}
	return export.WriteFile(opts.output, write)
}
