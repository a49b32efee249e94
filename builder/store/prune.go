package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/lease"
)

// PruneOptions say what Prune removes.
type PruneOptions struct {
	Nameless  bool // images without a name too
	Limit     Limit
	UnusedFor time.Duration // only what was not used for so long
	IDs       []string      // only these, by the beginning of their IDs, without "sha256:"; all if there are none
	Kinds     []Kind        // only these; all if there are none
}

// Limit says how much of what no image needs stays, in bytes; with zero values nothing does.
type Limit struct {
	MaxUsed  int64 // not more than this
	MinFree  int64 // so much less that the disk has this free
	Reserved int64 // in any case this much
}

// Pruned is what Prune removed.
type Pruned struct {
	Images   []v1.Hash // by their IDs
	Holdings Holdings
}

// Prune removes what no image needs and nobody uses, what was not used for longest first. What this process used is released; while
// somebody else removes things it waits. It returns what it removed also with an error.
//
// Preconditions: OpenLayers opened the store.
func (s *Store) Prune(ctx context.Context, opt PruneOptions) (pruned Pruned, err error) {
	c, err := s.collect(ctx)
	if err != nil {
		return pruned, err
	}
	defer c.Close()
	if opt.Nameless {
		if pruned.Images, err = s.forgetNameless(c); err != nil {
			return pruned, err
		}
	}
	u, err := s.usage(ctx, c)
	if err != nil {
		return pruned, err
	}
	if opt.Limit.MinFree > 0 {
		disk, err := s.Disk()
		if err != nil {
			return pruned, err
		}
		opt.Limit.MaxUsed = opt.Limit.atMost(u.Holdings.sizeOf(opt.counts), disk)
	}
	pruned.Holdings, err = u.Holdings.prune(ctx, opt, s.now())
	return pruned, err
}

// atMost is how much of what no image needs, of which there is have, may stay so that MinFree is free on the disk.
func (l Limit) atMost(have int64, disk Disk) int64 {
	keep := have
	if missing := l.MinFree - disk.Free; missing > 0 {
		keep = have - missing
	}
	if l.MaxUsed > 0 {
		keep = min(keep, l.MaxUsed)
	}
	// 1 keeps nothing: 0 is no limit.
	return max(keep, 1)
}

// matches says whether the options allow h to be removed now.
func (o *PruneOptions) matches(h *Holding, now time.Time) bool {
	return o.counts(h) && now.Sub(h.LastUsed) >= o.UnusedFor
}

// counts says whether the limit is about h: it is one of what the filters name, however young.
func (o *PruneOptions) counts(h *Holding) bool {
	return h.Reclaimable && (len(o.Kinds) == 0 || slices.Contains(o.Kinds, h.Kind)) &&
		(len(o.IDs) == 0 || slices.ContainsFunc(o.IDs, func(id string) bool {
			return strings.HasPrefix(strings.TrimPrefix(h.ID, "sha256:"), id)
		}))
}

// collectAgain is how long one waits before asking again for the right to remove things.
const collectAgain = 20 * time.Millisecond

// collect lets go of what this process used, and waits for the right to remove what nobody uses.
func (s *Store) collect(ctx context.Context) (*lease.Collection, error) {
	s.lease.Release()
	for {
		c, err := s.lease.Collect()
		if !errors.Is(err, lease.ErrBusy) {
			return c, err
		}
		select {
		case <-time.After(collectAgain):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// forgetNameless removes images that have no name and that nobody uses, and returns their IDs.
func (s *Store) forgetNameless(c *lease.Collection) (gone []v1.Hash, err error) {
	list, err := s.Images.List()
	if err != nil {
		return nil, &ImagesError{err}
	}
	for _, n := range list {
		if len(n.Names) > 0 {
			continue
		}
		removed, err := s.Images.ForgetNameless(c, n.Image.ID)
		if err != nil {
			return gone, err
		}
		if removed {
			gone = append(gone, n.Image.ID)
		}
	}
	return gone, nil
}

// prune removes what opt says, what was not used for longest first, and returns what it removed. What somebody uses stays.
func (h Holdings) prune(ctx context.Context, opt PruneOptions, now time.Time) (removed Holdings, err error) {
	left := h.sizeOf(opt.counts)
	limit := max(opt.Limit.MaxUsed, opt.Limit.Reserved)
	for _, i := range h.oldest() {
		if left <= limit && limit > 0 {
			break
		}
		if !opt.matches(i, now) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return removed, context.Cause(ctx)
		}
		gone, err := i.remove()
		if err != nil {
			return removed, fmt.Errorf("removing %s %s: %w", i.Kind, i.ID, err)
		}
		if !gone {
			continue
		}
		left -= i.Size
		removed = append(removed, i)
	}
	return removed, nil
}
