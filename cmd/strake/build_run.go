package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/agent"
	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/builder/fetch"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/builder/solver"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/dockerfile"
)

// minJobs is how many steps run at once at least: steps wait for the network and the disk more than they compute.
const minJobs = 16

// job is one run of strake build: what it opened, and how to close it.
type job struct {
	*session
	opts     buildOptions
	language dockerfile.Options // what build arguments say to the builder
	temp     string             // a folder of its own
	secrets  secrets
	agents   *agent.Agents
	client   *fetch.Client
	in       input
	named    map[string]builder.OpenContext
	imports  *remote.Imports    // nil for none
	uploads  *remote.Uploads    // nil for none
	mounts   *cachemount.Travel // nil for none
	caches   *cachemount.Store
	closers  []func()
}

// runBuild builds an image and puts it where opts say, or answers a --call.
func runBuild(ctx context.Context, env *environment, opts buildOptions) error {
	return withJob(ctx, env, opts, func(j *job) error {
		if opts.call.kind != callBuild {
			return j.call(ctx)
		}
		return j.run(ctx)
	})
}

// withJob opens what a build reads, has do work with it, and closes it.
func withJob(ctx context.Context, env *environment, opts buildOptions, do func(*job) error) (err error) {
	if _, url, err := isURL(opts.context); err != nil {
		return err
	} else if !url && opts.context != "-" {
		// Before anything else is done: this is the most common mistake.
		if _, err := localFolder(opts.context); err != nil {
			return err
		}
	}
	open := env.openLayers
	if opts.call.kind != callBuild {
		open = func(context.Context) (*session, error) { return env.openStore() }
	}
	s, err := open(ctx)
	if err != nil {
		return err
	}
	j := &job{session: s, opts: opts, caches: s.CacheMounts()}
	if opts.call.kind == callBuild && !opts.dry {
		defer func() { err = s.giveBack(ctx, err) }()
		defer s.tidy(ctx, opts, env.now()) // after what is closed below
		defer j.limitMounts(ctx)           // before others may remove cache mounts
	}
	if s.Snapshots != nil {
		j.closers = append(j.closers, s.Snapshots.Close)
	}
	defer j.close()
	if err := j.open(ctx); err != nil {
		return err
	}
	return do(j)
}

// open opens everything that the build reads.
func (j *job) open(ctx context.Context) (err error) {
	// It was read before, and is right.
	if j.language, err = (dockerfile.Settings{BuildArgs: j.opts.buildArgs}).Options(); err != nil {
		return err
	}
	temp, remove, err := j.TempDir()
	if err != nil {
		return err
	}
	j.temp, j.closers = temp, append(j.closers, remove)
	if j.secrets, err = openSecrets(j.env, j.opts.secrets); err != nil {
		return err
	}
	if j.agents, err = openAgents(j.opts.ssh, temp); err != nil {
		return err
	}
	if err := j.openFetch(ctx); err != nil {
		return err
	}
	if j.named, err = j.namedContexts(); err != nil {
		return err
	}
	return j.openInput(ctx)
}

// close closes what was opened, last first.
func (j *job) close() {
	for len(j.closers) > 0 {
		last := len(j.closers) - 1
		j.closers[last]()
		j.closers = j.closers[:last]
	}
}

// run builds and exports.
func (j *job) run(ctx context.Context) error {
	file, err := j.in.parse()
	if err != nil {
		return err
	}
	display := j.env.display(j.opts.progress)
	defer display.Close()
	display.Sink(progress.Event{Time: j.env.now(), Kind: progress.Declared, Name: isolationLine(j.isolation)})
	j.openCaches(ctx, display.Sink)
	results, done, err := j.make(ctx, file, display.Sink)
	if cerr := j.closeCaches(ctx, display.Sink); err == nil {
		err = cerr
	}
	display.Close()
	if err != nil {
		return err
	}
	if err := j.report(results, done); err != nil {
		return err
	}
	return j.verified(results)
}

