// Package builder builds the image that a Dockerfile describes: it lowers stages
// to vertices (plan), has the solver run them (run, copy, workdir), and puts the
// image together from what they made (assemble).
//
// It is the roof of the house: the only package that knows the language, the
// layers and the sandbox at once.
package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/builder/device"
	"github.com/strake-build/strake/builder/fetch"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/builder/solver"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

// Sandbox runs the process of a RUN.
type Sandbox interface {
	Run(ctx context.Context, s runner.Sandbox, p runner.Process) error
}

// Resolver finds the image that FROM or COPY --from names. It fetches no layers.
type Resolver interface {
	Resolve(ctx context.Context, ref string, platform v1.Platform) (*image.Image, error)
}

// Builder holds what builds have in common.
type Builder struct {
	Cache   solver.Cache
	Others  solver.Others // caches of other machines; nil for none
	Plain   Plain         // images that carry no cache; nil for none
	Uploads Uploads       // nil for none
	// Records, if not nil, is what misses are explained by, and early cutoff finds earlier layers in.
	Records   *cache.Store
	Snapshots *snapshot.Store
	Layers    *image.Layers
	Resolver  Resolver
	Sandbox   Sandbox
	// NoRun, if not nil, says why no RUN can be run.
	NoRun     error
	Mounts    *cachemount.Store
	Temp      string // a folder for what is checked out for a moment
	UserXattr bool   // see layer.Options
	Stubs     string // see runner.Sandbox
	Now       func() time.Time
}

// Options are what one build says, as decided values.
type Options struct {
	File *dockerfile.File
	// Project tells the steps of this Dockerfile, in this context, from those of others when misses are explained.
	Project string
	Context *source.Tree // what COPY and ADD without --from read
	// ContextTime is the context's time; nil for none.
	ContextTime TimeOf
	Settings    dockerfile.Settings
	Labels      map[string]string // added to the image, over those of the Dockerfile
	Jobs        int               // how many steps run at once
	Progress    progress.Sink
	Fetch       *fetch.Client // for ADD of URLs and git repositories
	Secrets     Secrets       // nil for none
	Agents      Agents        // nil for none
	// Contexts are the --build-contexts by name, as in Settings.Contexts. One is opened when something needs it.
	Contexts map[string]OpenContext
	// ContextStages are --build-contexts that are stages of the same file, by the context's name; the names are in Settings.Contexts too.
	ContextStages map[string]string
	Sandbox       SandboxOptions
	// FreshStages are names of stages whose steps run whatever the cache holds: --no-cache-filter.
	FreshStages []string
	// Verify runs every step and compares it with what the cache has for it: a warning names what differs.
	Verify bool
	// SecretKey, if not nil, returns what stands for the value of a secret in keys of this machine; ok is false if its value is in none.
	SecretKey func(id string) (key string, ok bool, err error)
	// RewriteTimestamps: with SOURCE_DATE_EPOCH, no file in a new layer is later than it.
	RewriteTimestamps bool
	// InlineCache puts what the cache knows of the image's layers into its configuration.
	InlineCache bool
	// ExportEpoch, if not nil, stands for SOURCE_DATE_EPOCH in what bounds the times of the image and its files.
	ExportEpoch *Epoch

	label string // tells the steps of one platform from those of others
}

// OpenContext opens a named context for a platform.
type OpenContext func(ctx context.Context, platform v1.Platform) (Context, error)

// Context is what a named context is: a tree of files, or an image.
type Context struct {
	Tree  *source.Tree
	Image *image.Image // if Tree is nil
	Time  TimeOf       // nil for none
	// Pending is the step that runs before the layers of Image are known, where the build is only explained; nil if they are known.
	Pending *solver.Forecast
}

// SandboxOptions are what every RUN of a build gets.
type SandboxOptions struct {
	Network    dockerfile.Network // of a RUN that does not say; NetworkDefault is the host's, NetworkBridge a private one
	ExtraHosts []string           // lines of /etc/hosts, "IP\tNAME"
	Hostname   string             // empty is BuildKit's
	// AllowHostNetwork and AllowInsecure are the entitlements network.host and security.insecure.
	AllowHostNetwork, AllowInsecure bool
	// Devices is the entitlement device.
	Devices device.Rights
	// DeviceFolders hold the CDI specifications of the devices that steps may ask for; see device.Open.
	DeviceFolders []string

	ShmSize int64 // of /dev/shm, in bytes; 0 is the sandbox's default
	Ulimits []runner.Ulimit
	Limits  runner.Limits
}

