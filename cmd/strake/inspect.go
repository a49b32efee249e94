package main

import (
	"context"
	"encoding/json"
	"errors"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/strake-build/strake/layer/image"
)

// imageInspect is an image as docker image inspect shows it.
type imageInspect struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Comment      string
	Created      string
	Author       string
	Config       v1.Config
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	OsVersion    string `json:",omitempty"`
	Size         int64
	RootFS       rootFSInspect
}

// rootFSInspect lists the layers of an image by the digests of their tars.
type rootFSInspect struct {
	Type   string
	Layers []string
}

func newInspectCommand(env *environment) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] IMAGE...",
		Short: "Show what is known of images, as JSON",
		Args:  rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInspect(cmd.Context(), env, format, args)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "`json` on one line, or a Go template")
	return cmd
}

func runInspect(ctx context.Context, env *environment, format string, names []string) error {
	s, err := env.openSizes(ctx)
	if err != nil {
		return err
	}
	found := []imageInspect{}
	var failed []error
	for _, n := range names {
		img, err := s.find(n)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		shown, err := s.inspect(ctx, img)
		if err != nil {
			return err
		}
		found = append(found, shown)
	}
	if format == "" {
		enc := json.NewEncoder(env.stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "    ")
		if err := enc.Encode(found); err != nil {
			return err
		}
		return errors.Join(failed...)
	}
	if format == "json" {
		return errors.Join(append(failed, writeJSONLine(env.stdout, found))...)
	}
	for _, img := range found {
		if err := writeFormatted(env.stdout, format, img); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

func (s *session) inspect(ctx context.Context, img *image.Image) (imageInspect, error) {
	names, err := s.names(img.ID)
	if err != nil {
		return imageInspect{}, err
	}
	size, _ := s.sizes(ctx, img)
	c := img.Config
	shown := imageInspect{
		ID: img.ID.String(), RepoTags: repoTags(names), RepoDigests: repoDigests(img, names),
		Created: rfc3339(c.Created.Time), Author: c.Author, Config: c.Config,
		Architecture: c.Architecture, Variant: c.Variant, Os: c.OS, OsVersion: c.OSVersion,
		Size: size, RootFS: rootFSInspect{Type: c.RootFS.Type, Layers: []string{}},
	}
	if n := len(c.History); n > 0 {
		shown.Comment = c.History[n-1].Comment
	}
	for _, d := range c.RootFS.DiffIDs {
		shown.RootFS.Layers = append(shown.RootFS.Layers, d.String())
	}
	return shown, nil
}

// names lists the familiar names of an image.
func (s *session) names(id v1.Hash) ([]string, error) {
	list, err := s.Images.List()
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		if n.Image.ID == id {
			return n.Names, nil
		}
	}
	return nil, nil
}
