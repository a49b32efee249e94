package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// Made is a step that was found or made, for other machines.
type Made struct {
	Key     cache.Key
	Name    string
	Created time.Time
	Result  bool // its layer is part of the image
	// Layer returns the identity of the layers below, and the layer. It may take a while.
	Layer func(ctx context.Context) (below v1.Hash, l image.Layer, err error)
	// Portable returns the key by content; nil if that is not known.
	Portable func(below v1.Hash) cache.Key
}

// Target is a cache that a build writes.
type Target struct {
	Backend
	All     bool // also of stages that are not part of the image (mode=max)
	Encoder compress.Encoder
	Force   bool // layers that have another compression get Encoder's
	// Strict makes trouble an error of Close, not only a warning.
	Strict bool
}

// How much is sent at once, and how often what was sent is made findable.
const (
	uploads     = 4
	commitEvery = 10 * time.Second
)

// Uploads are the caches that a build writes: each step is sent when it is made, while others run.
type Uploads struct {
	Layers *image.Layers
	Temp   string            // a folder for compressed layers on their way; they have no name there
	Warn   func(text string) // called once for each target, from any goroutine
	// Stall is how long a server may take no byte of a layer, and not answer at its end; 0 is two minutes.
	Stall time.Duration

	ctx     context.Context //nolint:containedctx // it lives from Start to Close
	cancel  context.CancelCauseFunc
	slots   chan struct{}
	wg      sync.WaitGroup // of steps
	ticks   sync.WaitGroup
	stop    chan struct{}
	targets []*target
	forms   forms
}

// target is a Target and what waits to be committed there.
type target struct {
	Target
	warn func(string)

	commits sync.Mutex // held by a Commit
	mu      sync.Mutex // guards what follows
	ready   []Entry
	seen    map[cache.Key]bool
	err     error // the first trouble: nothing more is sent
}

// Add adds a cache. It must come before Start.
func (u *Uploads) Add(t Target) {
	u.targets = append(u.targets, &target{Target: t, warn: u.Warn, seen: map[cache.Key]bool{}})
}

// Start begins. The end of ctx does not stop uploads: Close does.
func (u *Uploads) Start(ctx context.Context) {
	u.ctx, u.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	u.slots, u.stop = make(chan struct{}, uploads), make(chan struct{})
	u.ticks.Go(func() {
		ticker := time.NewTicker(commitEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				u.commit(u.ctx, false)
			case <-u.stop:
				return
			}
		}
	})
}

// Send takes a step, and does not wait for it to be sent.
func (u *Uploads) Send(m Made) {
	u.wg.Go(func() {
		select {
		case u.slots <- struct{}{}:
			defer func() { <-u.slots }()
			u.send(m)
		case <-u.ctx.Done():
		}
	})
}

// send sends a step to all targets that want it.
func (u *Uploads) send(m Made) {
	var wanted []*target
	for _, t := range u.targets {
		if t.wants(m) {
			wanted = append(wanted, t)
		}
	}
	if len(wanted) == 0 {
		return
	}
	below, l, err := m.Layer(u.ctx)
	for _, t := range wanted {
		if err == nil {
			err = u.sendTo(t, m, below, l)
		}
		if err != nil {
			t.fail(u.ctx, err)
			err = nil
		}
	}
}

// wants says whether a target lacks a step. It is asked once for each step.
func (t *target) wants(m Made) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil || !m.Result && !t.All {
		return false
	}
	fresh := !t.seen[m.Key]
	t.seen[m.Key] = true
	return fresh
}

// fail turns a target off.
func (t *target) fail(ctx context.Context, err error) {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	t.mu.Lock()
	first := t.err == nil
	if first {
		t.err = fmt.Errorf("writing %s: %w", t.Name(), err)
	}
	t.mu.Unlock()
	if first {
		t.warn(fmt.Sprintf("%s does not get the steps of this build: %v", t.Name(), err))
	}
}

func (u *Uploads) sendTo(t *target, m Made, below v1.Hash, l image.Layer) error {
	d, open, done, err := u.forms.of(u.ctx, u, l, t.Target)
	if err != nil {
		return err
	}
	defer done()
	if err := u.put(t, d, open); err != nil {
		return err
	}
	keys := []cache.Key{m.Key}
	if m.Portable != nil {
		keys = append(keys, m.Portable(below))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		t.ready = append(t.ready, Entry{
			Key: k, Below: below, DiffID: l.DiffID, Blob: v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size},
			Created: m.Created, Name: cut(m.Name, maxName),
		})
	}
	return nil
}

// put stores a blob, and gives up when nothing moves for too long.
func (u *Uploads) put(t *target, d v1.Descriptor, open opener) error {
	stall := cmp.Or(u.Stall, 2*time.Minute)
	ctx, cancel := context.WithCancelCause(u.ctx)
	defer cancel(nil)
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer timer.Stop()
	err := t.Put(ctx, d, func(ctx context.Context) (io.ReadCloser, error) {
		r, err := open(ctx)
		if err != nil {
			return nil, err
		}
		return moving{r, timer, stall}, nil
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return err
}

// moving winds a timer up with each read.
type moving struct {
	io.ReadCloser
	timer *time.Timer
	stall time.Duration
}

func (m moving) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.timer.Reset(m.stall)
	return n, err
}

// commit stores the entries of the steps whose layers were sent: from then on other machines find them.
func (u *Uploads) commit(ctx context.Context, last bool) {
	var wg sync.WaitGroup
	for _, t := range u.targets {
		wg.Go(func() {
			t.commits.Lock()
			defer t.commits.Unlock()
			t.mu.Lock()
			ready := t.ready
			t.ready = nil
			t.mu.Unlock()
			if len(ready) == 0 && !last {
				return
			}
			if err := t.Commit(ctx, ready, last); err != nil {
				t.fail(ctx, err)
			}
		})
	}
	wg.Wait()
}

// errTime is why uploads end early.
var errTime = errors.New("it was not done in time")

// Close waits for what is on its way, for at most the time given, or after the end of ctx for at most grace, and makes findable what was sent.
// The error is that of a strict target.
func (u *Uploads) Close(ctx context.Context, most, grace time.Duration) error {
	done := make(chan struct{})
	go func() {
		u.wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(most)
	defer timer.Stop()
	canceled := ctx.Done()
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		case <-canceled:
			canceled = nil
			timer.Reset(grace)
		case <-timer.C:
			u.cancel(errTime)
			<-done
		}
	}
	close(u.stop)
	u.ticks.Wait()
	last, cancel := context.WithTimeoutCause(context.WithoutCancel(u.ctx), grace, errTime)
	defer cancel()
	u.commit(last, true) //nolint:contextcheck // of the uploads, which outlive a build that was canceled
	u.cancel(nil)
	var errs []error
	for _, t := range u.targets {
		if t.Strict {
			errs = append(errs, t.err)
		}
	}
	return errors.Join(errs...)
}

// opener gives the bytes of a blob.
type opener = func(context.Context) (io.ReadCloser, error)
