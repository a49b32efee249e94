package builder

import (
	"context"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// openStage makes a context of the target of a build.
type openStage = func(ctx context.Context, opt Options) (Context, error)

// built is the openStage that builds.
func (b *Builder) built(ctx context.Context, opt Options) (Context, error) {
	result, err := b.Build(ctx, opt)
	if err != nil {
		return Context{}, err
	}
	return Context{Image: result.Image}, nil
}

// withContextStages adds Options.ContextStages to the contexts: each is opened by open, as the target of a build of its own in
// which the context's name means what it means without the context.
func (opt Options) withContextStages(open openStage) Options {
	if len(opt.ContextStages) == 0 {
		return opt
	}
	outer := opt
	opt.Contexts = maps.Clone(opt.Contexts)
	if opt.Contexts == nil {
		opt.Contexts = map[string]OpenContext{}
	}
	opt.ContextStages = nil
	for name, stage := range outer.ContextStages {
		opt.Contexts[name] = func(ctx context.Context, platform v1.Platform) (Context, error) {
			inner := outer
			inner.Labels = nil
			inner.label = strings.TrimSpace(outer.label + " " + name)
			inner.ContextStages = maps.Clone(outer.ContextStages)
			delete(inner.ContextStages, name)
			inner.Settings.Target, inner.Settings.Platform = stage, platform
			inner.Settings.Contexts = slices.DeleteFunc(slices.Clone(outer.Settings.Contexts), func(n string) bool { return n == name })
			return open(ctx, inner)
		}
	}
	return opt
}