// Result is a finished build.
type Result struct {
	Image    *image.Image
	Warnings []dockerfile.Warning
	// Differing are the steps that did not make what the cache has, if that was to be verified.
	Differing []string
	Epoch     *int64 // SOURCE_DATE_EPOCH, resolved, in seconds since 1970; nil if there is none
}

// Build builds the target and returns its image, which is not stored yet. An error at fault of the
// Dockerfile, and that of a failed step, is a *dockerfile.Error.
func (b *Builder) Build(ctx context.Context, opt Options) (*Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h := hasher{snapshots: b.Snapshots, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	defer h.wg.Wait()
	defer cancel(nil) // before the wait: a failed build needs no digests
	bd, p, err := b.start(ctx, opt, b.built)
	if err != nil {
		return nil, err
	}
	bd.hash = func(id snapshot.ID) { h.start(ctx, id) }
	var fs filesystem
	t := newTravel(bd)
	if p.target.top != nil {
		s := bd.solver(t)
		fs, err = s.Solve(ctx, p.vertices, p.target.top)
		t.settle(ctx)
		if err != nil {
			return nil, err
		}
	}
	img, err := bd.assemble(ctx, p.target, fs, t)
	if err != nil {
		return nil, err
	}
	return &Result{Image: img, Warnings: p.warnings, Differing: bd.differing.list(), Epoch: bd.epoch}, nil
}

// start makes the graph of a build. Contexts that are stages are opened by open.
func (b *Builder) start(ctx context.Context, opt Options, open openStage) (*build, *plan, error) {
	opt = opt.withContextStages(open)
	graph, err := opt.File.Graph(opt.Settings)
	if err != nil {
		return nil, nil, err
	}
	graph, epoch, err := b.resolveEpoch(ctx, graph, opt)
	if err != nil {
		return nil, nil, err
	}
	bd := &build{Builder: b, opt: opt, epoch: epoch, bound: epoch}
	if opt.ExportEpoch != nil {
		bd.bound = opt.ExportEpoch.Seconds
	}
	p, err := bd.plan(ctx, graph)
	return bd, p, err
}

// solver is what looks the results of the graph up, and makes them.
func (b *build) solver(t *travel) *solver.Solver[filesystem] {
	s := &solver.Solver[filesystem]{
		Cache: usable{b.Cache, b.Snapshots, t}, Others: b.Others, Observe: t.observe, Jobs: b.opt.Jobs, Sink: b.opt.Progress, Now: b.Now,
	}
	if b.Records != nil {
		s.History = b.Records
	}
	if b.opt.Verify {
		s.Verify = func(v *vertex, differences []string) {
			b.differing.add(v.Name)
			b.warn(v, "it is not what the cache has: "+strings.Join(differences, ", "))
		}
	}
	return s
}

// names is a list that steps add to at once.
type names struct {
	mu  sync.Mutex
	all []string
}

func (n *names) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, name)
}

func (n *names) list() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all
}

// BuildPlatforms builds the same target for several platforms at once, and returns the results in their order. Steps that do not depend
// on the platform are the same work, and done once.
func (b *Builder) BuildPlatforms(ctx context.Context, opt Options, platforms []v1.Platform) ([]*Result, error) {
	results := make([]*Result, len(platforms))
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range platforms {
		g.Go(func() (err error) {
			results[i], err = b.Build(ctx, opt.forPlatform(p, len(platforms) > 1))
			return err
		})
	}
	return results, g.Wait()
}

// forPlatform are the options of the build for one platform; several says that there are others.
func (opt Options) forPlatform(p v1.Platform, several bool) Options {
	opt.Settings.Platform = p
	if several {
		opt.Settings.PlatformGiven, opt.label = true, p.String()
	}
	return opt
}

// build is one call of Build.
type build struct {
	*Builder
	opt Options
	// epoch is SOURCE_DATE_EPOCH in seconds; nil if there is none.
	epoch *int64
	// bound is what no time of the image is later than, in seconds: epoch, or ExportEpoch. nil is none.
	bound     *int64
	differing names // of Result.Differing
	// hash begins to compute the diffID of a layer, for as long as the build lasts.
	hash func(snapshot.ID)
}

// filesystem is what vertices pass on: a stack of layers, bottom first.
type filesystem struct{ layers []layerRef }

