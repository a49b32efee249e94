package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/builder/store"
	"github.com/strake-build/strake/cmd/ui"
)

// defaultCap is the value of --cache-max-size if nothing else is given.
const defaultCap = "10%"

// decideCap decides --cache-max-size. Without the flag STRAKE_CACHE_MAX_SIZE counts.
func decideCap(env *environment, value string) (store.Cap, error) {
	if v := env.getenv("STRAKE_CACHE_MAX_SIZE"); value == "" && v != "" {
		return parseCap("STRAKE_CACHE_MAX_SIZE", v)
	}
	return parseCap("--cache-max-size", cmp.Or(value, defaultCap))
}

// parseCap parses a size, a percentage of the disk, or 0. Errors call it what.
func parseCap(what, value string) (store.Cap, error) {
	if number, ok := strings.CutSuffix(value, "%"); ok {
		p, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(p) || p < 0 || p > 100 {
			return store.Cap{}, usagef("invalid %s %q: a percentage is between 0%% and 100%%", what, value)
		}
		return store.Cap{Percent: p}, nil
	}
	if value == "0" {
		return store.Cap{}, nil
	}
	n, err := parseSize(what, value)
	return store.Cap{Bytes: n}, err
}

// mountCaps are how much cache mounts may take, by their IDs; that of "" is for those without one of their own.
type mountCaps map[string]store.Cap

// decideMountCaps decides --cache-mount-max-size. Without the flag STRAKE_CACHE_MOUNT_MAX_SIZE counts. Of two for one ID the later does.
func decideMountCaps(env *environment, values []string) (mountCaps, error) {
	what := "--cache-mount-max-size"
	if v := env.getenv("STRAKE_CACHE_MOUNT_MAX_SIZE"); len(values) == 0 && v != "" {
		what, values = "STRAKE_CACHE_MOUNT_MAX_SIZE", strings.Split(v, ",")
	}
	caps := make(mountCaps)
	for _, v := range values {
		id, size := "", strings.TrimSpace(v)
		if i := strings.LastIndexByte(size, '='); i >= 0 { // an ID may have one, too
			if id, size = size[:i], size[i+1:]; id == "" {
				return nil, usagef("invalid %s %q: the ID before the = is empty", what, v)
			}
		}
		if size == "" {
			return nil, usagef("invalid %s %q: it is [ID=]SIZE, such as 2GB or /root/.cache=500MB, and 0 for no limit", what, v)
		}
		c, err := parseCap(what, size)
		if err != nil {
			return nil, err
		}
		caps[id] = c
	}
	return caps, nil
}

// of is the limit in bytes, on a disk, of a cache mount with an ID as strake du shows it; 0 for none.
func (m mountCaps) of(id string, disk store.Disk) int64 {
	c, ok := m[id]
	if !ok {
		c = m[""]
	}
	return c.On(disk)
}

// limitMounts empties the cache mounts that the build used and that are larger than they may be, and says so: they will be missed.
// Trouble with that is a warning.
func (j *job) limitMounts(ctx context.Context) {
	if len(j.opts.mountMax) == 0 || ctx.Err() != nil {
		return
	}
	warn := func(format string, args ...any) { fmt.Fprintf(j.env.stderr, "warning: "+format+"\n", args...) }
	disk, err := j.Disk()
	if err != nil {
		warn("limiting the cache mounts: %v", err)
		return
	}
	list, err := j.caches.Limit(ctx, func(id string) int64 { return j.opts.mountMax.of(cachemount.Name(id), disk) })
	for _, m := range list {
		how := "it was emptied"
		if !m.Emptied {
			how = "it is in use, and stays until a later build that uses it ends"
		}
		warn("the cache mount %s took %s, more than its limit of %s (--cache-mount-max-size): %s",
			ui.Printable([]byte(cachemount.Name(m.ID))), ui.Size(m.Disk), ui.Size(m.Limit), how)
	}
	if err != nil {
		warn("%s", ui.Printable([]byte(err.Error())))
	}
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
