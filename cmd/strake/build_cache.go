package main

import (
	"context"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/cache/remote"
)

// lookupBudget bounds what a build waits for the answers of one cache.
const lookupBudget = 15 * time.Second

// openCaches opens what --cache-from and --cache-to name.
func (j *job) openCaches(ctx context.Context, sink progress.Sink) {
	warn := func(text string) { sink(progress.Event{Time: j.env.now(), Kind: progress.Warned, Data: []byte(text)}) }
	for _, c := range j.opts.cacheTo {
		if c.open == nil {
			continue
		}
		if c.absent != "" {
			warn(c.absent)
			continue
		}
		if j.uploads == nil {
			j.uploads = &remote.Uploads{Layers: j.Layers, Temp: j.temp, Warn: warn}
		}
		j.uploads.Add(remote.Target{Backend: c.backend(j, warn), All: c.all, Encoder: c.encoder, Force: c.force, Strict: c.strict})
		j.travels(c, warn)
	}
	if len(j.opts.cacheFrom) > 0 && !j.opts.noCache {
		j.openImports(warn)
	}
	if j.uploads != nil {
		j.uploads.Start(ctx)
	}
}

// How long the end of a build waits for its steps to be sent, and an interrupted one.
const (
	uploadsMost  = 30 * time.Minute
	uploadsGrace = 10 * time.Second
)

// closeCaches sends what is left.
func (j *job) closeCaches(ctx context.Context, sink progress.Sink) error {
	if j.uploads == nil {
		return nil
	}
	const id = "cache-to"
	sink(progress.Event{Time: j.env.now(), Kind: progress.Declared, Vertex: id, Name: "sending steps to caches"})
	sink(progress.Event{Time: j.env.now(), Kind: progress.Started, Vertex: id})
	err := j.uploads.Close(ctx, uploadsMost, uploadsGrace)
	j.sendMounts(ctx)
	sink(progress.Event{Time: j.env.now(), Kind: progress.Completed, Vertex: id, Err: err})
	return err
}

// repositories are those that the image is pushed to: a registry may have blobs there.
func (j *job) repositories() []string {
	var list []string
	for _, o := range j.opts.outputs {
		for _, t := range o.tags {
			if repo := t.Context().Name(); o.kind == outputRegistry && !slices.Contains(list, repo) {
				list = append(list, repo)
			}
		}
	}
	return list
}

// openImports opens what --cache-from names.
func (j *job) openImports(warn func(string)) {
	j.imports = &remote.Imports{
		Find: func(diffID v1.Hash) (string, bool) {
			id, err := j.Snapshots.ByDiffID(diffID)
			return string(id), err == nil
		},
		Warn:   warn,
		Budget: lookupBudget, Now: j.env.now,
	}
	for _, c := range j.opts.cacheFrom {
		if c.absent != "" {
			warn(c.absent)
			continue
		}
		b := c.backend(j, warn)
		j.imports.Add(b)
		travel := j.mountTravel(warn)
		travel.From = append(travel.From, b)
	}
	j.Layers.Remote = j.imports.Fetcher(j.registry)
}

// lendCaches has the builder ask, and fill, the caches that there are.
func (j *job) lendCaches(b *builder.Builder) {
	if j.imports != nil {
		b.Others, b.Plain = j.imports, j.imports
	}
	if j.uploads != nil {
		b.Uploads = j.uploads
	}
}

// inline says whether the image carries its cache.
func (o buildOptions) inline() bool {
	return o.inlineCache || slices.ContainsFunc(o.cacheTo, func(c cacheFlag) bool { return c.kind == cacheInline })
}

// keepLayers fetches the layers of an image for the store that only a cache of this command has.
func (j *job) keepLayers(ctx context.Context, results []*builder.Result) error {
	if j.imports == nil || !slices.ContainsFunc(j.opts.outputs, func(o output) bool { return o.kind == outputImage }) {
		return nil
	}
	for _, r := range results {
		for i, l := range r.Image.Layers {
			if l.Repository() != l.Origin {
				var err error
				if r.Image.Layers[i], err = j.Layers.Keep(ctx, l); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// backend opens the back end.
func (c cacheFlag) backend(j *job, warn func(string)) remote.Backend {
	b := c.open(j)
	if c.sign != nil {
		b = remote.Sign(b, c.sign)
	}
	if c.verify != nil {
		b = remote.Verify(b, c.verify, warn)
	}
	return b
}

// travels adds a cache that cache mounts are written to.
func (j *job) travels(c cacheFlag, warn func(string)) {
	if len(c.mounts) == 0 && !c.allMounts {
		return
	}
	open := func() remote.Backend {
		if l, ok := c.open(j).(*remote.Local); ok && l.Reset {
			again := c
			again.open = func(*job) remote.Backend {
				l.Reset = false // what the steps of this build left stays
				return l
			}
			return again.backend(j, warn)
		}
		return c.backend(j, warn)
	}
	j.mountTravel(warn).To = append(j.mounts.To, cachemount.Target{Open: open, IDs: c.mounts, All: c.allMounts, Max: c.mountsMax})
}

// mountTravel returns what takes cache mounts along.
func (j *job) mountTravel(warn func(string)) *cachemount.Travel {
	if j.mounts == nil {
		j.mounts = &cachemount.Travel{Temp: j.temp, UserXattr: j.isolation.UserNS, Warn: warn, Now: j.env.now}
	}
	return j.mounts
}

// sendMounts writes the cache mounts after the build, and not after it was interrupted.
func (j *job) sendMounts(ctx context.Context) {
	if j.mounts != nil && ctx.Err() == nil {
		j.mounts.Export(ctx)
	}
}