// layerRef is a layer of an image, which may not be on this machine yet, or one that a step made.
type layerRef struct {
	base    *image.Layer // nil for a layer that a step made and that is here
	made    snapshot.ID  // if base is nil
	step    bool         // a step made it, here or elsewhere
	created time.Time    // when the step did
	diffID  string       // of what a step made on another machine
}

// newRef is the layer of a record.
func newRef(r cache.Record) layerRef {
	l := layerRef{made: snapshot.ID(r.Layer), step: true, created: r.Created, diffID: r.DiffID}
	if r.Away != nil {
		if d, err := v1.NewHash(r.DiffID); err == nil { // entries from elsewhere are checked where they come in
			l.base = &image.Layer{DiffID: d, Blob: &r.Away.Blob, Origin: r.Away.Origin}
		}
	}
	return l
}

// identity tells layers apart, on this machine: two with the same one are the same, to the byte.
func (l layerRef) identity() string {
	switch {
	case l.base != nil:
		return l.base.DiffID.String()
	case l.diffID != "":
		return l.diffID
	}
	return string(l.made)
}

// identity is that of all layers.
func (f filesystem) identity() string {
	h := sha256.New()
	for _, l := range f.layers {
		_, _ = io.WriteString(h, l.identity()+"\n") // never fails
	}
	return hex.EncodeToString(h.Sum(nil))
}

// diffIDs are those of the layers of f; they are computed where they are not known.
func (b *Builder) diffIDs(ctx context.Context, f filesystem) ([]v1.Hash, error) {
	ids := make([]v1.Hash, len(f.layers))
	for i, l := range f.layers {
		if l.base != nil {
			ids[i] = l.base.DiffID
			continue
		}
		d, _, err := b.Snapshots.DiffID(ctx, l.made)
		if err != nil {
			return nil, fmt.Errorf("computing the digest of a layer: %w", err)
		}
		ids[i] = d
	}
	return ids, nil
}

// chain identifies the layers of f on every machine.
func (b *Builder) chain(ctx context.Context, f filesystem) (v1.Hash, error) {
	ids, err := b.diffIDs(ctx, f)
	return remote.Chain(ids), err
}

func (f filesystem) with(l layerRef) filesystem {
	layers := make([]layerRef, len(f.layers), len(f.layers)+1)
	copy(layers, f.layers)
	return filesystem{append(layers, l)}
}

// unpacked makes sure that every layer of f is in the snapshot store, all missing ones at once.
func (b *build) unpacked(ctx context.Context, f filesystem, v *vertex) ([]snapshot.ID, error) {
	ids := make([]snapshot.ID, len(f.layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	bytes := newTransfer(func(current, total int64) {
		b.opt.Progress(progress.Event{Time: b.Now(), Kind: progress.Transfer, Vertex: v.ID, Current: current, Total: total})
	})
	for i, l := range f.layers {
		if l.base == nil {
			ids[i] = l.made
			continue
		}
		g.Go(func() (err error) {
			ids[i], err = b.Layers.Unpacked(ctx, *l.base, bytes.part())
			if err != nil && l.step && ctx.Err() == nil {
				err = &lostError{l.base.Blob.Digest, err}
			}
			return err
		})
	}
	return ids, g.Wait()
}

// transfer adds up the progress of transfers that run at once.
type transfer struct {
	mu    sync.Mutex
	parts []*[2]int64
	emit  func(current, total int64)
}

func newTransfer(emit func(current, total int64)) *transfer { return &transfer{emit: emit} }

func (t *transfer) part() func(current, total int64) {
	p := new([2]int64)
	t.mu.Lock()
	t.parts = append(t.parts, p)
	t.mu.Unlock()
	return func(current, total int64) {
		t.mu.Lock()
		defer t.mu.Unlock()
		*p = [2]int64{current, total}
		var sum [2]int64
		for _, q := range t.parts {
			sum[0] += q[0]
			sum[1] += q[1]
		}
		t.emit(sum[0], sum[1])
	}
}

// hasher computes diffIDs while later steps run.
type hasher struct {
	snapshots *snapshot.Store
	slots     chan struct{}
	wg        sync.WaitGroup
}

// start begins to compute the diffID of a layer. Its error is met again, and reported, by whoever asks for the diffID.
func (h *hasher) start(ctx context.Context, id snapshot.ID) {
	h.wg.Go(func() {
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
			_, _, _ = h.snapshots.DiffID(ctx, id)
		case <-ctx.Done():
		}
	})
}
