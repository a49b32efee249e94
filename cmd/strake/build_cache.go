package main

import (
	"context"
	"crypto/ed25519"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/builder/solver"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/image"
)

// cacheType is a kind of place that a cache is in.
type cacheType string

// The types of --cache-from and --cache-to.
const (
	cacheRegistry cacheType = "registry"
	cacheLocal    cacheType = "local"
	cacheInline   cacheType = "inline"
)

// cacheFlag is a value of --cache-from or --cache-to, parsed.
type cacheFlag struct {
	kind cacheType
	to   bool
	// open makes the back end; nil for inline. It does no input or output.
	open       func(j *job) remote.Backend
	repository string // "host/name" of one in a registry
	absent     string // why it is not there; it is told and nothing else
	// verify, of --cache-from, are whose entries are used; nil for everybody's.
	verify []ed25519.PublicKey
	// The following are of --cache-to.
	all     bool // mode=max
	encoder compress.Encoder
	force   bool // force-compression
	strict  bool // ignore-error=false
	sign    ed25519.PrivateKey
	// Cache mounts that are written, and how large one may be.
	mounts    []string
	allMounts bool
	mountsMax int64
}

// attributes are those of a flag that were not taken yet.
type attributes map[string]string

// take returns an attribute, and whether it is given.
func (a attributes) take(k string) (string, bool) {
	v, ok := a[k]
	delete(a, k)
	return v, ok
}

// takeBool takes an attribute that is true or false.
func (a attributes) takeBool(k string, otherwise bool) (bool, error) {
	v, ok := a.take(k)
	if !ok {
		return otherwise, nil
	}
	b, err := strconv.ParseBool(strings.ToLower(v))
	if err != nil {
		return false, fmt.Errorf("%s is true or false", k)
	}
	return b, nil
}

// refusedCacheKeys are attributes that docker has and strake has not, each with what to do instead.
var refusedCacheKeys = map[string]string{
	"registry.insecure": "use the flag --insecure-registry HOST",
	"touch_refresh":     "what is read is not written again; let the bucket's rule drop objects later",
	"repository":        "the token of a job says which repository it is",
	"ghtoken":           "the service is asked so seldom that its limits are not met",
}

// parseCacheFlag reads a value of a flag in docker's syntax: type=TYPE,KEY=VALUE…, or the name of an image.
func parseCacheFlag(env *environment, value string, to bool) (cacheFlag, error) {
	flag := "--cache-from"
	if to {
		flag = "--cache-to"
	}
	invalid := func(format string, args ...any) error {
		return usagef("invalid %s %q: "+format, append([]any{flag, shownCache(value)}, args...)...)
	}
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return cacheFlag{}, invalid("%w", err)
	}
	attrs := attributes{}
	if len(fields) == 1 && !strings.Contains(value, "=") {
		attrs["type"], attrs["ref"] = string(cacheRegistry), value
	} else {
		last := ""
		for _, f := range fields {
			k, v, ok := strings.Cut(f, "=")
			switch {
			case ok:
				last = strings.ToLower(strings.TrimSpace(k))
				attrs[last] = v
			case last == "mounts": // mounts=ID,ID
				attrs[last] += "," + f
			default:
				return cacheFlag{}, invalid("%q is not KEY=VALUE", f)
			}
		}
	}
	kind, _ := attrs.take("type")
	c := cacheFlag{kind: cacheType(kind), to: to}
	if err := c.decide(env, attrs); err != nil {
		return cacheFlag{}, invalid("%w", err)
	}
	if left := slices.Sorted(maps.Keys(attrs)); len(left) > 0 {
		k := left[0]
		if why, ok := refusedCacheKeys[k]; ok {
			return cacheFlag{}, invalid("%s is not supported: %s", k, why)
		}
		return cacheFlag{}, invalid("type=%s has no %s", c.kind, k)
	}
	return c, nil
}

// decide takes the attributes that the type has.
func (c *cacheFlag) decide(env *environment, attrs attributes) (err error) {
	switch c.kind {
	case cacheRegistry:
		err = c.decideRegistry(env, attrs)
	case cacheLocal:
		err = c.decideLocal(env, attrs)
	case cacheHTTP:
		err = c.decideHTTP(env, attrs)
	case cacheS3:
		err = c.decideS3(env, attrs)
	case cacheGHA:
		err = c.decideGHA(env, attrs)
	case cacheInline:
		if !c.to {
			return errors.New("the cache in an image is read with --cache-from NAME")
		}
		if mode, ok := attrs.take("mode"); ok && mode != "min" {
			return fmt.Errorf("mode=%s is not possible: an image holds only its own layers; use type=registry", mode)
		}
		return nil
	case "":
		return errors.New("it has no type")
	default:
		return errors.New("the type is registry, local, http, s3, gha or inline")
	}
	if err == nil && c.to {
		err = c.decideTo(attrs)
	}
	if err == nil && c.to {
		err = c.decideMounts(attrs)
	}
	if err == nil {
		err = c.decideTrust(attrs)
	}
	return err
}

