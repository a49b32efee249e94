package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/strake-build/strake/layer/image"
)

// parallelLayers is how many layers are fetched at once.
const parallelLayers = 4

// pullOptions are the decided values of strake pull.
type pullOptions struct {
	name     string
	platform v1.Platform
	quiet    bool
}

func newPullCommand(env *environment) *cobra.Command {
	var opts pullOptions
	var platform string
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Pull an image from a registry",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			opts.name = args[0]
			if opts.platform, err = parsePlatform(platform); err != nil {
				return err
			}
			return runPull(cmd.Context(), env, opts)
		},
	}
	cmd.Flags().StringVar(&platform, "platform", "", "`platform` of the image, as OS/ARCH[/VARIANT] (default: this machine's)")
	cmd.Flags().BoolVarP(&opts.quiet, "quiet", "q", false, "print nothing but the name of the image")
	addIsolationFlag(cmd, env)
	return cmd
}

func runPull(ctx context.Context, env *environment, opts pullOptions) error {
	if _, err := env.registry().ParseReference(opts.name); err != nil {
		return usagef("%w", err)
	}
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	ref, err := s.parseReference(opts.name)
	if err != nil {
		return err
	}
	if !opts.quiet {
		env.tellDefaultTag(opts.name, ref)
		if _, ok := ref.(name.Tag); ok {
			fmt.Fprintf(env.stdout, "%s: Pulling from %s\n", ref.Identifier(), ref.Context().RepositoryStr())
		} else {
			fmt.Fprintf(env.stdout, "%s: Pulling from %s\n", canonicalName(ref), ref.Context().RepositoryStr())
		}
	}
	before, err := s.Images.Resolve(ref)
	if err != nil && !errors.Is(err, image.ErrNotFound) {
		return err
	}
	img, err := s.resolver(true).Resolve(ctx, opts.name, opts.platform)
	if err != nil {
		return err
	}
	if c := img.Config; c.OS != "" && (c.OS != opts.platform.OS || c.Architecture != opts.platform.Architecture) {
		// An image that is in no index is of one platform, whatever was asked for.
		return errors.Join(
			fmt.Errorf("image with reference %s was found but its platform (%s/%s) does not match the specified platform (%s)", familiarName(ref), c.OS, c.Architecture, opts.platform),
			s.forgetPulled(ctx, everyImage))
	}
	bars := newTransfers(env, env.stdout, opts.quiet)
	began := env.now()
	err = s.fetchLayers(ctx, img, bars)
	bars.close()
	if err == nil {
		err = s.syncLayers(env.now().Sub(began))
	}
	if err != nil {
		return errors.Join(err, s.forgetPulled(context.WithoutCancel(ctx), everyImage))
	}
	if !opts.quiet {
		status := "Downloaded newer image for"
		if before != nil && before.ID == img.ID {
			status = "Image is up to date for"
		}
		fmt.Fprintf(env.stdout, "Digest: %s\nStatus: %s %s\n", img.Manifest, status, familiarName(ref))
	}
	_, err = fmt.Fprintln(env.stdout, canonicalName(ref))
	return err
}

// everyImage chooses every image.
func everyImage(*image.Image) bool { return true }

// fetchLayers makes sure that all layers of an image are unpacked in the store.
func (s *session) fetchLayers(ctx context.Context, img *image.Image, bars *transfers) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLayers)
	for _, l := range img.Layers {
		g.Go(func() error {
			id := l.DiffID
			if l.Blob != nil {
				id = l.Blob.Digest
			}
			if _, err := s.Snapshots.ByDiffID(l.DiffID); err == nil {
				bars.state(shortID(id), "Already exists")
				return nil
			}
			bars.state(shortID(id), "Pulling fs layer")
			if _, err := s.Layers.Unpacked(ctx, l, bars.progress(shortID(id), "Downloading")); err != nil {
				return err
			}
			bars.state(shortID(id), "Pull complete")
			return nil
		})
	}
	return g.Wait()
}
