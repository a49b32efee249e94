package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// pushOptions are the decided values of strake push.
type pushOptions struct {
	name           string
	allTags, quiet bool
	compression    compress.Algorithm
}

func newPushCommand(env *environment) *cobra.Command {
	var opts pushOptions
	var compression string
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] NAME[:TAG]",
		Short: "Push an image to a registry",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.name = args[0]
			opts.compression = compress.Algorithm(compression)
			if opts.compression != compress.Gzip && opts.compression != compress.Zstd {
				return usagef("invalid --compression %q: it is gzip or zstd", compression)
			}
			return runPush(cmd.Context(), env, opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.allTags, "all-tags", "a", false, "push all tags of the repository")
	cmd.Flags().BoolVarP(&opts.quiet, "quiet", "q", false, "print nothing but the name of the image")
	cmd.Flags().StringVar(&compression, "compression", string(compress.Gzip), "how to compress layers that were built here: `gzip` or zstd")
	addIsolationFlag(cmd, env)
	return cmd
}

func runPush(ctx context.Context, env *environment, opts pushOptions) error {
	ref, err := env.registry().ParseReference(opts.name)
	if err != nil {
		return usagef("%w", err)
	}
	tag, ok := ref.(name.Tag)
	if !ok {
		return usagef("cannot push a digest reference: give NAME or NAME:TAG")
	}
	if _, given, _ := splitName(opts.name); opts.allTags && given != "" {
		return usagef("tag can't be used with --all-tags/-a")
	}
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	tags := []name.Tag{tag}
	if opts.allTags {
		if tags, err = s.tagsOf(tag.Context()); err != nil {
			return err
		}
	}
	if !opts.quiet {
		if !opts.allTags {
			env.tellDefaultTag(opts.name, tag)
		}
		fmt.Fprintf(env.stdout, "The push refers to repository [%s]\n", canonicalRepository(tag.Context()))
	}
	for _, t := range tags {
		if err := s.push(ctx, t, opts); err != nil {
			return err
		}
	}
	return nil
}

// tagsOf lists the tags of a repository in the store.
func (s *session) tagsOf(repo name.Repository) ([]name.Tag, error) {
	list, err := s.Images.List()
	if err != nil {
		return nil, err
	}
	var tags []name.Tag
	for _, n := range list {
		for _, familiar := range repoTags(n.Names) {
			if ref, err := s.registry.ParseReference(familiar); err == nil && ref.Context().Name() == repo.Name() {
				tags = append(tags, ref.(name.Tag))
			}
		}
	}
	if len(tags) == 0 {
		return nil, fmt.Errorf("an image does not exist locally with the name: %s", canonicalRepository(repo))
	}
	return tags, nil
}

// push pushes one tag.
func (s *session) push(ctx context.Context, tag name.Tag, opts pushOptions) error {
	img, err := s.Images.Resolve(tag)
	if err != nil {
		return fmt.Errorf("an image does not exist locally with the tag: %s", familiarName(tag))
	}
	exporter, err := s.exporter()
	if err != nil {
		return err
	}
	bars := newTransfers(s.env, s.env.stdout, opts.quiet)
	sent := &pushed{bars: bars, layers: make(map[v1.Hash]bool)}
	for _, l := range img.Layers {
		bars.state(shortID(l.DiffID), "Preparing")
	}
	res, err := exporter.Push(ctx, export.One(img), tag, export.Options{Codec: opts.compression}, sent.progress)
	if err == nil {
		sent.finish(img)
	}
	bars.close()
	if err != nil {
		return err
	}
	if err := s.Images.Tag(tag.Context().Digest(res.Descriptor.Digest.String()), img.ID); err != nil {
		return err
	}
	if opts.quiet {
		_, err = fmt.Fprintln(s.env.stdout, canonicalName(tag))
		return err
	}
	_, err = fmt.Fprintf(s.env.stdout, "%s: digest: %s size: %d\n", tag.TagStr(), res.Descriptor.Digest, res.Descriptor.Size)
	return err
}

// pushed remembers which layers sent bytes.
type pushed struct {
	bars   *transfers
	mu     sync.Mutex
	layers map[v1.Hash]bool
}

func (p *pushed) progress(layer v1.Hash, current int64) {
	p.mu.Lock()
	p.layers[layer] = true
	p.mu.Unlock()
	p.bars.progress(shortID(layer), "Pushing")(current, 0)
}

// finish says for each layer whether it was sent.
func (p *pushed) finish(img *image.Image) {
	for _, l := range img.Layers {
		state := "Layer already exists"
		if p.layers[l.DiffID] {
			state = "Pushed"
		}
		p.bars.state(shortID(l.DiffID), state)
	}
}

// exporter makes what writes images to registries and files.
func (s *session) exporter() (*export.Exporter, error) {
	temp, err := s.SharedTemp()
	if err != nil {
		return nil, err
	}
	return &export.Exporter{
		Layers: s.Layers, Blobs: s.Blobs, Snapshots: s.Snapshots, Client: s.registry,
		Temp: temp, UserXattr: s.isolation.UserNS,
	}, nil
}