// make builds and exports.
func (j *job) make(ctx context.Context, file *dockerfile.File, sink progress.Sink) (results []*builder.Result, done v1.Descriptor, err error) {
	began := j.env.now()
	err = builder.WithoutLost(j.imports, func() (err error) {
		if results, err = j.build(ctx, file, sink); err != nil {
			return err
		}
		if err := j.keepLayers(ctx, results); err != nil {
			return err
		}
		// Before an image is named, what it consists of is durable.
		if err := j.syncLayers(j.env.now().Sub(began)); err != nil {
			return err
		}
		done, err = j.export(ctx, results, sink)
		return err
	})
	return results, done, err
}

// display chooses how a build is shown.
func (e *environment) display(progress string) ui.Display {
	switch {
	case progress == "quiet":
		return ui.Quiet(e.stderr)
	case progress == "rawjson":
		return ui.RawJSON(e.stderr)
	case progress != "plain" && isTerminal(e.stderr) && (progress == "tty" || e.getenv("TERM") != "dumb"):
		return ui.TTY(e.stderr, func() int { return width(e.stderr) })
	default:
		return ui.Plain(e.stderr)
	}
}

// build has the builder do the work.
func (j *job) build(ctx context.Context, file *dockerfile.File, sink progress.Sink) (results []*builder.Result, err error) {
	err = j.withBuilder(file, sink, func(b *builder.Builder, opt builder.Options) error {
		results, err = b.BuildPlatforms(ctx, opt, j.opts.platforms)
		return err
	})
	return results, err
}

// withBuilder calls do with a builder and the options of this build.
func (j *job) withBuilder(file *dockerfile.File, sink progress.Sink, do func(*builder.Builder, builder.Options) error) error {
	var records solver.Cache = j.Cache
	if j.opts.noCache {
		records = cache.NoHits{Store: j.Cache}
		if len(j.opts.platforms) > 1 {
			records = cache.NewOwnHits(j.Cache)
		}
	}
	box, err := j.sandbox()
	if err != nil {
		return err
	}
	defer box.Close()
	j.caches.Travel = j.mounts
	b := &builder.Builder{
		Cache: records, Records: j.Cache, Snapshots: j.Snapshots, Layers: j.Layers, Resolver: j.resolver(j.opts.pull),
		Sandbox: box, NoRun: j.isolation.CheckRun(), Mounts: j.caches, Temp: j.temp,
		UserXattr: j.isolation.UserNS, Stubs: j.Path("stubs"), Now: j.env.now,
	}
	j.lendCaches(b)
	if err := os.MkdirAll(b.Mounts.Dir, 0o700); err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	jobs := j.opts.jobs
	if jobs == 0 {
		jobs = max(minJobs, 4*runtime.GOMAXPROCS(0))
	}
	steps := j.opts.steps
	steps.Hostname = j.language.Hostname
	return do(b, builder.Options{
		File: file, Project: j.project(), Context: j.in.tree, ContextTime: j.in.time, Settings: j.settings(j.opts.platforms[0]),
		Labels: j.opts.labels, InlineCache: j.opts.inline(), Jobs: jobs, Progress: sink, FreshStages: j.opts.noCacheFilter, RewriteTimestamps: j.opts.rewrite, ExportEpoch: j.opts.epoch,
		Verify: j.opts.verify != verifyNot, SecretKey: j.secretKey(),
		Fetch: j.client, Secrets: j.secrets, Agents: j.agents, Contexts: j.named, ContextStages: j.contextStages(), Sandbox: steps,
	})
}

// project names the Dockerfile and the context, as they are found.
func (j *job) project() string {
	context, file := j.opts.context, j.in.name
	if _, url, err := isURL(context); err == nil && !url && context != "-" {
		if abs, err := filepath.Abs(context); err == nil {
			context = abs
		}
	}
	return context + "\x00" + file
}

// settings are what the Dockerfile is read with for a platform.
func (j *job) settings(p v1.Platform) dockerfile.Settings {
	s := dockerfile.Settings{
		Target: j.opts.target, BuildArgs: j.opts.buildArgs, Platform: p, PlatformGiven: j.opts.platformGiven,
		Build: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, Ignored: j.in.ignored,
	}
	for _, c := range j.opts.contexts {
		s.Contexts = append(s.Contexts, c.name)
	}
	return s
}
