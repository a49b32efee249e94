package main

import (
	"context"
	"io"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/layer/compress"
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
		Short: "Write images to a tar archive",
		Long: `Write one or more images to a tar archive that "docker load" and "strake load" read: an OCI image layout,
with format docker also docker's manifest.json. Several arguments may be names of one image or several images.`,
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
	var artifacts []export.Artifact
	options := export.Options{Codec: compress.Gzip, Archive: opts.format == "docker"}
	for _, arg := range opts.images {
		found, err := s.find(arg)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(artifacts, func(a export.Artifact) bool { return a.Images[0].ID == found.ID })
		if i < 0 {
			i = len(artifacts)
			artifacts = append(artifacts, export.One(found))
		}
		// An argument that is a name, and not an ID, is what the image is called in the archive.
		if ref, err := s.registry.ParseReference(arg); err == nil {
			if tag, ok := ref.(name.Tag); ok {
				if named, err := s.Images.Resolve(tag); err == nil && named.ID == found.ID && !slices.Contains(artifacts[i].Names, tag) {
					artifacts[i].Names = append(artifacts[i].Names, tag)
				}
			}
		}
	}
	exporter, err := s.exporter()
	if err != nil {
		return err
	}
	write := func(w io.Writer) error {
		_, err := exporter.LayoutTar(ctx, w, artifacts, options)
		return err
	}
	if opts.output == "" {
		return write(env.stdout)
	}
	return export.WriteFile(opts.output, write)
}
