package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/strake-build/strake/builder/store"
	"github.com/strake-build/strake/cmd/ui"
)

// defaultCap is the value of --cache-max-size if nothing else is given.
const defaultCap = "10%"

// parseCap parses the value of --cache-max-size, or of another flag that takes the same: a size, a percentage of the disk, or 0.
func parseCap(flag, value string) (store.Cap, error) {
	if number, ok := strings.CutSuffix(value, "%"); ok {
		p, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(p) || p < 0 || p > 100 {
			return store.Cap{}, usagef("invalid --%s %q: a percentage is between 0%% and 100%%", flag, value)
		}
		return store.Cap{Percent: p}, nil
	}
	if value == "0" {
		return store.Cap{}, nil
	}
	n, err := parseSize(flag, value)
	return store.Cap{Bytes: n}, err
}

// tidy notes what a build that began at a time used, and keeps the store in its bounds. Trouble with that is a warning.
func (s *session) tidy(ctx context.Context, opts buildOptions, began time.Time) {
	s.Cache.Touch(s.env.now())
	if ctx.Err() != nil {
		return
	}
	removed, limit, err := s.EnforceCap(ctx, opts.cacheMax, began)
	if len(removed) > 0 && opts.progress != "quiet" {
		fmt.Fprintf(s.env.stderr, "removed %s of the cache, which may take %s (--cache-max-size)\n", ui.Size(removed.Size()), ui.Size(limit))
	}
	if err != nil {
		fmt.Fprintf(s.env.stderr, "warning: keeping the store in its bounds: %v\n", err)
	}
}
