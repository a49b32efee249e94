package builder

import (
	"context"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/fetch"
	"github.com/strake-build/strake/dockerfile"
)

// TimeOf tells the time that a context has for SOURCE_DATE_EPOCH: of its commit, or of the file that it was. Zero is none.
type TimeOf func(ctx context.Context) (time.Time, error)

// Epoch is a time that stands for SOURCE_DATE_EPOCH.
type Epoch struct {
	Seconds *int64 // since 1970; nil is none
}

// Equal says whether two mean the same, of which each may be nil for none given.
func (e *Epoch) Equal(other *Epoch) bool {
	if e == nil || other == nil || e.Seconds == nil || other.Seconds == nil {
		return e == other || e != nil && other != nil && e.Seconds == other.Seconds
	}
	return *e.Seconds == *other.Seconds
}

// resolveEpoch resolves SOURCE_DATE_EPOCH: where it names a context or a stage, their time is found and the graph made again with it.
func (b *Builder) resolveEpoch(ctx context.Context, g *dockerfile.Graph, opt Options) (*dockerfile.Graph, *int64, error) {
	e := g.Epoch()
	if e.Known {
		return g, &e.Seconds, nil
	}
	var at time.Time
	var err error
	switch {
	case e.Context == "context":
		at, err = timeOf(ctx, opt.ContextTime)
	case e.Context != "":
		var c Context
		if c, err = opt.Contexts[e.Context](ctx, opt.Settings.Platform); err == nil {
			at, err = timeOf(ctx, c.Time)
		}
	case e.Remote != nil:
		at, err = remoteTime(ctx, opt.Fetch, e)
	default:
		return g, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("finding the time for SOURCE_DATE_EPOCH: %w", err)
	}
	var seconds *int64
	if !at.IsZero() {
		s := at.Unix()
		seconds = &s
	}
	g, err = g.WithEpoch(seconds)
	return g, seconds, err
}

func timeOf(ctx context.Context, f TimeOf) (time.Time, error) {
	if f == nil {
		return time.Time{}, nil
	}
	return f(ctx)
}

func remoteTime(ctx context.Context, c *fetch.Client, e dockerfile.Epoch) (time.Time, error) {
	if e.Remote.Git != nil {
		repo, err := c.Git(ctx, GitRequest(e.Remote.Git, e.Checksum))
		if err != nil {
			return time.Time{}, err
		}
		return repo.CommitTime(ctx)
	}
	req := fetch.HTTPRequest{URL: e.Remote.URL}
	if e.Checksum != "" {
		var err error
		if req.Checksum, err = v1.NewHash(e.Checksum); err != nil {
			return time.Time{}, err
		}
	}
	f, err := c.HTTP(ctx, req)
	if err != nil {
		return time.Time{}, err
	}
	return f.Epoch(ctx)
}
