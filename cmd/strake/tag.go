package main

import (
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
)

func newTagCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "tag IMAGE NAME[:TAG]",
		Short: "Give an image another name",
		Args:  exactArgs(2),
		RunE:  func(_ *cobra.Command, args []string) error { return runTag(env, args[0], args[1]) },
	}
}

func runTag(env *environment, source, target string) error {
	tags, err := parseTags(env, []string{target})
	if err != nil {
		return err
	}
	s, err := env.openStore()
	if err != nil {
		return err
	}
	img, err := s.find(source)
	if err != nil {
		return err
	}
	return s.Images.Tag(name.Reference(tags[0]), img.ID)
}
