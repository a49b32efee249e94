package main

import (
	"encoding/csv"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/builder/solver"
	"github.com/strake-build/strake/cache/remote"
)

// cacheType is a kind of place that a cache is in.
type cacheType string

// The types of --cache-from and --cache-to.
const (
	cacheRegistry cacheType = "registry"
	cacheInline   cacheType = "inline"
)

// cacheFlag is a value of --cache-from or --cache-to, parsed.
type cacheFlag struct {
	kind cacheType
	to   bool
	ref  name.Reference // registry
	all  bool           // to: mode=max
}

// refusedCacheKeys are attributes that docker has and strake has not, each with what to do instead.
var refusedCacheKeys = map[string]string{
	"registry.insecure": "use the flag --insecure-registry HOST",
}

// parseCacheFlag reads a value of a flag in docker's syntax: type=TYPE,KEY=VALUE…, or the name of an image.
func parseCacheFlag(env *environment, value string, to bool) (cacheFlag, error) {
	flag := "--cache-from"
	if to {
		flag = "--cache-to"
	}
	invalid := func(format string, args ...any) error {
		return usagef("invalid %s %q: "+format, append([]any{flag, value}, args...)...)
	}
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return cacheFlag{}, invalid("%w", err)
	}
	attrs := map[string]string{}
	if len(fields) == 1 && !strings.Contains(value, "=") {
		attrs["type"], attrs["ref"] = string(cacheRegistry), value
	} else {
		for _, f := range fields {
			k, v, ok := strings.Cut(f, "=")
			if !ok {
				return cacheFlag{}, invalid("%q is not KEY=VALUE", f)
			}
			attrs[strings.ToLower(strings.TrimSpace(k))] = v
		}
	}
	c := cacheFlag{kind: cacheType(attrs["type"]), to: to}
	delete(attrs, "type")
	if err := c.decide(env, attrs, invalid); err != nil {
		return cacheFlag{}, err
	}
	for _, k := range sortedKeys(attrs) {
		if why, ok := refusedCacheKeys[k]; ok {
			return cacheFlag{}, invalid("%s is not supported: %s", k, why)
		}
		return cacheFlag{}, invalid("type=%s has no %s", c.kind, k)
	}
	return c, nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// decide takes the attributes that the type has.
func (c *cacheFlag) decide(env *environment, attrs map[string]string, invalid func(string, ...any) error) (err error) {
	take := func(k string) (string, bool) {
		v, ok := attrs[k]
		delete(attrs, k)
		return v, ok
	}
	switch c.kind {
	case cacheRegistry:
		ref, _ := take("ref")
		if ref == "" {
			return invalid("it needs ref=NAME")
		}
		if c.ref, err = env.registry().ParseReference(ref); err != nil {
			return invalid("%w", err)
		}
		if _, digest := c.ref.(name.Digest); digest && c.to {
			return invalid("a cache is written to a tag and not to a digest")
		}
	case cacheInline:
		if !c.to {
			return invalid("the cache in an image is read with --cache-from NAME")
		}
		if mode, ok := take("mode"); ok && mode != "min" {
			return invalid("mode=%s is not possible: an image holds only its own layers; use type=registry", mode)
		}
	case "":
		return invalid("it has no type")
	default:
		return invalid("the type is registry or inline")
	}
	if c.to && c.kind != cacheInline {
		return invalid("only type=inline can be written yet")
	}
	return nil
}

// lookupBudget bounds what a build waits for the answers of one cache.
const lookupBudget = 15 * time.Second

// openCaches opens what --cache-from names.
func (j *job) openCaches(sink progress.Sink) {
	if j.opts.noCache || len(j.opts.cacheFrom) == 0 {
		return
	}
	j.imports = &remote.Imports{
		Find: func(diffID v1.Hash) (string, bool) {
			id, err := j.snapshots.ByDiffID(diffID)
			return string(id), err == nil
		},
		Warn:   func(text string) { sink(progress.Event{Time: j.env.now(), Kind: progress.Warned, Data: []byte(text)}) },
		Budget: lookupBudget, Now: j.env.now,
	}
	for _, c := range j.opts.cacheFrom {
		j.imports.Add(&remote.Registry{Client: j.registry, Ref: c.ref, Platforms: j.opts.platforms, Now: j.env.now})
	}
	j.layers.Remote = j.imports.Fetcher(j.registry)
}

// others are the caches that the builder asks.
func (j *job) others() solver.Others {
	if j.imports == nil {
		return nil
	}
	return j.imports
}

// inline says whether the image carries its cache.
func (o buildOptions) inline() bool {
	return o.inlineCache || slices.ContainsFunc(o.cacheTo, func(c cacheFlag) bool { return c.kind == cacheInline })
}

// lost says whether err is that a layer of a cache could not be had, which it then takes out of the cache: another try does without.
func (j *job) lost(err error) bool {
	var lost *builder.LostError
	if j.imports == nil || !errors.As(err, &lost) || !j.imports.Lose(lost.Blob) {
		return false
	}
	j.imports.Warn("a cached layer cannot be used, the steps above it are looked at again: " + lost.Err.Error())
	return true
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
