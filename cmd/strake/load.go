package main

import (
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/strake-build/strake/builder/load"
	"github.com/strake-build/strake/layer/image"
)

func newLoadCommand(env *environment) *cobra.Command {
	var input, platform string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "load [OPTIONS]",
		Short: "Read images from an archive",
		Long: `Read images from an archive, as "docker save" or "strake save" write it, or from an OCI image layout in a
tar, compressed or not, or in a folder. Every digest is checked.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := parsePlatform(platform)
			if err != nil {
				return err
			}
			return runLoad(cmd.Context(), env, input, p, quiet)
		},
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "`file` or folder to read instead of standard input")
	cmd.Flags().StringVar(&platform, "platform", "", "`platform` of the images that are taken from an index, as OS/ARCH[/VARIANT] (default: this machine's)")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	addIsolationFlag(cmd, env)
	return cmd
}

func runLoad(ctx context.Context, env *environment, input string, platform v1.Platform, quiet bool) error {
	if input == "" && isTerminal(env.stdin) {
		return usagef("requested load from stdin, but stdin is a terminal: use -i FILE")
	}
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	a, err := s.openArchive(ctx, input)
	if err != nil {
		return fmt.Errorf("reading the archive: %w", err)
	}
	defer a.Close()
	bars := newTransfers(env, env.stdout, quiet)
	l := &load.Loader{
		From: a, Images: s.Images, Blobs: s.Blobs, Layers: s.Layers, Client: s.registry, Platform: platform,
		Progress: func(diffID v1.Hash) func(done, total int64) { return bars.progress(shortID(diffID), "Loading layer") },
	}
	loaded, err := l.Load(ctx)
	bars.close()
	if err != nil {
		s.undoLoad(ctx, l.Begun())
		return fmt.Errorf("loading the archive: %w", err)
	}
	// Before an image is named, what it consists of is durable.
	if err := s.syncLoaded(); err != nil {
		return err
	}
	for _, img := range loaded {
		if err := s.keepLoaded(img); err != nil {
			return err
		}
	}
	return nil
}

// openArchive opens a tar or a folder, or the tar on standard input for an empty name.
func (s *session) openArchive(ctx context.Context, name string) (*load.Archive, error) {
	temp, err := s.SharedTemp()
	if err != nil {
		return nil, err
	}
	if name == "" {
		return load.Spool(s.env.input(ctx), temp)
	}
	return load.Open(name, temp)
}

// keepLoaded gives a loaded image its place and names in the store, and tells them.
func (s *session) keepLoaded(l load.Image) error {
	if err := s.Images.Put(l.Image); err != nil {
		return err
	}
	for _, t := range l.Tags {
		if err := s.Images.Tag(t, l.ID); err != nil {
			return err
		}
		fmt.Fprintf(s.env.stdout, "Loaded image: %s\n", familiarName(t))
	}
	if len(l.Tags) == 0 {
		fmt.Fprintf(s.env.stdout, "Loaded image ID: %s\n", l.ID)
	}
	return nil
}

// undoLoad removes what was added of images: by giving it to them, and removing these. So what others
// use meanwhile stays until they are done.
func (s *session) undoLoad(ctx context.Context, begun []*image.Image) {
	s.Release()
	for _, img := range begun {
		img.Manifest = v1.Hash{}
		if s.Images.Put(img) == nil {
			_ = s.RemoveImage(context.WithoutCancel(ctx), img.ID)
		}
	}
}
