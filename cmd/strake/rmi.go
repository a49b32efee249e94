package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/strake-build/strake/layer/image"
)

func newRmiCommand(env *environment) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rmi [OPTIONS] IMAGE...",
		Short: "Remove images",
		Long: `Remove names of images, and images that have no other name.

What the build cache needs of an image's layers is kept.`,
		Args: rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRmi(cmd.Context(), env, force, args)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also remove an image with several names, and do not mind one that is missing")
	addIsolationFlag(cmd, env)
	return cmd
}

func runRmi(ctx context.Context, env *environment, force bool, names []string) error {
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	s.Release() // or nothing could be deleted
	var failed []error
	for _, n := range names {
		err := s.removeImage(ctx, n, force)
		if force && errors.Is(err, errNoSuchImage) {
			fmt.Fprintln(env.stderr, err)
			continue
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// removeImage removes a name, and the image when that was its last; an ID removes the image.
func (s *session) removeImage(ctx context.Context, arg string, force bool) error {
	img, err := s.find(arg)
	if err != nil {
		return err
	}
	names, err := s.names(img.ID)
	if err != nil {
		return err
	}
	if given := s.nameOf(arg, img); given != nil {
		rest, err := s.untag(given, names)
		if err != nil || len(rest) > 0 {
			return err
		}
	} else {
		repositories := make(map[string]bool)
		for _, n := range names {
			repo, _, _ := splitName(n)
			repositories[repo] = true
		}
		if len(repositories) > 1 && !force {
			return &hintError{
				fmt.Errorf("unable to delete %s (must be forced) - image is referenced in multiple repositories", shortID(img.ID)),
				"use -f, or remove its names: " + strings.Join(names, " "),
			}
		}
	}
	left, err := s.names(img.ID)
	if err != nil {
		return err
	}
	if err := s.RemoveImage(ctx, img.ID); err != nil {
		return fmt.Errorf("removing %s: %w", arg, err)
	}
	for _, n := range left {
		fmt.Fprintf(s.env.stdout, "Untagged: %s\n", n)
	}
	_, err = fmt.Fprintf(s.env.stdout, "Deleted: %s\n", img.ID)
	return err
}

// nameOf returns arg as a name of img, or nil if arg is an ID.
func (s *session) nameOf(arg string, img *image.Image) name.Reference {
	ref, err := s.registry.ParseReference(arg)
	if err != nil {
		return nil
	}
	named, err := s.Images.Resolve(ref)
	if err != nil || named.ID != img.ID {
		return nil
	}
	return ref
}

// untag removes a name. With the last tag of a repository its digests go too. It returns the names that are left.
func (s *session) untag(ref name.Reference, names []string) (rest []string, err error) {
	remove := []name.Reference{ref}
	own := familiarName(ref)
	repo, _, _ := splitName(own)
	tags := 0
	for _, n := range names {
		if r, tag, _ := splitName(n); r == repo && tag != "" && n != own {
			tags++
		}
	}
	for _, n := range names {
		r, _, digest := splitName(n)
		switch {
		case n == own:
		case r == repo && digest != "" && tags == 0:
			d, err := s.registry.ParseReference(n)
			if err != nil {
				return nil, err
			}
			remove = append(remove, d)
		default:
			rest = append(rest, n)
		}
	}
	for _, r := range remove {
		if _, err := s.Images.Untag(r); err != nil {
			return nil, err
		}
		fmt.Fprintf(s.env.stdout, "Untagged: %s\n", familiarName(r))
	}
	return rest, nil
}
