package builder

import (
	"context"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strake-build/strake/builder/solver"
	"github.com/strake-build/strake/layer/image"
)

// Explain says what BuildPlatforms would do with each step: find it in the cache, or run it and why. It runs nothing, fetches no layers, and
// looks images up as a build does.
func (b *Builder) Explain(ctx context.Context, opt Options, platforms []v1.Platform) ([]solver.Forecast, error) {
	lists := make([][]solver.Forecast, len(platforms))
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range platforms {
		g.Go(func() error {
			var err error
			lists[i], _, err = b.forecast(ctx, opt.forPlatform(p, len(platforms) > 1))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var all []solver.Forecast
	for _, l := range lists {
		all = append(all, l...)
	}
	return all, nil
}

// forecast explains one build, after those that it takes something from: contexts that are stages.
func (b *Builder) forecast(ctx context.Context, opt Options) ([]solver.Forecast, *plan, error) {
	var list []solver.Forecast
	opened := map[string]Context{} // by label and platform
	bd, p, err := b.start(ctx, opt, func(ctx context.Context, inner Options) (Context, error) {
		k := inner.label + " " + inner.Settings.Platform.String()
		if c, ok := opened[k]; ok {
			return c, nil
		}
		steps, made, err := b.forecast(ctx, inner)
		if err != nil {
			return Context{}, err
		}
		list = append(list, steps...)
		c := Context{Pending: pending(made.target.top, steps)}
		if c.Pending != nil {
			c.Image = &image.Image{Config: made.target.state.Config} // without an ID
		} else if c, err = b.built(ctx, inner); err != nil { // all of it is in the cache
			return Context{}, err
		}
		opened[k] = c
		return c, nil
	})
	if err != nil {
		return nil, nil, err
	}
	own, err := bd.solver(newTravel(bd)).Explain(ctx, p.vertices)
	return append(list, own...), p, err
}

// pending is the step that runs before it is known what top makes; nil if it is found in the cache, or is no step.
func pending(top *vertex, list []solver.Forecast) *solver.Forecast {
	if top == nil {
		return nil
	}
	if top.Source {
		return top.Pending
	}
	find := func(id string) *solver.Forecast {
		i := slices.IndexFunc(list, func(f solver.Forecast) bool { return f.ID == id })
		return &list[i]
	}
	switch f := find(top.ID); f.State {
	case solver.Miss:
		return f
	case solver.Unknown:
		return find(f.After)
	default:
		return nil
	}
}
