package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/layer/lease"
)

// cacheCap is how much of what no image needs a store may hold after a build.
type cacheCap struct {
	bytes   int64   // 0 for none
	percent float64 // of the disk; counts if bytes is 0
}

// defaultCap is the value of --cache-max-size if nothing else is given.
const defaultCap = "10%"

// parseCap parses the value of --cache-max-size, or of another flag that takes the same: a size, a percentage of the disk, or 0.
func parseCap(flag, value string) (cacheCap, error) {
	if number, ok := strings.CutSuffix(value, "%"); ok {
		p, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(p) || p < 0 || p > 100 {
			return cacheCap{}, usagef("invalid --%s %q: a percentage is between 0%% and 100%%", flag, value)
		}
		return cacheCap{percent: p}, nil
	}
	if value == "0" {
		return cacheCap{}, nil
	}
	n, err := parseSize(flag, value)
	return cacheCap{bytes: n}, err
}

// in is the cap in bytes in a store on a disk; 0 for none.
func (c cacheCap) in(disk unix.Statfs_t) int64 {
	if c.bytes > 0 {
		return c.bytes
	}
	return int64(c.percent / 100 * float64(disk.Blocks) * float64(disk.Bsize))
}

// atMost is how much of what no image needs, of which there is have, may stay so that the limit's minFree is free on the disk.
func (s *store) atMost(l pruneLimit, have int64) (int64, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(s.root, &disk); err != nil {
		return 0, fmt.Errorf("asking how much of the disk of %s is free: %w", s.root, err)
	}
	keep := have
	if missing := l.minFree - int64(disk.Bavail)*disk.Bsize; missing > 0 {
		keep = have - missing
	}
	if l.maxUsed > 0 {
		keep = min(keep, l.maxUsed)
	}
	// 1 keeps nothing: 0 is no limit.
	return max(keep, 1), nil
}

// capEvery is how long a store is taken for small enough after it was measured, unless the disk filled up.
const capEvery = time.Hour

// measured is the file usage of the store: what was found when it was last measured.
type measured struct {
	Reclaimable int64     `json:"reclaimable"` // bytes
	Disk        int64     `json:"disk"`        // used bytes of the whole disk then
	Time        time.Time `json:"time"`
}

// tidy notes what a build that began at a time used, and keeps the store in its bounds. Trouble with that is a warning.
func (s *store) tidy(ctx context.Context, opts buildOptions, began time.Time) {
	s.cache.Touch(s.env.now())
	if ctx.Err() != nil {
		return
	}
	err := s.enforceCap(ctx, opts.cacheMax, began, func(text string) {
		if opts.progress != "quiet" {
			fmt.Fprintln(s.env.stderr, text)
		}
	})
	if err != nil {
		fmt.Fprintf(s.env.stderr, "warning: keeping the store in its bounds: %v\n", err)
	}
}

// enforceCap removes what was not used for longest if a store holds too much, and says so. It removes nothing that was used since
// the build began and nothing that others use. What the command itself used is released.
func (s *store) enforceCap(ctx context.Context, c cacheCap, began time.Time, say func(string)) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(s.root, &disk); err != nil {
		return nil // a store is not measured where disks cannot be
	}
	limit := c.in(disk)
	used := int64(disk.Blocks-disk.Bfree) * disk.Bsize
	if limit == 0 || used <= limit || !s.mayExceed(limit, used) {
		return nil
	}
	s.lease.Release()
	collection, err := s.lease.Collect()
	if errors.Is(err, lease.ErrBusy) {
		return nil // it is being done
	}
	if err != nil {
		return err
	}
	defer collection.Close()
	h, err := s.holdings(ctx, collection)
	if err != nil {
		return err
	}
	reclaimable := func(h *holding) bool { return h.Reclaimable }
	total := h.size(func(h *holding) bool { return h.Reclaimable || h.superseded })
	if total > limit && total > h.size(reclaimable) {
		// Images that a newer build took the name of are not what somebody keeps.
		if h, err = s.forgetSuperseded(ctx, collection); err != nil {
			return err
		}
		total = h.size(reclaimable)
	}
	s.protect(h, began)
	var removed []*holding
	if total > limit {
		// A bit more than must be, or each build would have to remove something.
		opts := pruneOptions{limit: pruneLimit{maxUsed: max(limit/10*9-(total-h.size(reclaimable)), 1)}}
		removed, err = h.prune(ctx, opts, s.env.now())
	}
	var sum int64
	for _, r := range removed {
		sum += r.Size
	}
	if len(removed) > 0 {
		say(fmt.Sprintf("removed %s of the cache, which may take %s (--cache-max-size)", ui.Size(sum), ui.Size(limit)))
	}
	s.noteSize(measured{total - sum, used - sum, s.env.now()})
	return err
}

// forgetSuperseded removes images that lost their names to others, and returns what the store holds without them.
func (s *store) forgetSuperseded(ctx context.Context, c *lease.Collection) (*holdings, error) {
	old, err := s.images.Superseded()
	if err != nil {
		return nil, err
	}
	for _, id := range old {
		if _, err := s.images.ForgetNameless(c, id); err != nil {
			return nil, err
		}
	}
	return s.holdings(ctx, c)
}

// protect marks what was used since began, and what explains that, as not reclaimable.
func (s *store) protect(h *holdings, began time.Time) {
	layers := s.cache.Used()
	began = began.Add(-time.Second) // file systems' clocks are behind by a tick
	for _, i := range h.Items {
		if i.Kind == kindCopy {
			continue // it saves time, and nothing that this build made needs it
		}
		if _, found := slices.BinarySearch(layers, i.ID); found && i.Kind == kindLayer || !i.LastUsed.Before(began) || !i.created.Before(began) || i.of != nil && !i.of.Reclaimable {
			i.Reclaimable = false
		}
	}
}

// mayExceed estimates, without measuring the store, whether it may hold more than the limit: when it was last measured there was
// less, and the disk has not filled up by the difference since.
func (s *store) mayExceed(limit, used int64) bool {
	var m measured
	b, err := os.ReadFile(s.path("usage"))
	if err != nil || json.Unmarshal(b, &m) != nil {
		return true
	}
	age := s.env.now().Sub(m.Time)
	return age < 0 || age > capEvery || m.Reclaimable > limit || used-m.Disk > limit-m.Reclaimable
}

// noteSize remembers what was measured. Without it the store is measured again.
func (s *store) noteSize(m measured) {
	if b, err := json.Marshal(m); err == nil {
		_ = writeFile(s.path("usage"), b, 0o600)
	}
}