func (c *cacheFlag) decideRegistry(env *environment, attrs attributes) error {
	v, _ := attrs.take("ref")
	if v == "" {
		return errors.New("it needs ref=NAME")
	}
	ref, err := env.registry().ParseReference(v)
	if err != nil {
		return err
	}
	if _, digest := ref.(name.Digest); digest && c.to {
		return errors.New("a cache is written to a tag and not to a digest")
	}
	c.repository = ref.Context().Name()
	c.open = func(j *job) remote.Backend {
		return &remote.Registry{Client: j.registry, Ref: ref, Platforms: j.opts.platforms, From: j.repositories(), Now: j.env.now}
	}
	return nil
}

func (c *cacheFlag) decideLocal(env *environment, attrs attributes) error {
	key := "src"
	if c.to {
		key = "dest"
	}
	dir, _ := attrs.take(key)
	if dir == "" {
		return fmt.Errorf("it needs %s=FOLDER", key)
	}
	l := remote.Local{Dir: dir, Tag: "latest", Now: env.now}
	if tag, ok := attrs.take("tag"); ok {
		l.Tag = tag
	}
	var err error
	if c.to {
		if l.Reset, err = attrs.takeBool("reset", false); err != nil {
			return err
		}
	} else if digest, ok := attrs.take("digest"); ok {
		if l.Digest, err = v1.NewHash(digest); err != nil {
			return fmt.Errorf("digest: %w", err)
		}
	}
	c.open = func(*job) remote.Backend {
		return &remote.Local{Dir: l.Dir, Tag: l.Tag, Digest: l.Digest, Reset: l.Reset, Now: l.Now}
	}
	return nil
}

// decideTo takes the attributes that say how a cache is written.
func (c *cacheFlag) decideTo(attrs attributes) (err error) {
	switch mode, _ := attrs.take("mode"); mode {
	case "", "min":
	case "max":
		c.all = true
	default:
		return errors.New("mode is min or max")
	}
	c.encoder = compress.Gzip.Encoder()
	if v, ok := attrs.take("compression"); ok {
		algorithm, ok := map[string]compress.Algorithm{"gzip": compress.Gzip, "zstd": compress.Zstd, "uncompressed": compress.None}[v]
		if !ok {
			return errors.New("compression is gzip, zstd or uncompressed")
		}
		c.encoder.Algorithm = algorithm
	}
	if v, ok := attrs.take("compression-level"); ok {
		level, err := strconv.Atoi(v)
		if err != nil {
			return errors.New("compression-level is a number")
		}
		c.encoder.Level = &level
	}
	if err := c.encoder.Check(); err != nil {
		return err
	}
	if c.force, err = attrs.takeBool("force-compression", false); err != nil {
		return err
	}
	ignore, err := attrs.takeBool("ignore-error", true)
	if err != nil {
		return err
	}
	c.strict = !ignore
	for _, k := range []string{"image-manifest", "oci-mediatypes"} {
		on, err := attrs.takeBool(k, true)
		if err != nil {
			return err
		}
		if !on {
			return fmt.Errorf("%s=false is not supported: a cache is an OCI image manifest, which all registries take", k)
		}
	}
	return nil
}

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

// others are the caches that the builder asks.
func (j *job) others() solver.Others {
	if j.imports == nil {
		return nil
	}
	return j.imports
}

// plain are the images without a cache that the builder looks into.
func (j *job) plain() builder.Plain {
	if j.imports == nil {
		return nil
	}
	return j.imports
}

// sends is what takes the builder's steps.
func (j *job) sends() builder.Uploads {
	if j.uploads == nil {
		return nil
	}
	return j.uploads
}

// inline says whether the image carries its cache.
func (o buildOptions) inline() bool {
	return o.inlineCache || slices.ContainsFunc(o.cacheTo, func(c cacheFlag) bool { return c.kind == cacheInline })
}

// lost says whether err is that a layer of a cache could not be had, which it then takes out of the cache: another try does without.
func (j *job) lost(err error) bool {
	if j.imports == nil || err == nil {
		return false
	}
	var blob v1.Hash
	var origin *image.OriginError
	var lost *builder.LostError
	switch {
	case errors.As(err, &lost):
		blob = lost.Blob
	case errors.As(err, &origin):
		blob = origin.Blob
	}
	if !j.imports.Lose(blob) {
		return false
	}
	j.imports.Warn("a cached layer cannot be used, so that it is made anew: " + err.Error())
	return true
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

// decideCaches decides where caches are.
func (f *buildFlags) decideCaches(env *environment, opts *buildOptions) error {
	for _, v := range f.cacheFrom {
		c, err := parseCacheFlag(env, v, false)
		if err != nil {
			return err
		}
		opts.cacheFrom = append(opts.cacheFrom, c)
	}
	for _, v := range f.cacheTo {
		c, err := parseCacheFlag(env, v, true)
		if err != nil {
			return err
		}
		opts.cacheTo = append(opts.cacheTo, c)
	}
	return nil
}
