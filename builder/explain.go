package builder

import (
	"context"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strake-build/strake/builder/solver"
)

// Explain says what BuildPlatforms would do with each step: find it in the cache, or run it and why. It runs nothing, fetches no layers, and
// looks images up as a build does.
func (b *Builder) Explain(ctx context.Context, opt Options, platforms []v1.Platform) ([]solver.Forecast, error) {
	lists := make([][]solver.Forecast, len(platforms))
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range platforms {
		g.Go(func() error {
			bd, plan, err := b.start(ctx, opt.forPlatform(p, len(platforms) > 1))
			if err != nil {
				return err
			}
			lists[i], err = bd.solver(newTravel(bd)).Explain(ctx, plan.vertices)
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
