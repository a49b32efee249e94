package store

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/strake-build/strake/layer/lease"
)

// capEvery is how long a store is taken for small enough after it was measured, unless the disk filled up.
const capEvery = time.Hour

// measured is the file usage of the store: what was found when it was last measured.
type measured struct {
	Reclaimable int64     `json:"reclaimable"` // bytes
	Disk        int64     `json:"disk"`        // used bytes of the whole disk then
	Time        time.Time `json:"time"`
}

// EnforceCap removes what no image needs and was not used for longest if the store holds more of that than c, and returns what it
// removed, also with an error, and the bound in bytes. It removes nothing that was used since the build began and nothing that others use.
// What this process used is released.
//
// Preconditions: OpenLayers opened the store.
func (s *Store) EnforceCap(ctx context.Context, c Cap, began time.Time) (removed Holdings, limit int64, err error) {
	disk, err := s.Disk()
	if err != nil {
		return nil, 0, nil // a store is not measured where disks cannot be
	}
	limit = c.On(disk)
	if limit == 0 || disk.Used <= limit || !s.mayExceed(limit, disk.Used) {
		return nil, limit, nil
	}
	s.lease.Release()
	collection, err := s.lease.Collect()
	if errors.Is(err, lease.ErrBusy) {
		return nil, limit, nil // it is being done
	}
	if err != nil {
		return nil, limit, err
	}
	defer collection.Close()
	h, total, err := s.withoutSuperseded(ctx, collection, limit)
	if err != nil {
		return nil, limit, err
	}
	s.protect(h, began)
	if total > limit {
		// A bit more than must be, or each build would have to remove something.
		opt := PruneOptions{Limit: Limit{MaxUsed: max(limit/10*9-(total-h.sizeOf(reclaimable)), 1)}}
		removed, err = h.prune(ctx, opt, s.now())
	}
	gone := removed.Size()
	s.noteSize(measured{total - gone, disk.Used - gone, s.now()})
	return removed, limit, err
}

func reclaimable(h *Holding) bool { return h.Reclaimable }

// withoutSuperseded returns what the store holds, and how much of that may go in the end. If that is more than the limit it forgets images
// that lost their names to others before: an image that a newer build took the name of is not what somebody keeps.
func (s *Store) withoutSuperseded(ctx context.Context, c *lease.Collection, limit int64) (h Holdings, total int64, err error) {
	u, err := s.usage(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	total = u.Holdings.sizeOf(func(h *Holding) bool { return h.Reclaimable || h.superseded })
	if total <= limit || total == u.Holdings.sizeOf(reclaimable) {
		return u.Holdings, total, nil
	}
	old, err := s.Images.Superseded()
	if err != nil {
		return nil, 0, err
	}
	for _, id := range old {
		if _, err := s.Images.ForgetNameless(c, id); err != nil {
			return nil, 0, err
		}
	}
	if u, err = s.usage(ctx, c); err != nil {
		return nil, 0, err
	}
	return u.Holdings, u.Holdings.sizeOf(reclaimable), nil
}

// protect marks what was used since began, and what explains that, as not reclaimable.
func (s *Store) protect(h Holdings, began time.Time) {
	layers := s.Cache.Used()
	began = began.Add(-time.Second) // file systems' clocks are behind by a tick
	for _, i := range h {
		if i.Kind == Copy {
			continue // it saves time, and nothing that this build made needs it
		}
		if _, found := slices.BinarySearch(layers, i.ID); found && i.Kind == Layer || !i.LastUsed.Before(began) || !i.created.Before(began) || i.of != nil && !i.of.Reclaimable {
			i.Reclaimable = false
		}
	}
}

// mayExceed estimates, without measuring the store, whether it may hold more than the limit: when it was last measured there was
// less, and the disk has not filled up by the difference since.
func (s *Store) mayExceed(limit, used int64) bool {
	var m measured
	b, err := os.ReadFile(s.Path("usage"))
	if err != nil || json.Unmarshal(b, &m) != nil {
		return true
	}
	age := s.now().Sub(m.Time)
	return age < 0 || age > capEvery || m.Reclaimable > limit || used-m.Disk > limit-m.Reclaimable
}

// noteSize remembers what was measured. Without it the store is measured again.
func (s *Store) noteSize(m measured) {
	if b, err := json.Marshal(m); err == nil {
		_ = writeFile(s.Path("usage"), b, false)
	}
}
